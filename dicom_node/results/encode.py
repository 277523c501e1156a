"""The one entry: findings and source headers in, encoded objects out.

`encode` is pure: no clock, no random number, no file. The same arguments give the same bytes, so a run that
is repeated after a crash makes the objects it made before, and every delivery sends the archived ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from pydicom.dataset import Dataset

from models.findings import ModelIdentity, Prediction, Timings

from . import report, segmentation
from .attributes import copied, identification, requests, source_offset
from .charset import TextPolicy, encode_dataset, policy_for, terms_of
from .context import EncodedObject, Outcome, ResultContext
from .equipment import ACQUISITION_KEYWORDS, contributing_equipment
from .sources import Sources, read_sources

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def encode(prediction: Prediction, source_headers: Sequence[Dataset], context: ResultContext) -> list[EncodedObject]:
    """Encode a run's findings.

    Parameters
    ----------
    prediction:
        What the model found; for a run that did not apply or failed, `nothing_run`.
    source_headers:
        Data sets of the source images in volume order, with or without pixels; one for a multi-frame
        source. They are read, never changed.
    context:
        The run: keys, names, times, outcome, wanted kinds.

    Returns
    -------
    list[EncodedObject]
        SEG objects first, then the SR. Nothing for a run that did not apply or failed, unless
        `context.report_reason` asks for an SR that says so.

    Raises
    ------
    ValueError
        Prediction, headers and context do not belong together.
    """
    outcome = Outcome(context.outcome)
    negative = outcome in (Outcome.NOT_APPLICABLE, Outcome.FAILED)
    if negative and not context.report_reason:
        return []
    sources = read_sources(prediction, source_headers, context.study_uid)
    policy = policy_for(terms_of(sources.first), "".join(_own_text(prediction, context)))
    finish = _Finish(prediction.model, sources, context, policy)
    plans = [] if negative or "SEG" not in context.kinds else segmentation.plan(prediction, context)
    built = [segmentation.build(plan, prediction, sources, context) for plan in plans]
    objects = [finish("SEG", dataset, f"{len(plan.segments)} segments") for plan, dataset in zip(plans, built, strict=True)]
    if "SR" in context.kinds:
        document = report.build(prediction, plans, built, sources, context, policy)
        objects.append(finish("SR", document, str(outcome)))
    return objects


def nothing_run(model: ModelIdentity, source_headers: Sequence[Dataset], device: str = "") -> Prediction:
    """The prediction of a run whose model did not run: no finding, and the images it would have had."""
    sources = tuple(str(header.SOPInstanceUID) for header in source_headers)
    return Prediction(model, (), (), (), sources, (), device, Timings())


class _Finish:
    """What every object of a run gets in the same way, and its encoding."""

    def __init__(self, model: ModelIdentity, sources: Sources, context: ResultContext, policy: TextPolicy) -> None:
        self._context = context
        self._policy = policy
        self._identification = identification(sources.first, policy)
        self._requests = requests(sources.first, policy)
        when = context.local_time(source_offset(sources.first))
        self._when: datetime = when
        acquisition = copied(sources.first, ACQUISITION_KEYWORDS, policy)
        self._equipment = contributing_equipment(model, context, when, acquisition)

    def __call__(self, kind: str, dataset: Dataset, summary: str) -> EncodedObject:
        for keyword in ("PatientName", "PatientID"):
            assert not dataset.get(keyword)  # the shells carry no identity; it comes from here only
        dataset.update(self._identification)
        if kind == "SEG" and self._requests:
            dataset.RequestAttributesSequence = self._requests
        date, time = self._when.strftime("%Y%m%d"), self._when.strftime("%H%M%S.%f")
        dataset.InstanceCreationDate = dataset.ContentDate = date
        dataset.InstanceCreationTime = dataset.ContentTime = time
        dataset.DeviceUID = self._context.device_uid
        dataset.ContributingEquipmentSequence = self._equipment
        return EncodedObject(
            kind=kind,
            sop_class_uid=str(dataset.SOPClassUID),
            sop_instance_uid=str(dataset.SOPInstanceUID),
            series_uid=str(dataset.SeriesInstanceUID),
            study_uid=self._context.study_uid,
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
            dataset_bytes=encode_dataset(dataset, self._policy),
            summary=summary,
        )


def _own_text(prediction: Prediction, context: ResultContext) -> Iterator[str]:
    """All text that we add to the source's: it decides the character set."""
    model = prediction.model
    yield from (model.name, model.version, model.manufacturer, model.family.meaning)
    yield from (f"{name}{value}" for name, value in model.parameters.items())
    yield from (context.reason, context.station, context.software_version)
    for segment in prediction.segments:
        yield from (segment.label, segment.tracking_id, segment.category.meaning, segment.type.meaning)
    for measured in prediction.measurements:
        yield from (code.meaning for code in (measured.name, measured.unit, measured.method, measured.derivation) if code)
    for found in prediction.classifications:
        yield from (found.label, found.name.meaning, found.value.meaning)
