"""Single-frame images and enhanced multi-frame objects as one list of frames with their geometry.

Enhanced objects keep geometry and pixel transformation in functional groups, shared or per frame
(PS3.3 C.7.6.16); here both look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset

from models.errors import GeometryRefused, Refusal

#: Multi-frame SOP classes whose frames carry plane position and orientation in functional groups.
ENHANCED_SOP_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
        "1.2.840.10008.5.1.4.1.1.130",  # Enhanced PET
        "1.2.840.10008.5.1.4.1.1.128.1",  # Legacy Converted Enhanced PET
    }
)


@dataclass(frozen=True)
class Frame:
    """One plane: ``dataset`` and ``index`` say where its pixels are; the rest is its geometry and
    the linear part of its modality transformation."""

    dataset: int
    index: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None
    slope: float
    intercept: float


def frames_of(datasets: Sequence[Dataset]) -> list[Frame]:
    """The frames of one series in the order of ``datasets``.

    Raises
    ------
    GeometryRefused
        For objects that do not belong together or that carry no plane geometry.
    """
    _refuse_mixture(datasets)
    first = datasets[0]
    if str(first.get("SOPClassUID", "")) in ENHANCED_SOP_CLASSES:
        return _enhanced(first)
    for dataset in datasets:
        if _number(dataset.get("NumberOfFrames")) not in (None, 1.0):
            raise GeometryRefused(
                Refusal.UNSUPPORTED_MULTIFRAME,
                f"The object is a multi-frame {dataset.SOPClassUID.name}, whose frames carry no plane positions in the enhanced form.",
            )
    return [_single(number, dataset) for number, dataset in enumerate(datasets)]


def _refuse_mixture(datasets: Sequence[Dataset]) -> None:
    classes = {str(d.get("SOPClassUID", "")) for d in datasets}
    enhanced = sum(str(d.get("SOPClassUID", "")) in ENHANCED_SOP_CLASSES for d in datasets)
    if len(classes) > 1 or enhanced > 1:
        raise GeometryRefused(Refusal.MIXED_OBJECTS, "The images are of different kinds, or more than one multi-frame object.")
    if any("SOPInstanceUID" not in d for d in datasets):
        raise GeometryRefused(Refusal.UNREADABLE, "An image has no SOP Instance UID.")
    if len({str(d.get("SeriesInstanceUID", "")) for d in datasets}) > 1:
        raise GeometryRefused(Refusal.MIXED_SERIES, "The images belong to different series.")
    references = {str(d.get("FrameOfReferenceUID", "")) for d in datasets}
    if len(references) > 1:
        raise GeometryRefused(
            Refusal.MIXED_FRAME_OF_REFERENCE,
            f"The images lie in {len(references)} different frames of reference; their positions cannot be compared.",
        )
    if len({(d.get("Rows"), d.get("Columns")) for d in datasets}) > 1:
        raise GeometryRefused(Refusal.MIXED_SIZE, "The images do not all have the same number of rows and columns.")


def _single(number: int, dataset: Dataset) -> Frame:
    return Frame(
        dataset=number,
        index=0,
        position=_numbers(dataset.get("ImagePositionPatient")),
        orientation=_numbers(dataset.get("ImageOrientationPatient")),
        spacing=_numbers(dataset.get("PixelSpacing")),
        thickness=_number(dataset.get("SliceThickness")),
        slope=_or(_number(dataset.get("RescaleSlope")), 1.0),
        intercept=_or(_number(dataset.get("RescaleIntercept")), 0.0),
    )


def flat_frame(dataset: Dataset) -> Frame:
    """The one frame of a single 2-D image."""
    return _single(0, dataset)


def _enhanced(dataset: Dataset) -> list[Frame]:
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    count = int(_or(_number(dataset.get("NumberOfFrames")), 0.0))
    if count != len(per_frame):
        raise GeometryRefused(Refusal.NO_GEOMETRY, f"The object says {count} frames and describes {len(per_frame)}.")
    found = []
    for index, own in enumerate(per_frame):

        def group(name: str, own: Dataset = own) -> Dataset:
            items = own.get(name) or shared[0].get(name) or [Dataset()]
            item: Dataset = items[0]
            return item

        measures = group("PixelMeasuresSequence")
        values = group("PixelValueTransformationSequence")
        found.append(
            Frame(
                dataset=0,
                index=index,
                position=_numbers(group("PlanePositionSequence").get("ImagePositionPatient")),
                orientation=_numbers(group("PlaneOrientationSequence").get("ImageOrientationPatient")),
                spacing=_numbers(measures.get("PixelSpacing")),
                thickness=_number(measures.get("SliceThickness")),
                slope=_or(_number(values.get("RescaleSlope")), 1.0),
                intercept=_or(_number(values.get("RescaleIntercept")), 0.0),
            )
        )
    return found


def _numbers(value: object) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return ()


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
