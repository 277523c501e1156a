"""Read encoded objects again and compare them with what the model found.

An independent reader (highdicom's, by source image) must return every mask voxel by voxel, every frame that
has a voxel must be there and no other, and the SR must repeat every number under the SEG's Tracking UIDs.
Used by tests and benchmarks; a worker may run it on what it is about to send.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from math import inf, isfinite, nan

import numpy as np
from highdicom.seg import Segmentation, segread
from highdicom.sr import Comprehensive3DSR, srread
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.findings import Measurement, Prediction, Segment

from .context import EncodedObject
from .files import part10
from .segmentation import KINDS as SEGMENTATIONS


class ReadbackMismatch(Exception):
    """What was encoded does not say what the prediction says; the message names the object's kind and the finding."""


@dataclass(frozen=True)
class Readback:
    """What was found in the objects: frames written, voxels per Tracking UID, numbers of the SR."""

    frames: int
    voxels: dict[str, int]
    measurements: tuple[tuple[str, float, str], ...]


def verify(encoded: Sequence[EncodedObject], prediction: Prediction) -> Readback:
    """Compare objects with their prediction.

    Raises
    ------
    ReadbackMismatch
        A mask, a probability, a frame, a number or a Tracking UID differs or is missing.
    """
    frames, voxels = 0, dict[str, int]()
    for item in (e for e in encoded if "SEG" in e.forms):
        segmentation = segread(BytesIO(part10(item)))
        frames += int(segmentation.NumberOfFrames)
        voxels.update(_compare_segmentation(segmentation, prediction))
    written = any("SEG" in e.forms for e in encoded)
    if written and len(voxels) != sum(not s.empty for s in prediction.segments):
        raise ReadbackMismatch("SEG: not every segment with a voxel was written")
    measurements: tuple[tuple[str, float, str], ...] = ()
    for item in (e for e in encoded if e.kind == "SR"):
        report = srread(BytesIO(part10(item)))
        assert isinstance(report, Comprehensive3DSR)
        measurements = _compare_report(report, prediction, set(voxels))
    for form in dict.fromkeys(form for e in encoded for form in e.forms if form != "SEG" and form.partition("/")[0] in SEGMENTATIONS):
        _compare_form(form, [e for e in encoded if form in e.forms], prediction)
    return Readback(frames, voxels, measurements)


def _compare_segmentation(segmentation: Segmentation, prediction: Prediction) -> dict[str, int]:
    by_tracking = {s.tracking_id: s for s in prediction.segments}
    expected_frames, voxels = 0, {}
    for description in segmentation.SegmentSequence:
        segment = by_tracking.get(str(description.TrackingID))
        if segment is None:
            raise ReadbackMismatch(f"SEG: a segment '{description.TrackingID}' that the model did not find")
        pixels = segment_pixels(segmentation, int(description.SegmentNumber), prediction)
        _compare_pixels(pixels, segment)
        shown = segment.mask if segment.probability is None else np.rint(np.clip(segment.probability, 0, 1) * 255) > 0
        expected_frames += int(shown.any(axis=(1, 2)).sum())
        voxels[str(description.TrackingUID)] = int(np.count_nonzero(pixels))
    if int(segmentation.NumberOfFrames) != expected_frames:
        raise ReadbackMismatch(f"SEG: {segmentation.NumberOfFrames} frames, {expected_frames} have a voxel")
    return voxels


def _compare_form(form: str, objects: Sequence[EncodedObject], prediction: Prediction) -> None:
    """All objects of another form together say what the prediction says, none with more frames than it may have."""
    kind, _, limit = form.partition("/")
    together: dict[str, NDArray[np.generic]] = {}
    for item in objects:
        segmentation = segread(BytesIO(part10(item)))
        if limit and int(segmentation.NumberOfFrames) > int(limit):
            raise ReadbackMismatch(f"{form}: {segmentation.NumberOfFrames} frames in one object")
        for description in segmentation.SegmentSequence:
            if not description.get("TrackingID"):
                continue  # the background of a label map
            pixels = segment_pixels(segmentation, int(description.SegmentNumber), prediction)
            known = together.get(str(description.TrackingID))
            together[str(description.TrackingID)] = pixels if known is None else np.maximum(known, pixels)
    wanted = {s.tracking_id: s for s in prediction.segments if not s.empty}
    if set(together) != set(wanted):
        raise ReadbackMismatch(f"{form}: {len(together)} segments, {len(wanted)} were found")
    for name, pixels in together.items():
        _compare_pixels(pixels, replace(wanted[name], probability=None) if kind == "LABELMAP" else wanted[name], form)


