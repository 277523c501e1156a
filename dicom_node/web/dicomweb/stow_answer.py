"""The answer to a STOW request (PS3.18 10.5.3, I.2.2): what became of each instance, as DICOM JSON or native DICOM XML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement, tostring

from dicom_node.dimse.services.store import COERCION_OF_DATA_ELEMENTS, OUT_OF_RESOURCES, SUCCESS
from dicom_node.web.dicomweb.resources import Resource

DICOM_JSON, JSON, DICOM_XML = "application/dicom+json", "application/json", "application/dicom+xml"

TRANSFER_SYNTAX_NOT_SUPPORTED: Final = 0xC122
ERROR_COMMENT, SOP_CLASS, SOP_INSTANCE, RETRIEVE_URL = "00000902", "00081150", "00081155", "00081190"
WARNING_REASON, FAILURE_REASON, FAILED, REFERENCED, OTHERS = "00081196", "00081197", "00081198", "00081199", "0008119A"
_KEYWORDS: Final = {
    ERROR_COMMENT: "ErrorComment",
    SOP_CLASS: "ReferencedSOPClassUID",
    SOP_INSTANCE: "ReferencedSOPInstanceUID",
    RETRIEVE_URL: "RetrieveURL",
    WARNING_REASON: "WarningReason",
    FAILURE_REASON: "FailureReason",
    FAILED: "FailedSOPSequence",
    REFERENCED: "ReferencedSOPSequence",
    OTHERS: "OtherFailuresSequence",
}
Model = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Stored:
    """What became of one part: a status of the Storage service (PS3.4 B.2.3); without a SOP Instance UID it was no instance at all."""

    status: int
    comment: str = ""
    sop_class: str = ""
    sop_instance: str = ""
    study: str = ""
    series: str = ""

    @property
    def ok(self) -> bool:
        """Whether the instance is taken, with a warning perhaps."""
        return self.status in (SUCCESS, COERCION_OF_DATA_ELEMENTS)


def http_status(results: Sequence[Stored]) -> int:
    """The status of the whole (PS3.18 table 10.5.3-1); 503 where nothing could be taken for want of disk or database."""
    if all(result.status == SUCCESS for result in results):
        return 200
    if any(result.ok for result in results):
        return 202
    return 503 if all(result.status == OUT_OF_RESOURCES for result in results) else 409


def model(results: Sequence[Stored], service: str) -> Model:
    """The Store Instances Response Module, in the DICOM JSON Model."""
    stored = [result for result in results if result.ok]
    failed = [result for result in results if not result.ok]
    studies = {result.study for result in stored}
    url = service + Resource(next(iter(studies))).path if len(studies) == 1 else ""
    answer: Model = {RETRIEVE_URL: {"vr": "UR", **({"Value": [url]} if url else {})}}
    _sequence(answer, FAILED, (_failure(result) for result in failed if result.sop_instance))
    _sequence(answer, REFERENCED, (_reference(result, service) for result in stored))
    _sequence(answer, OTHERS, (_failure(result) for result in failed if not result.sop_instance))
    return dict(sorted(answer.items()))


def _sequence(answer: Model, tag: str, items: Iterable[Model]) -> None:
    value = list(items)
    if value:
        answer[tag] = {"vr": "SQ", "Value": value}


def _failure(result: Stored) -> Model:
    names = {SOP_CLASS: result.sop_class, SOP_INSTANCE: result.sop_instance}
    item: Model = {tag: {"vr": "UI", "Value": [uid]} for tag, uid in names.items() if uid}
    item[FAILURE_REASON] = {"vr": "US", "Value": [result.status]}
    if result.comment:
        item[ERROR_COMMENT] = {"vr": "LO", "Value": [result.comment]}
    return dict(sorted(item.items()))


def _reference(result: Stored, service: str) -> Model:
    item: Model = {SOP_CLASS: {"vr": "UI", "Value": [result.sop_class]}, SOP_INSTANCE: {"vr": "UI", "Value": [result.sop_instance]}}
    if result.study and result.series:
        path = Resource(result.study, result.series, result.sop_instance).path
        item[RETRIEVE_URL] = {"vr": "UR", "Value": [service + path]}
    if result.status != SUCCESS:
        item[WARNING_REASON] = {"vr": "US", "Value": [result.status]}
    return item


def xml(answer: Model) -> bytes:
    """The same as native DICOM XML (PS3.19 A.1)."""
    root = Element("NativeDicomModel", {"xmlns": "http://dicom.nema.org/PS3.19/models/NativeDICOM"})
    _attributes(root, answer)
    text: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _attributes(parent: Element, attributes: Model) -> None:
    for tag, attribute in attributes.items():
        names = {"tag": tag, "vr": attribute["vr"], "keyword": _KEYWORDS[tag]}
        element = SubElement(parent, "DicomAttribute", names)
        for number, value in enumerate(attribute.get("Value", ()), 1):
            if attribute["vr"] == "SQ":
                _attributes(SubElement(element, "Item", {"number": str(number)}), value)
            else:
                SubElement(element, "Value", {"number": str(number)}).text = str(value)
