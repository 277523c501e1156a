"""Findings as a Comprehensive 3D SR after TID 1500, Measurement Report (PS3.16; SOP class ...88.34).

One measurement group per finding: TID 1411 for a segment of a volume, TID 1410 for one of a single frame,
TID 1501 for what belongs to the whole input (classifications, measurements without a segment, structures
that were looked for and not found, and the one group that says that a run found nothing, did not apply or
failed). Tracking Identifier and UID of a group are those of the segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    ReferencedSegmentationFrame,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForSegmentation,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    UIDRefContentItem,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from models.findings import Classification, ModelIdentity, Prediction, Segment
from models.findings import Measurement as Measured

from . import codes as own
from .attributes import referenced_requests
from .charset import TextPolicy
from .context import Outcome, ResultContext
from .equipment import general_equipment
from .segmentation import SOP_CLASS as SEG_SOP_CLASS
from .segmentation import SegmentationPlan
from .sources import Sources, further_shells
from .uids import instance_uid, series_number, series_uid, tracking_uid

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.88.34"
Group = (
    VolumetricROIMeasurementsAndQualitativeEvaluations
    | PlanarROIMeasurementsAndQualitativeEvaluations
    | MeasurementsAndQualitativeEvaluations
)
_STATES = {
    Outcome.FINDINGS: own.SUCCEEDED,
    Outcome.NOTHING_FOUND: own.SUCCEEDED,
    Outcome.NOT_APPLICABLE: own.NOT_ATTEMPTED,
    Outcome.FAILED: own.FAILED,
}
EXPERIMENTAL = "Experimental: the algorithm is not validated; its finding is a flag for people to check, and no diagnosis."
_SENTENCES = {
    Outcome.NOTHING_FOUND: "The analysis was completed and found nothing.",
    Outcome.NOT_APPLICABLE: "The analysis was not attempted: the images are not what the algorithm is for.",
    Outcome.FAILED: "The analysis failed; there is no result.",
}


def build(
    prediction: Prediction,
    plans: Sequence[SegmentationPlan],
    segmentations: Sequence[Dataset],
    sources: Sources,
    context: ResultContext,
    policy: TextPolicy,
) -> Dataset:
    """The SR but for what `encode` adds to every object (patient, equipment, times)."""
    model = prediction.model
    report = MeasurementReport(
        observation_context=_observer(model, context),
        procedure_reported=_procedures(sources),
        imaging_measurements=_Groups(prediction, plans, segmentations, sources, context).all(),
        title=own.IMAGING_MEASUREMENT_REPORT,
    )
    series = series_uid(context.study_uid, model.digest, "SR")
    return Comprehensive3DSR(
        evidence=[*sources.shells, *further_shells(sources, context), *segmentations],
        content=report,
        series_instance_uid=series,
        series_number=series_number(sources.series_number, model.digest, "SR"),
        sop_instance_uid=instance_uid(context.run_key, "SR"),
        instance_number=context.instance_number,
        series_description=f"{'EXPERIMENTAL ' if model.experimental else ''}{model.name} {model.version} report"[:64],
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=referenced_requests(sources.first, context.study_uid, policy) or None,
        previous_versions=_predecessor(context, series),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        **general_equipment(model),
    )


class _Groups:
    """The measurement groups of one report, in the order of the prediction."""

    def __init__(
        self,
        prediction: Prediction,
        plans: Sequence[SegmentationPlan],
        segmentations: Sequence[Dataset],
        sources: Sources,
        context: ResultContext,
    ) -> None:
        self._prediction = prediction
        self._sources = sources
        self._context = context
        self._stated: tuple[str, ...] = (f"evaluation = {context.evaluation}",) if context.evaluation else ()
        self._stated += tuple(f"input {each.name} = series {each.series_uid}" for each in context.inputs)
        self._algorithm = _algorithm(prediction.model, *self._stated)
        self._placed = {
            segment.number: (dataset, plan.numbers[segment.number])
            for plan, dataset in zip(plans, segmentations, strict=True)
            for segment in plan.segments
        }

    def all(self) -> list[Group]:
        outcome = Outcome(self._context.outcome)
        if outcome in (Outcome.NOT_APPLICABLE, Outcome.FAILED):
            return [self._statement(outcome)]
        groups: list[Group] = [self._segment(s) for s in self._prediction.segments]
        groups += [self._classification(c) for c in self._prediction.classifications]
        loose = [m for m in self._prediction.measurements if m.segment is None]
        if loose:
            numbers, others = _numbers(loose)
            groups.append(self._whole(self._prediction.model.name, measurements=numbers, evaluations=others))
        if self._prediction.empty and (outcome is Outcome.NOTHING_FOUND or not groups):
            groups.insert(0, self._statement(Outcome.NOTHING_FOUND))
        for group in groups if self._prediction.model.experimental else ():
            group[0].ContentSequence.append(TextContentItem(own.COMMENT, EXPERIMENTAL, RelationshipTypeValues.CONTAINS))
        return groups

    def _segment(self, segment: Segment) -> Group:
        measured, others = _numbers([m for m in self._prediction.measurements if m.segment == segment.number])
        category, kind = own.concept(segment.category), own.concept(segment.type)
        if segment.empty:
            absent = [QualitativeEvaluation(own.PRESENCE, own.ABSENT), *others]
            return self._whole(segment.tracking_id, finding_category=category, finding_type=kind, evaluations=absent, measurements=measured)
        if segment.number not in self._placed:
            return self._whole(segment.tracking_id, finding_category=category, finding_type=kind, measurements=measured, evaluations=others)
        dataset, number = self._placed[segment.number]
        common: dict[str, Any] = {
            "tracking_identifier": self._tracking(segment.tracking_id),
            "finding_category": category,
            "finding_type": kind,
            "algorithm_id": self._algorithm,
            "measurements": measured or None,
            "qualitative_evaluations": others or None,
        }
        if segment.mask.shape[0] == 1:
            return PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=self._frame(dataset, number), **common)
        return VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=self._volume(dataset, number), **common)

    def _volume(self, dataset: Dataset, number: int) -> ReferencedSegment:
        uid = str(dataset.SOPInstanceUID)
        if self._sources.multiframe:
            sop_class, instance = self._sources.instances()[0]
            image = SourceImageForSegmentation(sop_class, instance, sorted(self._sources.frame_numbers))
            return ReferencedSegment(SEG_SOP_CLASS, uid, number, source_images=[image])
        return ReferencedSegment(SEG_SOP_CLASS, uid, number, source_series=SourceSeriesForSegmentation(self._sources.series_uid))

    def _frame(self, dataset: Dataset, number: int) -> ReferencedSegmentationFrame:
        sop_class, instance = self._sources.instances()[0]
        frames = list(self._sources.frame_numbers) or None
        image = SourceImageForSegmentation(sop_class, instance, frames)
        in_object = _frame_of_segment(dataset, number)
        reference = ReferencedSegmentationFrame(SEG_SOP_CLASS, str(dataset.SOPInstanceUID), in_object, number, image)
        del reference[0].ReferencedSOPSequence[0].ReferencedSegmentNumber  # a frame or a segment, not both (PS3.3 table 10-3)
        return reference

    def _classification(self, found: Classification) -> Group:
        evaluations = [QualitativeEvaluation(own.concept(found.name), own.concept(found.value))]
        measurements = []
        if found.probability is not None:
            measurements.append(Measurement(own.PROBABILITY, float(found.probability), own.NO_UNITS))
        algorithm = self._algorithm
        if found.threshold is not None:
            algorithm = _algorithm(self._prediction.model, *self._stated, f"threshold for {found.label} = {found.threshold:g}")
        return self._whole(found.label, evaluations=evaluations, measurements=measurements, algorithm=algorithm)

    def _statement(self, outcome: Outcome) -> Group:
        """The group that says how the run ended when it ended without a finding."""
        evaluations = [QualitativeEvaluation(own.SUMMARY_OF_ANALYSES, _STATES[outcome])]
        if outcome is Outcome.NOTHING_FOUND:
            evaluations.append(QualitativeEvaluation(codes.DCM.Finding, own.ABSENT))
        group = self._whole(self._prediction.model.name, evaluations=evaluations)
        sentence = " ".join(text for text in (_SENTENCES[outcome], self._context.reason) if text)
        group[0].ContentSequence.append(TextContentItem(own.COMMENT, sentence, RelationshipTypeValues.CONTAINS))
        return group

    def _whole(
        self,
        finding: str,
        *,
        evaluations: Sequence[QualitativeEvaluation] = (),
        measurements: Sequence[Measurement] = (),
        finding_category: CodedConcept | None = None,
        finding_type: CodedConcept | None = None,
        algorithm: AlgorithmIdentification | None = None,
    ) -> MeasurementsAndQualitativeEvaluations:
        """A TID 1501 group about the whole input."""
        group = MeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking(finding),
            finding_category=finding_category,
            finding_type=finding_type,
            algorithm_id=algorithm or self._algorithm,
            measurements=list(measurements) or None,
            qualitative_evaluations=list(evaluations) or None,
            source_images=self._source_images(),
        )
        if len(self._sources.shells) > 1:
            group[0].ContentSequence.append(UIDRefContentItem(own.SOURCE_SERIES, self._sources.series_uid, RelationshipTypeValues.CONTAINS))
        for each in self._context.inputs:
            group[0].ContentSequence.append(UIDRefContentItem(own.SOURCE_SERIES, each.series_uid, RelationshipTypeValues.CONTAINS))
        return group

    def _source_images(self) -> list[SourceImageForMeasurementGroup]:
        """The image to look at: the only one, or the middle of a series, which is then referred to as a whole too."""
        instances = self._sources.instances()
        sop_class, instance = instances[len(instances) // 2]
        frames = sorted(self._sources.frame_numbers) or None
        return [SourceImageForMeasurementGroup(sop_class, instance, frames)]

    def _tracking(self, finding: str) -> TrackingIdentifier:
        return TrackingIdentifier(uid=tracking_uid(self._context.study_uid, self._context.bundle, finding), identifier=finding)


def _observer(model: ModelIdentity, context: ResultContext) -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=context.device_uid,
        name=context.station or None,
        manufacturer_name=model.manufacturer,
        model_name=f"{model.name} {model.version}",
        serial_number=model.digest,
    )
    return ObservationContext(observer_device_context=ObserverContext(codes.DCM.Device, device))


def _algorithm(model: ModelIdentity, *parameters: str) -> AlgorithmIdentification:
    stated = [f"release digest = {model.digest}", *(f"{name} = {value}" for name, value in model.parameters.items()), *parameters]
    return AlgorithmIdentification(
        name=model.name,
        version=model.version,
        parameters=stated,
        family=own.concept(model.family),
        manufacturer=model.manufacturer,
    )


def _numbers(measured: Sequence[Measured]) -> tuple[list[Measurement], list[QualitativeEvaluation]]:
    """Measurements, and those without a finite number (the mean of no voxel) as evaluations that say which.

    PS3.3 would have a NUM without value and with a qualifier, which widespread readers fail on.
    """
    numbers = [_measurement(m) for m in measured if isfinite(m.value)]
    return numbers, [QualitativeEvaluation(own.concept(m.name), own.not_finite(m.value)) for m in measured if not isfinite(m.value)]


def _measurement(measured: Measured) -> Measurement:
    """The number as a reader wants it, six digits, and beside it the one that was computed (0040,A161)."""
    exact = float(measured.value)
    shown = float(f"{exact:.6g}")
    item = Measurement(
        name=own.concept(measured.name),
        value=shown,
        unit=own.concept(measured.unit),
        method=None if measured.method is None else own.concept(measured.method),
        derivation=None if measured.derivation is None else own.concept(measured.derivation),
    )
    if shown != exact:
        item[0].MeasuredValueSequence[0].FloatingPointValue = exact
    return item


def _procedures(sources: Sources) -> list[CodedConcept]:
    """Procedure Reported: the imaging procedure as the source codes it, else as its modality implies."""
    found = []
    for item in sources.first.get("ProcedureCodeSequence") or []:
        value, scheme, meaning = (str(item.get(k) or "") for k in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
        if value and scheme and meaning and meaning.isascii():
            found.append(CodedConcept(value, scheme, meaning, str(item.get("CodingSchemeVersion") or "") or None))
    return found or [own.procedure_of(sources.modality)]


def _predecessor(context: ResultContext, series: str) -> list[Dataset] | None:
    if context.predecessor_sr_uid is None:
        return None
    previous = Dataset()
    previous.SOPClassUID = SOP_CLASS
    previous.SOPInstanceUID = context.predecessor_sr_uid
    previous.StudyInstanceUID = context.study_uid
    previous.SeriesInstanceUID = context.predecessor_series_uid or series
    return [previous]


def _frame_of_segment(dataset: Dataset, number: int) -> int:
    """The first frame of a segment in the encoded object; shared identification means that all frames are its."""
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
        identification = frame.get("SegmentIdentificationSequence")
        if identification is None or int(identification[0].ReferencedSegmentNumber) == number:
            return index
    raise ValueError(f"segment {number} has no frame")
