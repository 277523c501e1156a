"""One look at every image: statistics, the fingerprint, the description and the contact sheet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.cli.main import main
from models.datasets.collection import Collection
from models.datasets.describe import describe
from models.datasets.fingerprint import Fingerprint, fingerprint
from models.datasets.icon import likeness, perceptual_hash
from models.datasets.pairs import Pairs, read_pairs
from models.datasets.protocol import Item
from models.datasets.sheet import CELL, contact_sheet
from models.datasets.statistics import image_numbers, volume_numbers
from models.datasets.survey import survey
from models.volume import read_volume
from tests.pictures import lungs, noise, picture, radiograph, volume

LUNG = Pairs(classes=("lung",), name=r"(?P<subject>film_\d+)_\d_(?P<state>[01])")


def test_numbers_of_an_image() -> None:
    values = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    numbers = image_numbers(values, (0.5, 0.25))
    assert (numbers["size.x"], numbers["size.y"], numbers["spacing.x"], numbers["spacing.y"]) == (4, 6, 0.5, 0.25)
    assert numbers["intensity.p50"] == np.median(values)
    assert (numbers["intensity.p00"], numbers["intensity.p100"]) == (0, 23)
    assert numbers["at_maximum"] == pytest.approx(1 / 24)
    assert "size.z" not in numbers


def test_training_data_and_what_arrives_are_described_alike(tmp_path: Path) -> None:
    path = radiograph(tmp_path / "a.dcm", noise(3), PixelSpacing=[0.2, 0.3], SOPClassUID="1.2.840.10008.5.1.4.1.1.1")
    item = Item("a", "s", (path,))
    assert survey([item])["a"].numbers == volume_numbers(read_volume([path], dimensions=2))
    assert survey([item])["a"].words["view"] == "PA"


def test_the_fingerprint_is_of_contents_and_not_of_places(tmp_path: Path) -> None:
    first = fingerprint(read_pairs(lungs(tmp_path / "one", 6), LUNG))
    moved = read_pairs(lungs(tmp_path / "two", 6), LUNG)
    assert fingerprint(reversed(moved.items)).digest == first.digest
    assert Fingerprint.from_json(first.to_json()) == first
    assert first.items == first.subjects == first.numbers["size.x"].count == 6
    picture(moved.items[0].image[0], noise(99))
    assert fingerprint(moved).digest != first.digest
    with pytest.raises(ValueError, match="fingerprint"):
        Fingerprint.from_json("{}")


def test_an_interrupted_survey_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, journal = read_pairs(lungs(tmp_path / "lungs", 6), LUNG), tmp_path / "out" / "survey.jsonl"

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey(whole, journal=journal, progress=stop)
    assert len(journal.read_text().splitlines()) == 4
    journal.write_bytes(journal.read_bytes()[:-20])  # and the last line is torn
    picture(whole.items[0].image[0], noise(99))
    looks = survey(whole, journal=journal)
    assert len(journal.read_text().splitlines()) == 4 + 4  # three unread, one torn, one changed; the torn line stays
    assert looks == survey(whole, journal=journal)
    assert list(looks) == [item.id for item in whole]


def test_perceptual_hashes_of_alike_and_of_different_pictures() -> None:
    one, other = noise(1, (32, 32)), noise(2, (32, 32))
    brighter = np.clip(one.astype(int) * 0.9 + 15, 0, 255).astype(np.uint8)
    assert (perceptual_hash(one) ^ perceptual_hash(brighter)).bit_count() <= 3
    assert (perceptual_hash(one) ^ perceptual_hash(other)).bit_count() > 12
    assert likeness(one.astype(np.float32), brighter.astype(np.float32)) > 0.99
    assert likeness(one.astype(np.float32), np.zeros((32, 32), np.float32)) == 0


def test_a_description_of_masks(tmp_path: Path) -> None:
    lungs(tmp_path, 6, per_subject=2)
    picture(tmp_path / "labels" / "film_002_1_1.png", np.zeros((40, 48), np.uint8))
    (tmp_path / "images" / "film_000_0_0.png").write_bytes(b"broken")
    whole = read_pairs(tmp_path, LUNG)
    found = describe(whole, survey(whole, classes=1), {item.id: "train" for item in whole})
    assert (found.items, found.subjects, found.looked_at, found.items_per_subject) == (6, 3, 6, (2, 2.0, 2))
    assert [(each.where.rsplit("/")[-1], each.reason) for each in found.unreadable] == [
        ("film_000_0_0.png", "cannot be read (UnidentifiedImageError)")
    ]
    (lung,) = found.balance
    assert (lung.items, lung.without, lung.unit) == (4, 1, "px")
    assert [(each.value, each.items) for each in found.groups["state"]] == [("0", 3), ("1", 3)]
    assert [(each.value, each.labels) for each in found.parts["part"]] == [("train", {"lung": 4})]
    assert "1 masks are empty" in found.concerns
    assert "1 items cannot be read" in found.concerns


def test_volumes_are_described_in_ml(tmp_path: Path) -> None:
    mask = np.zeros((10, 12, 14), np.uint8)
    mask[:5, :5, :4] = 1
    for name in "ab":
        volume(tmp_path / "images" / f"{name}.nii.gz", noise(ord(name), (10, 12, 14)))
        volume(tmp_path / "labels" / f"{name}.nii.gz", mask)
    whole = read_pairs(tmp_path, Pairs(classes=("left", "right")))
    found = describe(whole, survey(whole, classes=2))
    assert found.balance[0].size == pytest.approx((0.2, 0.2, 0.2))
    assert found.balance[0].unit == "ml"
    assert found.fingerprint.numbers["spacing.z"].mean == 2.0
    assert "the class right has no example" in found.concerns
    assert "2 subjects: training, validation and test by subject need three or more" in found.concerns


def test_a_contact_sheet_shows_the_outline_and_what_cannot_be_read(tmp_path: Path) -> None:
    whole = read_pairs(lungs(tmp_path, 3), LUNG)
    whole.items[2].image[0].write_bytes(b"broken")
    sheet = Image.open(io.BytesIO(contact_sheet(whole.items, whole.classes, columns=3)))
    assert sheet.size[0] == 3 * CELL
    colours = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert (80, 200, 255) in colours
    assert any(red - green > 60 for red, green, _ in colours)  # the reason, in red and smoothed


def test_a_volume_is_shown_with_anterior_at_the_top(tmp_path: Path) -> None:
    values = np.zeros((20, 20, 4), np.uint8)
    values[:, 15:, :] = 200  # y points to anterior in NIfTI
    item = Item("v", "s", (volume(tmp_path / "v.nii", values, (1.0, 1.0, 1.0)),))
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet([item], (), columns=1))).convert("L"), dtype=float)
    assert sheet[10:30, 40:130].mean() > 200
    assert sheet[120:160, 40:130].mean() < 20


def test_describe_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lungs(tmp_path / "lungs", 4)
    (tmp_path / "lungs" / "labels" / "film_003_0_1.png").unlink()
    out = tmp_path / "out"
    word = f"pairs:{tmp_path / 'lungs'}?classes=lung"
    assert main(["data", "describe", "--data", word, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "3 items of 3 subjects" in printed.out
    assert "there is no mask for it" in printed.err
    assert {path.name for path in out.iterdir()} == {"description.json", "fingerprint.json", "contact-sheet.png", "survey.jsonl"}
    assert main(["data", "describe", "--data", word, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "description.json").read_text())
    assert main(["data", "describe", "--data", "pairs:/nowhere"]) == 1
    assert "there is no such folder" in capsys.readouterr().err


def test_split_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word = f"pairs:{lungs(tmp_path / 'lungs', 12)}?classes=lung"
    split = tmp_path / "split.json"
    assert main(["data", "split", "--data", word, "--out", str(split), "--fractions", "0.5,0.25,0.25", "--stratify-by", "mask"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == ["train\t6\t6", "validation\t3\t3", "test\t3\t3"]
    assert main(["data", "split", "--data", word, "--out", str(split), "--stated"]) == 1
    assert main(["data", "split", "--data", word, "--out", str(split), "--fractions", "0.5"]) == 2


def test_nothing_about_an_empty_collection_divides_by_zero() -> None:
    found = describe(Collection("none", "classification", ("a",), ()), {})
    assert found.items == 0
    assert "the class a has no example" in found.concerns


def test_words_that_name_items_one_by_one_are_no_part_of_a_fingerprint(tmp_path: Path) -> None:
    path = (picture(tmp_path / "a.png", noise(1)),)
    items = [Item(f"i{n}", f"s{n}", path, attributes={"bed": f"bed {n}", "site": f"site {n % 2}"}) for n in range(70)]
    assert fingerprint(items).words == {"photometric_interpretation": {"MONOCHROME2": 70}, "site": {"site 0": 35, "site 1": 35}}


def test_no_value_of_a_broken_header_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    path = radiograph(tmp_path / "images" / "a.dcm", noise(1), patient="ID-4711")
    broken = path.read_bytes().replace(b"061Y", b"Jane").replace(b"CR", b"c!")
    path.write_bytes(broken)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = read_pairs(tmp_path, Pairs(labelled=False))
        survey(found)
    assert [str(each.message) for each in told if "Jane" in str(each.message) or "c!" in str(each.message)] == []
    assert "ID-4711" not in repr(found.items) + repr(found.skipped)
