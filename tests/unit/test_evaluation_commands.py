"""Data, training, features and evaluation by the commands alone: a detector from PASCAL VOC, a classifier beside its baseline."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dicom_node.cli.main import main
from tests.training_data import CLASSIFICATION, DETECTION, SIDE, Data, blobs

DETECTOR = """
[dicom.model]
name = "cells"
version = "1"
manufacturer = "Tests"
intended_use = "Tests"
licence = "Apache-2.0"
[dicom.geometry]
dimensions = 2
[[dicom.segment]]
label = "blob"
category = { value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }
type = { value = "4421005", scheme = "SCT", meaning = "Cell" }
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return blobs(tmp_path_factory.mktemp("blobs"), 40)


def voc(folder: Path, data: Data) -> Path:
    """The data as PASCAL VOC; corners count from one."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for item in data:
        Image.open(item.image[0]).save(folder / "JPEGImages" / f"{item.id}.jpg", quality=95)
        (box,) = item.boxes
        corners = {"xmin": box.x_min + 1, "ymin": box.y_min + 1, "xmax": box.x_max, "ymax": box.y_max}
        written = "".join(f"<{key}>{value:.0f}</{key}>" for key, value in corners.items())
        (folder / "Annotations" / f"{item.id}.xml").write_text(
            f"<annotation><filename>{item.id}.jpg</filename><size><width>{SIDE}</width><height>{SIDE}</height></size>"
            f"<object><name>blob</name><difficult>0</difficult><bndbox>{written}</bndbox></object></annotation>"
        )
    return folder


def table(folder: Path, data: Data) -> Path:
    """The data as a table of images with one label."""
    path = folder / "sizes.csv"
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["Image Index", "Patient ID", "large"])
        rows.writerows([item.image[0].name, item.subject, int(item.labels["large"])] for item in data)
    return path


def call(*arguments: str | Path) -> int:
    return main([str(each) for each in arguments])


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_detector_is_trained_and_judged_on_voc_by_the_commands(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = f"voc:{voc(tmp_path / 'voc', replace(data, items=data.items[:24]))}"
    (tmp_path / "cells.toml").write_text(
        DETECTION.replace("epochs = 20", "epochs = 14").replace("validate_every = 10", "validate_every = 7") + DETECTOR
    )
    split = tmp_path / "split.json"
    assert call("data", "split", "--data", source, "--out", split, "--fractions", "0.5,0.25,0.25") == 0
    assert call("model", "train", tmp_path / "cells.toml", "--data", source, "--splits", split, "--out", tmp_path / "cells") == 0
    capsys.readouterr()
    out = tmp_path / "report"
    judged = ("model", "evaluate", tmp_path / "cells", "--data", source, "--splits", split, "--out", out, "--replicates", "100")
    assert call(*judged, "--json") == 0
    report = told(capsys)
    assert (report["task"], report["headline"], report["data"]["items"], report["skipped"]) == ("detection", "map50", 6, [])
    figure = report["metrics"]["map50"]
    assert figure["low"] <= figure["value"] <= figure["high"]
    assert figure["value"] > 0.6
    assert "mAP at IoU 0.5" in (out / "report.html").read_text()
    assert json.loads((out / "report.json").read_text())["metrics"]["map50"] == figure


def test_a_classifier_stands_beside_the_best_classical_model_on_features(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"table:{table(tmp_path, data)}?labels=large&images={data.items[0].image[0].parent}"
    (tmp_path / "sizes.toml").write_text(CLASSIFICATION)
    split, features, model = tmp_path / "split.json", tmp_path / "features.parquet", tmp_path / "sizes"
    assert call("data", "split", "--data", source, "--out", split, "--fractions", "0.5,0.25,0.25", "--stratify", "label") == 0
    assert call("model", "features", "--data", source, "--out", features, "--classes", "intensity,edge", "--processes", "1") == 0
    assert call("model", "train", tmp_path / "sizes.toml", "--data", source, "--splits", split, "--out", model) == 0
    capsys.readouterr()
    out = tmp_path / "report"
    judged = ("model", "evaluate", model, "--data", source, "--splits", split, "--out", out, "--replicates", "100", "--baseline", features)
    assert call(*judged) == 0
    printed = capsys.readouterr().out
    assert " features, on the same items:" in printed
    report = json.loads((out / "report.json").read_text())
    beside = report["comparison"]
    assert beside["bundle"]["digest"] == ""
    assert beside["metrics"]["roc_auc"]["n"] == 10
    assert beside["metrics"]["roc_auc"]["value"] > 0.8  # the mean grey level tells the size
    apart = report["metrics"]["roc_auc"]["value"] - beside["metrics"]["roc_auc"]["value"]
    assert np.isclose(beside["differences"]["roc_auc"]["value"], apart)
    assert f"Beside {beside['bundle']['name']}" in (out / "report.html").read_text()
    assert call(*judged, "--against", model) == 2
    assert "--against or --baseline" in capsys.readouterr().err
    assert call(*judged, "--split", "validation") == 1
    assert "it wants splits, and the test part" in capsys.readouterr().err
