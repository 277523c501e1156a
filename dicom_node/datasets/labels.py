"""Result objects as labels: the segments of a SEG on the grid of its images, the codes and numbers of a TID 1500 SR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from highdicom.seg import Segmentation, segread
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from models.volume import Volume

SEG_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
SR_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 22, 33, 34, 35))
_TRUE = frozenset({("121053", "DCM"), ("10828004", "SCT"), ("373066001", "SCT"), ("R-0038D", "SRT")})
#: Finding, finding category: what a group is about, and not what it says of it.
_WHAT = frozenset({"121071", "276214006"})
_FALSE = frozenset({("121054", "DCM"), ("260385009", "SCT"), ("373067005", "SCT"), ("R-00339", "SRT")})


@dataclass(frozen=True, eq=False)
class Segments:
    """A SEG that was read: its names in their order, and which images it refers to."""

    segmentation: Segmentation
    names: tuple[str, ...]
    sources: frozenset[str]
    made: str

    def numbers(self, name: str) -> list[int]:
        """Segments that ``name`` means: their label, or the code of their type as ``value^scheme``."""
        found = []
        for description in self.segmentation.SegmentSequence:
            kind = description.SegmentedPropertyTypeCodeSequence[0]
            code = f"{kind.get('CodeValue', '')}^{kind.get('CodingSchemeDesignator', '')}"
            if name.casefold() in (str(description.SegmentLabel).casefold(), code.casefold()):
                found.append(int(description.SegmentNumber))
        return found


def read_segments(content: bytes) -> Segments:
    """Read a SEG.

    Raises
    ------
    ValueError
        It cannot be read, or refers to no image.
    """
    try:
        segmentation = segread(BytesIO(content))
        names = tuple(str(description.SegmentLabel) for description in segmentation.SegmentSequence)
        sources = frozenset(
            str(instance.ReferencedSOPInstanceUID)
            for series in segmentation.get("ReferencedSeriesSequence") or []
            for instance in series.get("ReferencedInstanceSequence") or []
        )
        made = f"{segmentation.get('ContentDate') or ''}{segmentation.get('ContentTime') or ''}"
    except Exception as error:  # noqa: BLE001 - objects of others raise anything
        raise ValueError(f"the segmentation cannot be read ({type(error).__name__})") from None
    if not sources:
        raise ValueError("the segmentation does not say which images it belongs to")
    return Segments(segmentation, names, sources, made)


def label_map(segments: Segments, volume: Volume, classes: Sequence[str]) -> NDArray[np.uint8]:
    """(slices, rows, columns) on the grid of ``volume``: 0, or the place of the segment's name in ``classes`` plus 1.

    Where segments overlap the later class wins; a FRACTIONAL segment counts from one half on.

    Raises
    ------
    ValueError
        None of the classes is in the SEG, or its pixels do not fit the images.
    """
    result = np.zeros(volume.array.shape, np.uint8)
    known = False
    for value, name in enumerate(classes, start=1):
        for number in segments.numbers(name):
            known = True
            result[_pixels(segments.segmentation, number, volume) >= 0.5] = value
    if not known:
        raise ValueError(f"the segmentation has none of the classes {', '.join(classes)}; it has {', '.join(segments.names)}")
    return result


def _pixels(segmentation: Segmentation, number: int, volume: Volume) -> NDArray[np.float32]:
    try:
        if len(volume.sources) == 1 and len(volume.frame_numbers) > 1:
            pixels = segmentation.get_pixels_by_source_frame(
                volume.sources[0], volume.frame_numbers, segment_numbers=[number], assert_missing_frames_are_empty=True
            )[..., 0]
        else:
            pixels = segmentation.get_pixels_by_source_instance(
                list(volume.sources), segment_numbers=[number], assert_missing_frames_are_empty=True
            )[..., 0]
    except Exception as error:  # noqa: BLE001 - objects of others raise anything
        raise ValueError(f"the segmentation does not fit its images ({type(error).__name__})") from None
    if pixels.shape != volume.array.shape:
        raise ValueError("the segmentation has another size than its images")
    return np.asarray(pixels, np.float32)


def report_labels(content: bytes) -> tuple[frozenset[str], Mapping[str, float]]:
    """What a TID 1500 SR says as labels, and the SOP Instance UIDs of the images that it is about.

    An evaluation that is present, positive or yes is 1, absent, negative or no is 0, under its concept's meaning; any other code
    is 1 under ``concept=code``. A number stands under its concept, or ``tracking identifier: concept`` where a group has a segment.

    Raises
    ------
    ValueError
    """
    try:
        report = dcmread(BytesIO(content))
        if report.SOPClassUID not in SR_CLASSES:
            raise TypeError("another kind of object")
        images = frozenset(_evidence(report))
        labels: dict[str, float] = {}
        for group in _groups(report):
            labels.update(_group_labels(group))
    except Exception as error:  # noqa: BLE001 - objects of others raise anything
        raise ValueError(f"the report cannot be read ({type(error).__name__})") from None
    return images, labels


def _evidence(report: Dataset) -> Iterator[str]:
    for study in report.get("CurrentRequestedProcedureEvidenceSequence") or []:
        for series in study.get("ReferencedSeriesSequence") or []:
            for instance in series.get("ReferencedSOPSequence") or []:
                yield str(instance.ReferencedSOPInstanceUID)


def _groups(report: Dataset) -> Iterator[Dataset]:
    for container in _children(report, "126010"):
        yield from _children(container, "125007")


def _children(item: Dataset, concept: str) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        names = child.get("ConceptNameCodeSequence")
        if names and names[0].get("CodeValue") == concept:
            yield child


def _group_labels(group: Dataset) -> Iterator[tuple[str, float]]:
    segmented = any(True for _ in _children(group, "121191")) or any(True for _ in _children(group, "121214"))
    tracking = "".join(str(item.get("TextValue") or "") for item in _children(group, "112039"))
    for item in group.get("ContentSequence") or []:
        if item.get("RelationshipType") != "CONTAINS" or not item.get("ConceptNameCodeSequence"):
            continue
        if item.ConceptNameCodeSequence[0].get("CodeValue") in _WHAT:
            continue
        concept = str(item.ConceptNameCodeSequence[0].get("CodeMeaning") or "")
        name = f"{tracking}: {concept}" if segmented and tracking else concept
        if item.ValueType == "NUM" and item.get("MeasuredValueSequence"):
            value = item.MeasuredValueSequence[0]
            exact = value.get("FloatingPointValue")
            yield name, float(value.NumericValue if exact is None else exact)
        elif item.ValueType == "CODE":
            code = item.ConceptCodeSequence[0]
            pair = (str(code.get("CodeValue")), str(code.get("CodingSchemeDesignator")))
            yield (name, float(pair in _TRUE)) if pair in _TRUE | _FALSE else (f"{name}={code.CodeMeaning}", 1.0)
