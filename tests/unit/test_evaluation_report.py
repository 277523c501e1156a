"""Evaluating real bundles on files: the numbers, what is left out and why, the JSON that gates read, the page, and the command."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from PIL import Image

from dicom_node.cli.main import main
from dicom_node.releases.report import read_report
from models.bundle import load_bundle
from models.datasets.collection import Collection
from models.datasets.loading import Sample, load
from models.datasets.protocol import Box, Item
from models.datasets.splits import Leak
from models.evaluation.evaluate import Options, Report, evaluate
from models.evaluation.gallery import Gallery
from models.evaluation.page import page, write_page
from models.evaluation.protocol import Answer, Case, EvaluationImpossible
from models.evaluation.report import as_json, write_items, write_json
from tests.imaging import as_file, series
from tests.planar_bundle import planar_bundle, shadows
from tests.tiny_bundle import THRESHOLD, tiny_bundle

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
QUICK = Options(replicates=200, worst=3)


def nifti(path: Path, values: NDArray[Any]) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)  # type: ignore[no-untyped-call]
    return path


def head(folder: Path, name: str, shift: int = 0, *, empty: bool = False) -> Item:
    """A bright block, which the tiny bundle finds, and a reference ``shift`` voxels beside it."""
    image, mask = np.zeros((16, 16, 8), np.int16), np.zeros((16, 16, 8), np.uint8)
    if not empty:
        image[4:10, 4:10, 2:6] = THRESHOLD + 500
        mask[4 + shift : 10 + shift, 4:10, 2:6] = 1
    files = nifti(folder / f"{name}.nii.gz", image), nifti(folder / f"{name}_mask.nii.gz", mask)
    return Item(name, name, (files[0],), files[1], attributes={"sex": "F" if shift else "M", "age": 30.0 + shift})


def heads(folder: Path) -> Collection:
    items = [head(folder, f"h{number:02d}", number % 3) for number in range(12)]
    return Collection("heads", "segmentation", ("Bright",), tuple(items))


def test_a_bundle_is_measured_through_the_path_that_serves_it(tmp_path: Path) -> None:
    dataset = heads(tmp_path)
    report = evaluate(load_bundle(tiny_bundle(tmp_path)), dataset, None, options=QUICK)
    expected = [1.0, 2 * 5 / 12, 2 * 4 / 12]
    assert report.figures["dice.bright"].value == pytest.approx(np.mean(expected), abs=1e-6)
    assert report.figures["hd95.bright"].value == pytest.approx(1.0)  # 0, 1 and 2 mm
    assert report.figures["volume_bias.bright"].value == pytest.approx(0.0)
    assert report.figures["coverage"].value == 1.0
    low, high = report.figures["dice.bright"].low, report.figures["dice.bright"].high
    assert low is not None
    assert high is not None
    assert low < np.mean(expected) < high
    assert [each.case for each in report.gallery] == ["h02", "h05", "h08"]
    assert set(report.subgroups) == {"sex"}  # all ages are in one band
    again = evaluate(load_bundle(tmp_path / "tiny"), dataset, None, options=QUICK)
    assert (again.figures, again.gaps, again.data) == (report.figures, report.gaps, report.data)


def test_left_handed_and_turned_files_meet_their_masks(tmp_path: Path) -> None:
    item = head(tmp_path, "turned", 1)
    for path in (*item.image, item.mask):
        assert path is not None
        image: Any = nibabel.load(path)
        turned = nibabel.Nifti1Image(np.asarray(image.dataobj), np.array([[0, -1.0, 0, 5], [1.0, 0, 0, -7], [0, 0, 2.0, 3], [0, 0, 0, 1]]))
        nibabel.save(turned, path)  # type: ignore[no-untyped-call]
    dataset = Collection("turned", "segmentation", ("Bright",), (item,))
    report = evaluate(load_bundle(tiny_bundle(tmp_path)), dataset, None, options=QUICK)
    assert report.figures["dice.bright"].value == pytest.approx(10 / 12, abs=1e-6)
    assert report.figures["dice.bright"].low is None
    assert "One subject only" in " ".join(report.notes)


def test_dicom_series_are_read_as_serving_reads_them(tmp_path: Path) -> None:
    values = np.zeros((6, 12, 10), np.int16)
    values[1:4, 2:9, 3:8] = THRESHOLD + 500
    names = []
    for number, image in enumerate(series(values, step=-1.5)):  # against the normal: the volume turns them round
        names.append(tmp_path / f"{number}.dcm")
        names[-1].write_bytes(as_file(image).getvalue())
    mask = np.zeros((10, 12, 6), np.uint8)
    mask[3:8, 2:9, 2:5] = 1
    item = Item("mr", "p", tuple(names), nifti(tmp_path / "mask.nii.gz", mask))
    report = evaluate(load_bundle(tiny_bundle(tmp_path)), Collection("mr", "segmentation", ("Bright",), (item,)), None, options=QUICK)
    assert report.figures["dice.bright"].value == pytest.approx(1.0)
    assert report.measured.cases[0].values["reference.bright"] == pytest.approx(3 * 7 * 5 * 0.8 * 0.7 * 1.5 / 1000)


def test_what_cannot_be_used_or_gets_no_answer_is_said(tmp_path: Path) -> None:
    dataset = heads(tmp_path)
    broken = head(tmp_path, "broken")
    broken.image[0].write_bytes(broken.image[0].read_bytes()[:100])
    beyond = head(tmp_path, "beyond")
    nifti(beyond.mask or Path(), np.full((16, 16, 8), 2, np.uint8))
    small = head(tmp_path, "small")
    nifti(small.mask or Path(), np.zeros((8, 8, 8), np.uint8))
    nan = head(tmp_path, "nan")
    nifti(nan.image[0], np.full((16, 16, 8), np.nan, np.float32))
    bare = Item("bare", "bare", dataset.items[0].image)
    other = head(tmp_path, "sagittal")
    dataset = Collection("heads", "segmentation", ("Bright",), (*dataset.items, broken, beyond, small, nan, bare, other))
    root = tiny_bundle(tmp_path)
    text = (root / "dicom.toml").read_text()
    (root / "dicom.toml").write_text(text + "\n[geometry]\nmax_spacing = 2.5\n")
    coarse = nibabel.Nifti1Image(np.asarray(nibabel.load(other.image[0]).dataobj), np.diag([1.0, 1.0, 4.0, 1.0]))  # type: ignore[attr-defined]
    nibabel.save(coarse, other.image[0])  # type: ignore[no-untyped-call]
    report = evaluate(load_bundle(root), dataset, None, options=QUICK)
    reasons = {each.row: each.reason for each in report.measured.skipped}
    assert set(reasons) == {"broken", "beyond", "small", "nan", "bare"}
    assert "labels end at 1" in reasons["beyond"]
    assert "another size" in reasons["small"]
    assert "not finite" in reasons["nan"]
    (silent,) = report.unanswered
    assert silent.id == "sagittal"
    assert "4.0 mm" in (silent.reason or "")
    assert silent.values["dice.bright"] == 0.0
    assert report.figures["coverage"].value == pytest.approx(12 / 13)
    shown = page(report)
    for item in (*reasons, "sagittal"):
        assert item in shown
    assert "The model gave no answer for 1 item: each counts as if it had found nothing." in report.notes


@pytest.mark.parametrize(("right", "front"), [(1.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)])
def test_pictures_hang_with_the_front_above_and_the_patients_right_on_the_left(right: float, front: float) -> None:
    """A bright corner at the patient's front right is found in the picture's upper left, whatever the order in the file."""
    values = torch.zeros(1, 8, 8, 3)
    values[0, -2 if right > 0 else 1, -2 if front > 0 else 1] = 100.0
    sample = Sample(MetaTensor(values, affine=torch.diag(torch.tensor([right, front, 1.0, 1.0], dtype=torch.float64))))
    gallery = Gallery("segmentation", ("A",), 1)
    wanted = np.zeros((3, 8, 8), bool)
    picture = gallery.see(Case("1", "1", values={"dice.a": 0.5}), sample, Answer(), {"A": wanted})
    assert picture is not None
    shown = np.asarray(Image.open(BytesIO(picture.png)).convert("L"))
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert row < shown.shape[0] / 2
    assert column < shown.shape[1] / 2


def test_structures_that_are_absent_are_said(tmp_path: Path) -> None:
    items = (head(tmp_path, "a"), head(tmp_path, "b", empty=True))
    report = evaluate(load_bundle(tiny_bundle(tmp_path)), Collection("two", "segmentation", ("Bright",), items), None, options=QUICK)
    assert (report.figures["dice.bright"].value, report.figures["dice.bright"].n) == (1.0, 1)
    assert any("absent in reference and answer of 1 item" in note for note in report.notes)


def test_it_is_refused_with_a_reason(tmp_path: Path) -> None:
    bundle, dataset = load_bundle(tiny_bundle(tmp_path)), heads(tmp_path)
    with pytest.raises(EvaluationImpossible, match="nothing in the split 'test'"):
        evaluate(bundle, dataset, {item.id: "train" for item in dataset})
    with pytest.raises(EvaluationImpossible, match="no class of the data"):
        evaluate(bundle, Collection("x", "segmentation", ("A", "B"), dataset.items), None)
    with pytest.raises(EvaluationImpossible, match="same name"):
        evaluate(bundle, Collection("x", "segmentation", ("Bright", "bright "), dataset.items), None)
    with pytest.raises(EvaluationImpossible, match="made for something else"):
        evaluate(bundle, Collection("x", "detection", ("Bright",), dataset.items), None)
    with pytest.raises(EvaluationImpossible, match="for classifications only"):
        evaluate(bundle, dataset, None, options=Options(threshold="youden"))
    twins = tuple(Item(each.id, "one", each.image, each.mask) for each in dataset.items[:2])
    with pytest.raises(Leak):
        evaluate(bundle, Collection("x", "segmentation", ("Bright",), twins), {"h00": "test", "h01": "train"})
    for item in dataset.items:
        item.image[0].unlink()
    with pytest.raises(EvaluationImpossible, match=r"no item of the split could be read: .*h00\.nii\.gz: there is no such file"):
        evaluate(bundle, dataset, None, options=QUICK)


def test_an_evaluation_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    dataset, bundle = heads(tmp_path), load_bundle(tiny_bundle(tmp_path))
    dataset.items[1].image[0].write_bytes(b"nothing")
    whole = evaluate(bundle, dataset, None, options=QUICK)

    def kill(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(bundle, dataset, None, options=replace(QUICK, journal=tmp_path, progress=kill))
    (kept,) = tmp_path.glob(".measured-*.jsonl")
    kept.write_bytes(kept.read_bytes()[:-20])  # the last line is torn: that item is measured again
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.evaluation.run.load", lambda item, classes=None: asked.append(item.id) or load(item, classes=classes))
        resumed = evaluate(bundle, dataset, None, options=replace(QUICK, journal=tmp_path))
    assert asked == [item.id for item in dataset.items[6:]]
    assert (resumed.figures, resumed.gallery, resumed.measured) == (whole.figures, whole.gallery, whole.measured)
    assert resumed.measured.cases == whole.measured.cases

    nifti(dataset.items[0].image[0], np.zeros((16, 16, 8), np.int16))
    changed = evaluate(bundle, dataset, None, options=replace(QUICK, journal=tmp_path))  # other data: nothing kept is used
    assert changed.measured.cases[0].values["dice.bright"] == 0.0


def test_a_missing_library_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.evaluation.evaluate.find_spec", lambda name: None)
    with pytest.raises(EvaluationImpossible, match=r"needs sklearn and matplotlib: pip install 'dicom-node\[training\]'"):
        evaluate(load_bundle(tiny_bundle(tmp_path)), heads(tmp_path), None)


def test_two_models_are_compared_on_the_same_items(tmp_path: Path) -> None:
    dataset = heads(tmp_path)
    root = tiny_bundle(tmp_path, name="other")
    config = json.loads((root / "configs" / "inference.json").read_text())
    config["postprocessing"]["transforms"][0]["threshold"] = 10 * THRESHOLD  # finds nothing
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    report = evaluate(load_bundle(tiny_bundle(tmp_path)), dataset, None, against=load_bundle(root), options=QUICK)
    assert report.comparison is not None
    apart = report.comparison.differences["dice.bright"]
    assert apart.value == report.figures["dice.bright"].value
    assert apart.low is not None
    assert apart.low > 0
    assert report.comparison.differences["asd.bright"].value is None
    assert "better" in page(report)


SCORES = """
[model]
name = "grade"
version = "1"
manufacturer = "Tests"
intended_use = "Tests"
licence = "Apache-2.0"

