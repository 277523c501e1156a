"""Radiographs with known content, and a bundle for 2-D images: it shrinks them, and the left and right bright parts are its structures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID, ComputedRadiographyImageStorage

from tests.imaging import series

INFERENCE: dict[str, Any] = {
    "network_def": {"_target_": "torch.nn.Identity"},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Resized", "keys": "image", "spatial_size": [32, 64], "mode": "nearest"},
            {"_target_": "ScaleIntensityd", "keys": "image"},
        ],
    },
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image", "nearest_interp": True},
            {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: (x > 0.4).float() + (x > 0.8).float()"},
        ],
    },
}
LUNG = """
[[segment]]
label = "{side} lung"
value = {value}
category = {{ value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }}
type = {{ value = "{code}", scheme = "SCT", meaning = "{side} lung" }}

[[measurement]]
quantity = "area"
segment = "{side} lung"
"""
DICOM = """
[model]
name = "{name}"
version = "1"
manufacturer = "Tests"
intended_use = "Tests"
licence = "Apache-2.0"

[series]
match = {{ Modality = ["CR", "DX"] }}

[geometry]
dimensions = 2
views = ["PA", "AP"]

[run]
axes = "{axes}"
{lungs}
"""


def planar_bundle(folder: Path, *, name: str = "halves", axes: str = "xyz") -> Path:
    """Write the bundle below ``folder``; ``axes`` as in [run]."""
    root = folder / name
    (root / "configs").mkdir(parents=True)
    inference = json.loads(json.dumps(INFERENCE))
    if axes == "zyx":
        inference["preprocessing"]["transforms"][2]["spatial_size"] = [64, 32]
    (root / "configs" / "inference.json").write_text(json.dumps(inference))
    metadata = {"version": "1", "name": name, "monai_version": "1.6.1", "network_data_format": {"inputs": {}, "outputs": {}}}
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    lungs = LUNG.format(side="Right", value=1, code="3341006") + LUNG.format(side="Left", value=2, code="44029006")
    (root / "dicom.toml").write_text(DICOM.format(name=name, axes=axes, lungs=lungs))
    return root


def shadows(rows: int = 128, columns: int = 64) -> NDArray[Any]:
    """(rows, columns): two rectangles, of half and of full brightness."""
    values = np.zeros((rows, columns), np.int16)
    values[rows // 4 : rows // 2, columns // 8 : columns // 4] = 500
    values[rows // 4 : rows // 2, columns // 2 : columns - columns // 8] = 1000
    return values


def radiograph(values: NDArray[Any] | None = None, *, sop_class: UID = ComputedRadiographyImageStorage, **attributes: Any) -> Dataset:
    """A chest radiograph: no position, no orientation, no frame of reference, and no pixel size unless given."""
    (image,) = series((shadows() if values is None else values)[None])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "PixelSpacing", "SliceThickness"):
        del image[keyword]
    image.SOPClassUID, image.Modality, image.BodyPartExamined, image.ViewPosition = sop_class, "CR", "CHEST", "PA"
    image.PatientOrientation = ["L", "F"]
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    return image
