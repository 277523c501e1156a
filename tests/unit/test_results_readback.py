"""verify() notices every kind of difference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dicom_node.results.encode import encode
from dicom_node.results.readback import ReadbackMismatch, verify
from models.findings import Prediction
from tests.results_cases import context, ellipsoid, headers, prediction, segment, volume


def found() -> Prediction:
    return prediction(headers())


def changed(mask_change: tuple[int, int, int]) -> Prediction:
    mask = ellipsoid(8, 24, 20)
    mask[mask_change] ^= True
    return prediction(headers(), [segment(mask)])


def test_a_faithful_encoding_passes() -> None:
    result = verify(encode(found(), headers(), context()), found())
    mask = ellipsoid(8, 24, 20)
    assert list(result.voxels.values()) == [int(mask.sum())]
    assert result.frames == int(mask.any(axis=(1, 2)).sum())
    assert result.measurements == (("118565006", 1234.5, "ml"),)


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (changed((4, 12, 10)), "pixels"),
        (changed((0, 0, 0)), "pixels"),
        (prediction(headers(), measurements=[volume(1234.6)]), "measurement"),
        (prediction(headers(), [segment(ellipsoid(8, 24, 20), name="skull")]), "did not find"),
        (prediction(headers(), [segment(ellipsoid(8, 24, 20)), segment(ellipsoid(8, 24, 20), 2, "skull")]), "not every segment"),
    ],
)
def test_a_difference_is_named(other: Prediction, complaint: str) -> None:
    with pytest.raises(ReadbackMismatch, match=complaint):
        verify(encode(found(), headers(), context()), other)


def test_a_probability_is_compared_within_its_quantisation() -> None:
    mask = ellipsoid(8, 24, 20)
    probability = (mask * 0.3).astype(np.float32)
    fractional = prediction(headers(), [segment(mask, probability=probability)])
    objects = encode(fractional, headers(), context())
    verify(objects, fractional)
    shifted = dataclasses.replace(fractional.segments[0], probability=probability + np.float32(0.01))
    with pytest.raises(ReadbackMismatch):
        verify(objects, dataclasses.replace(fractional, segments=(shifted,)))


def test_a_report_that_forgets_a_segment_is_noticed() -> None:
    objects = encode(found(), headers(), context())
    other_report = encode(prediction(headers(), []), headers(), context(run_key="other"))[-1]
    with pytest.raises(ReadbackMismatch, match="Tracking UID"):
        verify([objects[0], other_report], found())
