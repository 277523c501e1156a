"""The same features as pyradiomics has, on the same image: its values were taken once and are kept beside this file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.features.extract import Extraction, extract

REFERENCE = json.loads(Path(__file__).with_name("pyradiomics_reference.json").read_text(encoding="utf-8"))
CASES = {"2-D": ((23, 17), (0.5, 0.8)), "3-D": ((15, 13, 9), (1.0, 0.8, 2.5))}


@pytest.mark.parametrize("kind", CASES)
def test_features_are_pyradiomics(kind: str) -> None:
    shape, spacing = CASES[kind]
    place = np.indices(shape)
    image = (sum(step * axis for step, axis in zip((7, 13, 29), place, strict=False)) + 17 * ((place[0] * place[1]) % 11)) % 200
    inside = sum(((axis - (size - 1) / 2) / (size / 2)) ** 2 for axis, size in zip(place, shape, strict=True)) < 0.9
    found = extract(image[None].astype(np.float64), np.asarray(inside), spacing, Extraction(("intensity", "glcm", "shape"), 25.0))
    expected = REFERENCE[kind]
    voxels = np.count_nonzero(inside)
    for name in [name for name in expected if name.endswith("_axis_length")]:
        found[name] *= np.sqrt((voxels - 1) / voxels)  # IBSI's reference values are of the unbiased covariance, pyradiomics' are not
    assert len(expected) > 45
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-9)
