"""The images to look at as a Key Object Selection (PS3.3 A.35.4; PS3.16 TID 2010; SOP class 1.2.840.10008.5.1.4.1.1.88.59)."""

from __future__ import annotations

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept, DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom import Dataset
from pydicom.sr.codedict import codes

from models.findings import Prediction

from .attributes import referenced_requests
from .charset import TextPolicy
from .context import ResultContext
from .key_images import NOT_VERIFIED, key_planes, said_of, said_of_all, title_of
from .sources import Sources
from .uids import instance_uid, series_number, series_uid

TITLE = CodedConcept("113000", "DCM", "Of Interest")
SERIES = "KO key images"


def build(prediction: Prediction, sources: Sources, context: ResultContext, policy: TextPolicy) -> Dataset:
    """The document but for what `encode` adds to every object."""
    model = prediction.model
    planes = key_planes(prediction)
    images = [sources.shells[0]] if sources.multiframe else [sources.shells[plane] for plane in planes]
    device = DeviceObserverIdentifyingAttributes(
        uid=context.device_uid,
        name=context.station or None,
        manufacturer_name=model.manufacturer,
        model_name=f"{model.name} {model.version}",
    )
    content = KeyObjectSelection(
        document_title=TITLE,
        referenced_objects=images,
        observer_device_context=ObserverContext(codes.DCM.Device, device),
        description="\n".join(_sentences(prediction)),
    )
    document = KeyObjectSelectionDocument(
        evidence=images,
        content=content,
        series_instance_uid=series_uid(context.study_uid, model.digest, SERIES),
        series_number=series_number(sources.series_number, model.digest, SERIES),
        sop_instance_uid=instance_uid(context.run_key, SERIES),
        instance_number=context.instance_number,
        manufacturer=model.manufacturer[:64],
        requested_procedures=referenced_requests(sources.first, context.study_uid, policy) or None,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    document.SeriesDescription = f"{title_of(model)} key images"[:64]
    document.ManufacturerModelName, document.SoftwareVersions = model.name[:64], model.version[:64]
    if sources.multiframe:
        _name_frames(document, [sources.frame_numbers[plane] for plane in planes])
    return document


def _sentences(prediction: Prediction) -> list[str]:
    found = [f"{s.label} {said_of(prediction, s.number)}".strip() for s in prediction.segments if not s.empty]
    return [title_of(prediction.model), NOT_VERIFIED, *found, *said_of_all(prediction)]


def _name_frames(document: Dataset, frames: list[int]) -> None:
    for item in document.ContentSequence:
        if item.ValueType == "IMAGE":
            item.ReferencedSOPSequence[0].ReferencedFrameNumber = frames
