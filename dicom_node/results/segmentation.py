"""Segments as a Segmentation object (PS3.3 A.51; SOP classes 1.2.840.10008.5.1.4.1.1.66.4 and, for a label map, .7).

BINARY; FRACTIONAL for segments that carry a probability, or where that is asked for; LABELMAP. Empty frames are left out, every frame
that is written refers to the source frame it was derived from, and segments without a voxel are not described at
all: the report tells of them. The segments of a 2-D image without a place in the patient (a radiograph) have
none either: their geometry is that of the image they refer to (no Frame of Reference, no Pixel Measures).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.findings import ModelIdentity, Prediction, Segment

from .codes import concept
from .context import ResultContext
from .equipment import general_equipment
from .sources import Sources
from .uids import derived_uid, dimension_organization_uid, instance_uid, series_number, series_uid, tracking_uid

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
KINDS = frozenset({"SEG", "FRACTIONAL", "LABELMAP"})
_PALETTE = ((230, 120, 90), (90, 160, 230), (120, 200, 110), (230, 200, 80), (180, 120, 220), (100, 210, 210))


def color_of(segment: Segment) -> tuple[int, int, int]:
    """The sRGB colour in which a segment is shown, in every form."""
    return segment.color or _PALETTE[(segment.number - 1) % len(_PALETTE)]


@dataclass(frozen=True, eq=False)
class SegmentationPlan:
    """Which segments go into one object; `numbers` maps a segment's number in the prediction to the one in the object."""

    kind: SegmentationTypeValues
    segments: tuple[Segment, ...]
    sop_instance_uid: str
    series: str = "SEG"
    part: int = 1

    @property
    def numbers(self) -> Mapping[int, int]:
        return {segment.number: index for index, segment in enumerate(self.segments, 1)}


def plan(prediction: Prediction, context: ResultContext) -> list[SegmentationPlan]:
    """One object per segmentation type among the segments that are not empty."""
    plans = []
    for kind, fractional in ((SegmentationTypeValues.BINARY, False), (SegmentationTypeValues.FRACTIONAL, True)):
        chosen = tuple(s for s in prediction.segments if (s.probability is not None) is fractional and not s.empty)
        if chosen:
            plans.append(SegmentationPlan(kind, chosen, instance_uid(context.run_key, f"SEG {kind.value}")))
    return plans


def frames_of(plan: SegmentationPlan) -> list[tuple[int, int]]:
    """(place of the segment in the plan, plane) of every frame that is written; of a label map (-1, plane)."""
    shown = np.stack([_shown(segment) for segment in plan.segments])
    if plan.kind is SegmentationTypeValues.LABELMAP:
        return [(-1, int(plane)) for plane in np.flatnonzero(shown.any(axis=0))]
    return [(int(segment), int(plane)) for segment, plane in np.argwhere(shown)]


def split(plan: SegmentationPlan, limit: int) -> Iterator[SegmentationPlan]:
    """The same segments over several objects with at most `limit` frames each, in the order of segments and planes.

    Every part is an object of its own that describes the segments it has a frame of: no concatenation, which few readers put together.
    """
    frames = frames_of(plan)
    for part, start in enumerate(range(0, len(frames), limit), 1):
        chunk = frames[start : start + limit]
        segments = []
        for place, segment in enumerate(plan.segments):
            planes = [plane for of, plane in chunk if of in (-1, place)]
            cut = _only(segment, planes)
            if planes and _shown(cut).any():
                segments.append(cut)
        uid = derived_uid("part", plan.sop_instance_uid, str(limit), str(part))
        yield replace(plan, segments=tuple(segments), sop_instance_uid=uid, series=f"{plan.series}/{limit}", part=part)


def _only(segment: Segment, planes: Sequence[int]) -> Segment:
    mask = np.zeros_like(segment.mask)
    mask[planes] = segment.mask[planes]
    if segment.probability is None:
        return replace(segment, mask=mask)
    probability = np.zeros_like(segment.probability)
    probability[planes] = segment.probability[planes]
    return replace(segment, mask=mask, probability=probability)


def _shown(segment: Segment) -> NDArray[np.bool_]:
    """The planes of a segment in which its object has a frame."""
    pixels: NDArray[np.bool_] = segment.mask
    if segment.probability is not None:
        pixels = np.asarray(np.rint(np.clip(segment.probability, 0, 1) * 255) > 0)
    return np.asarray(pixels.any(axis=(1, 2)))


def fractional(prediction: Prediction, context: ResultContext) -> list[SegmentationPlan]:
    """Every segment as FRACTIONAL: its probabilities, or where it has none its mask as OCCUPANCY, in an object of its own."""
    masks = tuple(s for s in prediction.segments if s.probability is None and not s.empty)
    uid = instance_uid(context.run_key, "SEG FRACTIONAL OCCUPANCY")
    occupied = [SegmentationPlan(SegmentationTypeValues.FRACTIONAL, masks, uid, "SEG FRACTIONAL")] if masks else []
    return [each for each in plan(prediction, context) if each.kind is SegmentationTypeValues.FRACTIONAL] + occupied