[geometry]
dimensions = 2

[output]
form = "scores"

[[classification]]
label = "Bright"
channel = 0
threshold = 0.9
name = { value = "111101", scheme = "DCM", meaning = "Image Quality" }
positive = { value = "111222", scheme = "DCM", meaning = "Bright" }
negative = { value = "111110", scheme = "DCM", meaning = "Good" }
"""


def grade_bundle(folder: Path) -> Path:
    """Its score is the mean of the picture, of 255; of a black picture no number."""
    root = planar_bundle(folder, name="grade")
    (root / "dicom.toml").write_text(SCORES)
    config = json.loads((root / "configs" / "inference.json").read_text())
    config["preprocessing"]["transforms"] = config["preprocessing"]["transforms"][:2]
    config["postprocessing"]["transforms"] = [
        {
            "_target_": "Lambdad",
            "keys": "pred",
            "func": "$lambda x: (x.mean() / 255 if x.max() > 0 else x.mean() * float('nan')).reshape(1)",
        }
    ]
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    return root


def films(folder: Path) -> tuple[Collection, dict[str, str]]:
    rng = np.random.default_rng(0)
    items = []
    for number in range(40):
        value = 0 if number == 39 else int(np.clip(100 + 30 * (number % 2) + rng.normal(0, 20), 1, 255))
        path = folder / f"film{number:02d}.png"
        Image.fromarray(np.full((20, 24), value, np.uint8)).save(path)
        items.append(Item(f"film{number:02d}", f"p{number}", (path,), labels={"bright": float(number % 2)}, attributes={"view": "PA"}))
    return Collection("films", "classification", ("bright",), tuple(items)), {
        item.id: "validation" if number < 20 else "test" for number, item in enumerate(items)
    }


def test_thresholds_come_from_validation_and_the_report_says_so(tmp_path: Path) -> None:
    (dataset, splits), bundle = films(tmp_path), load_bundle(grade_bundle(tmp_path))
    own = evaluate(bundle, dataset, splits, options=QUICK)
    assert (own.thresholds["bright"].value, own.thresholds["bright"].source) == (0.9, "dicom.toml")
    assert own.figures["sensitivity"].value == 0.0
    chosen = evaluate(bundle, dataset, splits, options=Options(threshold="youden", replicates=200))
    assert (chosen.thresholds["bright"].source, chosen.thresholds["bright"].n) == ("validation", 20)
    assert chosen.thresholds["bright"].value < 0.6
    assert (chosen.figures["sensitivity"].value or 0) > 0.5
    assert "validation, 20 items: youden" in page(chosen)
    assert any("1 item with a score that is no number" in note for note in chosen.notes)
    with pytest.raises(EvaluationImpossible, match="no splits were given"):
        evaluate(bundle, dataset, None, options=Options(threshold="youden"))
    with pytest.raises(EvaluationImpossible, match="nothing in the split 'validation'"):
        evaluate(bundle, dataset, {name: part for name, part in splits.items() if part == "test"}, options=Options(threshold="youden"))


def test_pictures_without_a_pixel_size_are_measured_in_pixels(tmp_path: Path) -> None:
    values = shadows()
    path, mask = tmp_path / "film.png", tmp_path / "film_mask.png"
    Image.fromarray((values // 4).astype(np.uint8)).save(path)
    Image.fromarray(np.where(values == 500, 1, np.where(values == 1000, 2, 0)).astype(np.uint8)).save(mask)
    dataset = Collection("films", "segmentation", ("Right lung", "Left lung"), (Item("1", "1", (path,), mask),))
    report = evaluate(load_bundle(planar_bundle(tmp_path)), dataset, None, options=QUICK)
    assert report.figures["dice.mean"].value == pytest.approx(1.0, abs=0.05)
    assert report.measured.unit == "px"
    assert as_json(report)["bland_altman"]["Left lung"]["unit"] == "px²"
    assert "px" in page(report)


def test_boxes_of_a_detector_are_read_with_their_scores(tmp_path: Path) -> None:
    """The network is a linear rule: red pixels are centres of boxes that reach 8 pixels to either side."""
    root = planar_bundle(tmp_path, name="cells")
    folder = root / "scripts"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "rule.py").write_text(
        "import torch\n\n"
        "class Rule(torch.nn.Module):\n"
        "    def forward(self, image):\n"
        "        assert image.shape[1] == 3\n"
        "        red = torch.nn.functional.avg_pool2d(image[:, :1] - image[:, 1:2], 4)\n"
        "        return torch.cat([red / 255 * 10 - 6, torch.full_like(red, 8.0).repeat(1, 4, 1, 1)], dim=1)\n"
    )
    config = json.loads((root / "configs" / "inference.json").read_text())
    config["network_def"] = {"_target_": "scripts.rule.Rule"}
    config["preprocessing"]["transforms"] = [
        *config["preprocessing"]["transforms"][:2],
        {"_target_": "Resized", "keys": "image", "spatial_size": [128, 64], "mode": "nearest"},
    ]
    config["postprocessing"]["transforms"] = [{"_target_": "models.detection.PaintedBoxesd", "keys": "pred", "threshold": 0.3}]
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    (root / "configs" / "metadata.json").write_text(json.dumps({**metadata, "task": "detection"}))
    text = (root / "dicom.toml").read_text()
    (root / "dicom.toml").write_text(text[: text.index("[[segment]]", text.index("[[segment]]") + 1)].replace("Right lung", "Cell"))

    picture = np.zeros((128, 256, 3), np.uint8)  # twice the size that the network sees
    picture[40:48, 80:88, 0] = 255
    picture[80:88, 160:168, 0] = 255
    path = tmp_path / "cells.png"
    Image.fromarray(picture).save(path)
    boxes = (Box("cell", 68, 28, 100, 60), Box("cell", 10, 90, 30, 110))
    dataset = Collection("cells", "detection", ("cell",), (Item("1", "1", (path,), boxes=boxes),))
    report = evaluate(load_bundle(root), dataset, None, options=QUICK)
    (case,) = report.measured.cases
    assert case.reason is None
    first = min(case.boxes, key=lambda box: box.x_min)
    assert (first.label, first.x_min, first.y_min, first.x_max, first.y_max) == (
        "cell",
        *(pytest.approx(v, abs=0.01) for v in (68, 28, 100, 60)),
    )
    assert report.thresholds["boxes"].value == 0.3
    assert (report.figures["sensitivity50.cell"].value, report.figures["precision50.cell"].value) == (0.5, 0.5)
    assert "1 missed, 1 false alarms" in report.gallery[0].caption


class Links(HTMLParser):
    """Everything in a page that could ask another address, and all ids."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def checked(report: Report) -> str:
    text = page(report)
    found = Links()
    found.feed(text)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in found.addresses)
    assert len(set(found.ids)) == len(found.ids)
    assert not {"script", "link", "iframe", "object", "embed"} & set(found.tags)
    assert {address[1:] for address in found.addresses if address.startswith("#")} <= set(found.ids)
    assert not re.search(r"url\((?!#)", text)
    return text


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path: Path) -> None:
    dataset = heads(tmp_path)
    odd = Collection("<heads & more>", "segmentation", ("Bright",), dataset.items)
    text = checked(evaluate(load_bundle(tiny_bundle(tmp_path)), odd, None, options=QUICK))
    assert "&lt;heads &amp; more&gt;" in text
    assert "<heads" not in text
    films_, splits = films(tmp_path)
    assert "Confusion matrix" in checked(evaluate(load_bundle(grade_bundle(tmp_path)), films_, splits, options=QUICK))


