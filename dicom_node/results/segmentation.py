"""Segments as a Segmentation object (PS3.3 A.51; SOP class 1.2.840.10008.5.1.4.1.1.66.4).

BINARY; FRACTIONAL for segments that carry a probability. Empty frames are left out, every frame that is
written refers to the source frame it was derived from, and segments without a voxel are not described at
all: the report tells of them. The segments of a 2-D image without a place in the patient (a radiograph) have
none either: their geometry is that of the image they refer to (no Frame of Reference, no Pixel Measures).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.findings import ModelIdentity, Prediction, Segment

from .codes import concept
from .context import ResultContext
from .equipment import general_equipment
from .sources import Sources
from .uids import dimension_organization_uid, instance_uid, series_number, series_uid, tracking_uid

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
_PALETTE = ((230, 120, 90), (90, 160, 230), (120, 200, 110), (230, 200, 80), (180, 120, 220), (100, 210, 210))


@dataclass(frozen=True, eq=False)
class SegmentationPlan:
    """Which segments go into one object; `numbers` maps a segment's number in the prediction to the one in the object."""

    kind: SegmentationTypeValues
    segments: tuple[Segment, ...]
    sop_instance_uid: str

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
        series_instance_uid=series_uid(context.study_uid, model.digest, "SEG"),
        series_number=series_number(sources.series_number, model.digest, "SEG"),
        sop_instance_uid=plan.sop_instance_uid,
        instance_number=context.instance_number,
        series_description=f"{model.name} {model.version} segmentation"[:64],
        content_label="SEGMENTATION",
        content_description=", ".join(s.label for s in plan.segments)[:64],
        omit_empty_frames=True,
        **general_equipment(model),
    )
    dataset.ContentCreatorName = ""  # type 2: no person made this
    dataset["PixelData"].VR = "OB"  # 1 or 8 bits allocated (PS3.5 section A.2)
    _fix_dimension_organization(dataset, dimension_organization_uid(context.run_key, plan.kind.value))
    if not sources.placed:
        dataset.PatientOrientation = list(sources.first.get("PatientOrientation") or []) or None  # type 2C without positions
    if sources.multiframe:
        _refer_to_stored_frames(dataset, sources.frame_numbers)
    return dataset


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
    assert segment.probability is not None  # by the choice of segments in `plan`
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
        display_color=CIELabColor.from_rgb(*(segment.color or _PALETTE[(segment.number - 1) % len(_PALETTE)])),
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