def label_maps(prediction: Prediction, context: ResultContext) -> list[SegmentationPlan]:
    """Every segment in a label map; segments that overlap lie in different ones."""
    layers: list[tuple[list[Segment], NDArray[np.bool_]]] = []
    for segment in (replace(s, probability=None) for s in prediction.segments if not s.empty):
        free = next((layer for layer in layers if not (layer[1] & segment.mask).any()), None)
        if free is None:
            free = [], np.zeros_like(segment.mask)
            layers.append(free)
        free[0].append(segment)
        np.logical_or(free[1], segment.mask, out=free[1])
    return [
        SegmentationPlan(
            SegmentationTypeValues.LABELMAP, tuple(members), instance_uid(context.run_key, f"SEG LABELMAP {number}"), "SEG LABELMAP", number
        )
        for number, (members, _) in enumerate(layers, 1)
    ]


def build(plan: SegmentationPlan, prediction: Prediction, sources: Sources, context: ResultContext) -> Dataset:
    """The Segmentation but for what `encode` adds to every object (patient, equipment, times).

    Raises
    ------
    ValueError
        Masks and source images do not fit, or the source has a geometry that a SEG cannot express.
    """
    model = prediction.model
    dataset = Segmentation(
        source_images=sources.shells,
        pixel_array=_pixels(plan),
        segmentation_type=plan.kind,
        segment_descriptions=[_description(s, plan.numbers[s.number], model, context) for s in plan.segments],
        series_instance_uid=series_uid(context.study_uid, model.digest, plan.series),
        series_number=series_number(sources.series_number, model.digest, plan.series),
        sop_instance_uid=plan.sop_instance_uid,
        instance_number=context.instance_number if plan.series == "SEG" else context.instance_number * 1000 + plan.part,
        series_description=f"{model.name} {model.version} {_described(plan)}"[:64],
        content_label="SEGMENTATION",
        content_description=", ".join(s.label for s in plan.segments)[:64],
        omit_empty_frames=True,
        **_fractional_type(plan),
        **general_equipment(model),
    )
    dataset.ContentCreatorName = ""  # type 2: no person made this
    if "PixelPaddingValue" in dataset:
        dataset["PixelPaddingValue"].VR = "US"  # of a label map: its background
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated == 16 else "OB"  # PS3.5 section A.2
    _fix_dimension_organization(dataset, dimension_organization_uid(context.run_key, f"{plan.kind.value}{plan.series[3:]}"))
    if not sources.placed:
        dataset.PatientOrientation = list(sources.first.get("PatientOrientation") or []) or None  # type 2C without positions
    if sources.multiframe:
        _refer_to_stored_frames(dataset, sources.frame_numbers)
    return dataset


def _described(plan: SegmentationPlan) -> str:
    if plan.kind is SegmentationTypeValues.LABELMAP:
        return "label map"
    return "segmentation" + (", in parts" if "/" in plan.series else "")


def _fractional_type(plan: SegmentationPlan) -> dict[str, Any]:
    if plan.kind is SegmentationTypeValues.FRACTIONAL and any(s.probability is None for s in plan.segments):
        return {"fractional_type": SegmentationFractionalTypeValues.OCCUPANCY}
    return {}


def _pixels(plan: SegmentationPlan) -> NDArray[np.generic]:
    """(frames, rows, columns), or with a last axis over the segments where they overlap or are fractional."""
    if plan.kind is SegmentationTypeValues.FRACTIONAL:
        fractions: NDArray[np.generic] = np.stack([_probability(s) for s in plan.segments], axis=-1)
        return fractions
    if len(plan.segments) == 1:
        return plan.segments[0].mask.view(np.uint8)
    return _labels(plan.segments)


def _labels(segments: Sequence[Segment]) -> NDArray[np.generic]:
    labels = np.zeros(segments[0].mask.shape, np.uint8 if len(segments) < 256 else np.uint16)
    for number, segment in enumerate(segments, 1):
        if labels[segment.mask].any():
            overlapping: NDArray[np.generic] = np.stack([s.mask for s in segments], axis=-1).view(np.uint8)
            return overlapping
        labels[segment.mask] = number
    return labels


def _probability(segment: Segment) -> NDArray[np.float32]:
    if segment.probability is None:
        return segment.mask.astype(np.float32)
    return np.clip(segment.probability, 0.0, 1.0).astype(np.float32, copy=False)


def _description(segment: Segment, number: int, model: ModelIdentity, context: ResultContext) -> SegmentDescription:
    algorithm = AlgorithmIdentificationSequence(
        name=model.name[:64],
        family=concept(model.family),
        version=model.version[:64],
        source=model.manufacturer[:64],
        parameters={"release digest": model.digest, **model.parameters},
    )
    return SegmentDescription(
        segment_number=number,
        segment_label=segment.label[:64],
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=tracking_uid(context.study_uid, context.bundle, segment.tracking_id),
        tracking_id=segment.tracking_id,
        display_color=CIELabColor.from_rgb(*color_of(segment)),
    )


def _fix_dimension_organization(dataset: Dataset, uid: str) -> None:
    """highdicom draws this UID at random; a result's UIDs are derived."""
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _refer_to_stored_frames(dataset: Dataset, frame_numbers: Sequence[int]) -> None:
    """From the frames of the volume, which highdicom was shown, to those of the source object."""
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        for image in frame.DerivationImageSequence[0].SourceImageSequence:
            image.ReferencedFrameNumber = frame_numbers[int(image.ReferencedFrameNumber) - 1]