def test_the_files_are_what_gates_and_tables_read(tmp_path: Path) -> None:
    report = evaluate(load_bundle(tiny_bundle(tmp_path)), heads(tmp_path), None, options=QUICK)
    write_json(report, tmp_path / "report.json")
    write_items(report, tmp_path / "items.csv")
    write_page(report, tmp_path / "report.html")
    read, _ = read_report(tmp_path / "report.json")
    assert read.bundle.digest == report.model.digest
    assert read.metrics["dice.bright"].value == report.figures["dice.bright"].value
    rows = list(csv.DictReader((tmp_path / "items.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 12
    assert np.mean([float(row["dice.bright"]) for row in rows]) == pytest.approx(report.figures["dice.bright"].value)
    assert not list(tmp_path.glob("*.part"))


def test_the_command_writes_all_three_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for each in heads(tmp_path).items:
        for kind, path in (("images", each.image[0]), ("masks", each.mask or Path())):
            place = tmp_path / "set" / kind / f"{each.id}.nii.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
    data = f"pairs:{tmp_path / 'set'}?classes=Bright"
    assert main(["data", "split", "--data", data, "--out", str(tmp_path / "s.json"), "--fractions", "0.25,0.25,0.5"]) == 0
    out = tmp_path / "out"
    root = tiny_bundle(tmp_path)
    command = [
        "model",
        "evaluate",
        str(root),
        "--data",
        data,
        "--splits",
        str(tmp_path / "s.json"),
        "--out",
        str(out),
        "--replicates",
        "100",
    ]
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr()
    assert f"wrote {out / 'report.html'}" in printed.out
    assert "6 subjects only" in printed.err
    assert sorted(path.name for path in out.iterdir()) == ["items.csv", "report.html", "report.json"]
    assert read_report(out / "report.json")[0].data.items == 6
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["split"] == "test"
    assert main(["model", "evaluate", str(root), "--data", data, "--out", str(root / "dicom.toml")]) == 1
    assert "cannot be made" in capsys.readouterr().err
    assert main([*command[:-1], "0"]) == 2
    assert "wants at least 40 draws" in capsys.readouterr().err
