"""The one entry: findings and source headers in, encoded objects out.

`encode` is pure: no clock, no random number, no file. The same arguments give the same bytes, so a run that
is repeated after a crash makes the objects it made before, and every delivery sends the archived ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.findings import ModelIdentity, Prediction, Timings

from . import capture, key_objects, presentation, report, segmentation
from .attributes import copied, identification, requests, source_offset
from .charset import TextPolicy, encode_dataset, policy_for, terms_of
from .context import EncodedObject, Outcome, ResultContext
from .equipment import ACQUISITION_KEYWORDS, contributing_equipment
from .forms import Form
from .sources import Sources, read_sources

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def encode(
    prediction: Prediction, source_headers: Sequence[Dataset], context: ResultContext, images: NDArray[Any] | None = None
) -> list[EncodedObject]:
    """Encode a run's findings.

    Parameters
    ----------
    prediction:
        What the model found; for a run that did not apply or failed, `nothing_run`.
    source_headers:
        Data sets of the source images in volume order, with or without pixels; one for a multi-frame
        source. They are read, never changed.
    context:
        The run: keys, names, times, outcome, wanted kinds and forms.
    images:
        (planes, rows, columns) of values after the modality transformation; without them there is no Secondary Capture.

    Returns
    -------
    list[EncodedObject]
        SEG objects first, then the SR, then the other forms. Nothing for a run that did not apply or failed, unless
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
    if negative or not context.forms:
        return objects
    makers = _Makers(prediction, source_headers, sources, context, policy, images)
    return _with_forms(objects, plans if "SEG" in context.kinds else [], makers, finish)


class _Makers:
    """The forms beside the record, by their kinds."""

    def __init__(
        self,
        prediction: Prediction,
        headers: Sequence[Dataset],
        sources: Sources,
        context: ResultContext,
        policy: TextPolicy,
        images: NDArray[Any] | None,
    ) -> None:
        self._prediction = prediction
        self._headers = list({str(header.SOPInstanceUID): header for header in headers}.values())
        self._sources = sources
        self._context = context
        self._policy = policy
        self._images = images

    def plans(self, kind: str) -> list[segmentation.SegmentationPlan]:
        """Of a kind of segmentation: its objects."""
        makers = {"FRACTIONAL": segmentation.fractional, "LABELMAP": segmentation.label_maps}
        return makers[kind](self._prediction, self._context) if kind in makers else []

    def segmentation(self, plan: segmentation.SegmentationPlan) -> Dataset:
        return segmentation.build(plan, self._prediction, self._sources, self._context)

    def others(self, form: Form) -> list[Dataset]:
        """The objects of a form that is no segmentation."""
        found, sources, context = self._prediction, self._sources, self._context
        if form.kind == "KO":
            return [key_objects.build(found, sources, context, self._policy)] if not found.empty else []
        if form.kind == "PR":
            state = presentation.build(found, sources, self._headers, context)
            return [] if state is None else [state]
        if self._images is None or form.kind not in ("SC", "SC_MULTIFRAME"):
            return []
        captures = capture.Captures(found, sources, self._headers, context, self._images)
        return captures.singles() if form.kind == "SC" else captures.multiframe(form.max_frames)


def _with_forms(
    record: Sequence[EncodedObject], plans: Sequence[segmentation.SegmentationPlan], makers: _Makers, finish: _Finish
) -> list[EncodedObject]:
    """The record and the forms beside it; an object that serves several forms, because it is within their limits, is there once."""
    serves: dict[str, list[str]] = {each.sop_instance_uid: list(each.forms) for each in record}
    made: dict[str, EncodedObject] = {each.sop_instance_uid: each for each in record}

    def add(kind: str, form: Form, dataset: Dataset, summary: str) -> None:
        uid = str(dataset.SOPInstanceUID)
        if uid not in made:
            made[uid] = finish(kind, dataset, summary)
            serves[uid] = []
        serves[uid].append(str(form))

    for form in finish.forms:
        whole = list(plans) if form.kind == "SEG" else makers.plans(form.kind)
        for plan in whole:
            fits = not form.max_frames or len(segmentation.frames_of(plan)) <= form.max_frames
            for each in [plan] if fits else segmentation.split(plan, form.max_frames):
                if each.sop_instance_uid in made:
                    serves[each.sop_instance_uid].append(str(form))
                else:
                    add(form.kind, form, makers.segmentation(each), f"{len(each.segments)} segments")
        if form.kind not in segmentation.KINDS:
            for dataset in makers.others(form):
                add(form.kind, form, dataset, f"{int(dataset.get('NumberOfFrames', 1))} frames" if "Rows" in dataset else form.kind)
    return [replace(each, forms=tuple(serves[uid])) for uid, each in made.items()]


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

    @property
    def forms(self) -> tuple[Form, ...]:
        return self._context.forms

    def __call__(self, kind: str, dataset: Dataset, summary: str) -> EncodedObject:
        for keyword in ("PatientName", "PatientID"):
            assert not dataset.get(keyword)  # the shells carry no identity; it comes from here only
        dataset.update(self._identification)
        if kind not in ("SR", "KO") and self._requests:
            dataset.RequestAttributesSequence = self._requests
        date, time = self._when.strftime("%Y%m%d"), self._when.strftime("%H%M%S.%f")
        dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
        if kind == presentation.KIND:
            dataset.PresentationCreationDate, dataset.PresentationCreationTime = date, time
        else:
            dataset.ContentDate, dataset.ContentTime = date, time
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
            forms=(kind,),
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
