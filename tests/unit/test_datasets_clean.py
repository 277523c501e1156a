"""Cleaning finds what was spoilt, and nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.cli.main import main
from models.datasets.clean import Cleaned, Rules, clean
from models.datasets.clean_report import as_html
from models.datasets.collection import Collection
from models.datasets.manifest import read_manifest
from models.datasets.protocol import Box, Item
from models.datasets.source import open_dataset
from models.datasets.survey import survey
from tests.dimse import until
from tests.pictures import lungs, noise, picture, radiograph, volume


def items_of(folder: Path, count: int) -> list[Item]:
    return [Item(f"i{n}", f"s{n}", (picture(folder / f"i{n}.png", noise(n)),)) for n in range(count)]


def cleaned(items: list[Item], rules: Rules | None = None, parts: dict[str, str] | None = None, classes: tuple[str, ...] = ()) -> Cleaned:
    whole = Collection("made", "none", classes, tuple(items))
    return clean(whole, survey(whole, classes=len(classes) or None), rules, parts)


def told(found: Cleaned) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(each.kind, each.items, each.left_out) for each in found.findings]


def test_sound_data_has_no_findings(tmp_path: Path) -> None:
    found = cleaned(items_of(tmp_path, 12))
    assert told(found) == []
    assert len(found.kept) == 12


def test_unreadable_and_blank_images_are_left_out(tmp_path: Path) -> None:
    items = items_of(tmp_path, 5)
    items[0].image[0].write_bytes(b"\x89PNG no more")
    picture(items[1].image[0], np.full((40, 48), 7, np.uint8))
    almost = np.full((400, 480), 7, np.uint8)
    almost[0, :5] = 200
    picture(items[2].image[0], almost)
    found = cleaned(items)
    assert told(found) == [("unreadable", ("i0",), ("i0",)), ("blank", ("i1",), ("i1",)), ("blank", ("i2",), ("i2",))]
    assert found.findings[0].where.endswith("i0.png")
    assert found.kept == ("i3", "i4")


def test_the_same_pixels_twice(tmp_path: Path) -> None:
    first, other, third, fourth = items_of(tmp_path, 4)
    Image.open(first.image[0]).save(tmp_path / "copy.tif")  # other bytes, the same pixels
    copy = Item("copy", "s0", (tmp_path / "copy.tif",))
    found = cleaned([first, other, third, fourth, copy])
    assert told(found) == [("exact-duplicate", ("i0", "copy"), ("copy",))]
    sick = Item("copy", "s9", (tmp_path / "copy.tif",), labels={"Mass": 1.0})
    well = Item("i0", "s0", first.image, labels={"Mass": 0.0})
    found = cleaned([well, other, third, fourth, sick])
    assert told(found) == [("label-conflict", ("i0", "copy"), ("i0", "copy"))]
    assert found.findings[0].reason == "2 items of 2 subjects have the same pixels and different labels (Mass)"
    assert cleaned([well, sick], Rules(leave_out=frozenset())).kept == ("i0", "copy")


def test_leaks_between_parts(tmp_path: Path) -> None:
    items = items_of(tmp_path, 4)
    items.append(Item("again", "s0", (picture(tmp_path / "again.png", noise(77)),)))
    Image.open(items[1].image[0]).save(tmp_path / "copy.tif")
    items.append(Item("copy", "other", (tmp_path / "copy.tif",)))
    found = cleaned(items, parts={"i0": "train", "again": "test", "i1": "train", "copy": "test", "i2": "train"})
    leaks = [(each.items, each.reason) for each in found.findings if each.kind == "leak"]
    assert leaks == [
        (("i0", "again"), "a subject is in 2 parts: 1 in test, 1 in train"),
        (("i1", "copy"), "the same picture is in train and, as copy, in test"),
    ]


def test_modality_kind_and_colour(tmp_path: Path) -> None:
    items = [Item(f"i{n}", f"s{n}", (radiograph(tmp_path / f"i{n}.dcm", noise(n)),)) for n in range(20)]
    items[3] = Item("i3", "s3", (radiograph(tmp_path / "i3.dcm", noise(3), Modality="DX"),))
    items[4] = Item("i4", "s4", (volume(tmp_path / "i4.nii", noise(4, (10, 10, 10))),))
    found = cleaned(items)
    assert [(each.kind, each.items, each.reason) for each in found.findings] == [
        ("wrong-kind", ("i3",), "its modality is DX, not CR"),
        ("wrong-kind", ("i4",), "it is a volume; nearly all others are pictures"),
    ]
    assert "i3" in cleaned(items, Rules(modalities=("CR", "DX"))).kept


def test_clipped_images_and_other_scales(tmp_path: Path) -> None:
    items = [Item(f"i{n}", f"s{n}", (volume(tmp_path / f"i{n}.nii.gz", noise(n, (16, 16, 8)).astype(np.float32)),)) for n in range(6)]
    volume(items[1].image[0], np.minimum(noise(1, (16, 16, 8)), 90))
    volume(items[2].image[0], noise(2, (16, 16, 8)).astype(np.float32) * 1e4)
    assert told(cleaned(items)) == [("clipped", ("i1",), ()), ("other-scale", ("i2",), ())]


def test_volumes_with_other_axes(tmp_path: Path) -> None:
    items = [Item(f"i{n}", f"s{n}", (volume(tmp_path / f"i{n}.nii.gz", noise(n, (16, 16, 8))),)) for n in range(12)]
    volume(items[5].image[0], noise(5, (16, 16, 8)), (-1.0, 1.0, 2.0))
    found = cleaned(items)
    assert [(each.kind, each.reason) for each in found.findings] == [
        ("orientation", "its axes point to LAS, those of nearly all others to RAS")
    ]


def test_masks_and_boxes(tmp_path: Path) -> None:
    mask, empty = np.zeros((40, 48), np.uint8), np.zeros((40, 48), np.uint8)
    mask[5:20, 5:20] = 1
    items = items_of(tmp_path, 3)
    one = Item("i0", "s0", items[0].image, picture(tmp_path / "m0.png", empty))
    two = Item("i1", "s1", items[1].image, picture(tmp_path / "m1.png", mask))
    found = cleaned([one, two], classes=("heart", "lung"))
    assert [(each.items, each.reason) for each in found.findings] == [
        (("i0",), "the mask is empty"),
        (("i1",), "the mask has no lung"),
    ]
    boxes = (Box("cell", 0, 0, 48, 40), Box("cell", 1, 1, 2, 9), Box("cell", 40, 1, 49, 9))
    found = cleaned([Item("i2", "s2", items[2].image, labels={"cell": 0.0}, boxes=boxes)])
    assert [each.kind for each in found.findings] == ["label-conflict", "box-outside", "small-box"]
    assert "box 3 (cell, 40, 1 to 49, 9) is outside of the image of 48x40 pixels" in [each.reason for each in found.findings]


def test_a_subject_with_two_sexes(tmp_path: Path) -> None:
    items = [Item(each.id, "s", each.image, attributes={"sex": sex}) for each, sex in zip(items_of(tmp_path, 2), "FM", strict=True)]
    assert told(cleaned(items)) == [("subject-conflict", ("i0", "i1"), ())]


def test_clean_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = lungs(tmp_path / "lungs", 6)
    (root / "images" / "film_004_0_0.png").write_bytes((root / "images" / "film_002_0_0.png").read_bytes())
    (root / "labels" / "film_004_0_0.png").write_bytes((root / "labels" / "film_002_0_0.png").read_bytes())
    (root / "images" / "film_001_0_1.png").write_bytes(b"<script>")
    before = {path: path.read_bytes() for path in root.rglob("*.png")}
    out = tmp_path / "out"
    assert main(["data", "clean", "--data", f"pairs:{root}?classes=lung", "--out", str(out)]) == 0
    assert "4 of 6 items kept" in capsys.readouterr().out
    assert [item.id for item in read_manifest(out / "cleaned.jsonl")] == ["film_000_0_0", "film_002_0_0", "film_003_0_1", "film_005_0_1"]
    assert json.loads((out / "clean.json").read_text())["counts"] == {"unreadable": 1, "exact-duplicate": 1}
    assert (out / "clean.html").read_text().count("<img ") == 2
    assert {path: path.read_bytes() for path in root.rglob("*.png")} == before
    assert main(["data", "clean", "--data", f"pairs:{root}", "--out", str(out), "--drop", "ugly"]) == 2
    assert main(["data", "clean", "--data", f"pairs:{root}?classes=lung", "--out", str(out), "--keep", "exact-duplicate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 5


def test_the_page_escapes_what_it_shows(tmp_path: Path) -> None:
    item = Item("<b>", "s", (picture(tmp_path / "x.png", np.zeros((9, 9), np.uint8)),))
    whole = Collection("<script>", "none", (), (item,))
    page = as_html(whole, clean(whole, survey(whole)))
    assert "<script>" not in page
    assert "<b>" not in page


@pytest.mark.real_data
def test_spoilt_chest_films_are_found_among_real_ones(real_data: Path, tmp_path: Path) -> None:
    films = list(open_dataset(f"table:{real_data / 'cxr-nih' / 'labels.csv'}"))[:60]
    items = [Item(film.id, film.subject, film.image) for film in films]

    def spoilt(name: str, image: Image.Image, **options: object) -> None:
        image.save(tmp_path / name, **options)
        items.append(Item(name, name, (tmp_path / name,)))

    opened = [Image.open(film.image[0]).convert("L") for film in films]
    spoilt("compressed.jpg", opened[0], quality=30)
    spoilt("smaller.png", opened[1].resize((300, 300)))
    spoilt("brighter.png", opened[2].point(lambda value: min(255, int(value * 0.8 + 30))))
    spoilt("cut.png", opened[3].crop((5, 5, 507, 507)))
    spoilt("upside-down.png", opened[4].rotate(180))
    spoilt("turned.png", opened[5].transpose(Image.Transpose.ROTATE_90))
    spoilt("inverted.png", opened[6].point(lambda value: 255 - value))
    found = cleaned(items)
    near = {each.items for each in found.findings if each.kind == "near-duplicate"}
    assert near == {(films[0].id, "compressed.jpg"), (films[1].id, "smaller.png"), (films[2].id, "brighter.png"), (films[3].id, "cut.png")}
    assert {each.items[0] for each in found.findings if each.kind == "orientation"} == {"upside-down.png", "turned.png", "inverted.png"}


def test_an_interrupted_cleaning_leaves_no_manifest_that_would_pass_for_clean(tmp_path: Path) -> None:
    root, out = lungs(tmp_path / "lungs", 60), tmp_path / "out"
    command = [sys.executable, "-m", "dicom_node", "data", "clean", "--data", f"pairs:{root}?classes=lung", "--out", str(out)]
    # The first look is awaited; the others take long enough, by the size of their images, for the signal to come in between.
    large = picture(tmp_path / "large.png", np.tile(noise(1), (50, 50)))
    mask = picture(tmp_path / "mask.png", np.ones((2000, 2400), np.uint8))
    for path in sorted((root / "images").iterdir())[1:]:
        for big, small in ((large, path), (mask, root / "labels" / path.name)):
            small.unlink()
            small.hardlink_to(big)
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it, and a child would too
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, kept)
    until(lambda: (out / "survey.jsonl").exists(), 60)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "the same command goes on from there" in said
    assert "wrote" in printed
    assert {path.name for path in out.iterdir()} == {"clean.html", "clean.json", "survey.jsonl"}
    assert json.loads((out / "clean.json").read_text())["looked_at"] < 60