def segment_pixels(segmentation: Segmentation, number: int, prediction: Prediction) -> NDArray[np.generic]:
    """The segment on the prediction's grid, found by the source frames that the object refers to."""
    distinct = list(dict.fromkeys(prediction.sources))
    if len(distinct) == 1 and len(prediction.frame_numbers) > 1:
        found = segmentation.get_pixels_by_source_frame(
            distinct[0], prediction.frame_numbers, segment_numbers=[number], assert_missing_frames_are_empty=True
        )
    else:
        found = segmentation.get_pixels_by_source_instance(distinct, segment_numbers=[number], assert_missing_frames_are_empty=True)
    pixels: NDArray[np.generic] = found[..., 0]
    return pixels


def _compare_pixels(pixels: NDArray[np.generic], segment: Segment, form: str = "SEG") -> None:
    if segment.probability is None:
        same = np.array_equal(pixels.astype(bool), segment.mask)
    else:
        same = bool(np.allclose(pixels, np.clip(segment.probability, 0, 1), atol=0.51 / 255))
    if not same:
        raise ReadbackMismatch(f"{form}: the pixels of '{segment.tracking_id}' differ")


def _compare_report(report: Comprehensive3DSR, prediction: Prediction, segmented: set[str]) -> tuple[tuple[str, float, str], ...]:
    groups = list(_groups(report))
    tracked = {uid for uid, _ in groups}
    if not segmented <= tracked:
        raise ReadbackMismatch("SR: a segment of the SEG has no measurement group under its Tracking UID")
    numbers = tuple(number for _, found in groups for number in found)
    for measured in prediction.measurements:
        if not any(_says(number, measured) for number in numbers):
            raise ReadbackMismatch(f"SR: measurement '{measured.name.meaning}' is missing or differs")
    return numbers


def _groups(report: Dataset) -> list[tuple[str, list[tuple[str, float, str]]]]:
    """(Tracking UID, [(code value, number, unit)]) of every measurement group."""
    groups = []
    for container in _children(report, "126010"):
        for group in _children(container, "125007"):
            tracking = "".join(str(item.UID) for item in _children(group, "112040"))
            numbers = [number for item in group.ContentSequence if (number := _number(item)) is not None]
            groups.append((tracking, numbers))
    return groups


_NOT_FINITE = {"114000": nan, "114001": -inf, "114002": inf}


def _number(item: Dataset) -> tuple[str, float, str] | None:
    """Code value, number and unit of a measurement; the unit is empty where there is no finite number."""
    name = str(item.ConceptNameCodeSequence[0].CodeValue)
    if item.ValueType == "NUM":
        value = item.MeasuredValueSequence[0]
        exact = value.get("FloatingPointValue")
        return name, float(value.NumericValue if exact is None else exact), str(value.MeasurementUnitsCodeSequence[0].CodeValue)
    if item.ValueType == "CODE" and item.ConceptCodeSequence[0].CodeValue in _NOT_FINITE:
        return name, _NOT_FINITE[item.ConceptCodeSequence[0].CodeValue], ""
    return None


def _children(item: Dataset, concept: str) -> list[Dataset]:
    return [child for child in item.ContentSequence if child.ConceptNameCodeSequence[0].get("CodeValue") == concept]


def _says(number: tuple[str, float, str], measured: Measurement) -> bool:
    code, value, unit = number
    same_unit = unit == measured.unit.value or not isfinite(value)
    return code == measured.name.value and same_unit and bool(np.isclose(value, measured.value, rtol=1e-9, atol=1e-12, equal_nan=True))
