"""What a result takes over from its source: patient, study, order and trial (PS3.3 C.7.1 to C.7.2).

Text is taken over as `charset` says. Values that would make our object invalid (a PatientAge of "42",
a PatientSex of "female") are left empty where the attribute must be there, and left out where it need not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta, timezone, tzinfo

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag

from .charset import TextPolicy, raw_value, terms_of, text_element

PATIENT = [
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "QualityControlSubject",
    "EthnicGroupCodeSequence",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
]
STUDY = [
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "ReferringPhysicianIdentificationSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "ReferencedStudySequence",
    "ReasonForPerformedProcedureCodeSequence",
]
PATIENT_STUDY = [
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PregnancyStatus",
    "PatientSexNeutered",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "IssuerOfServiceEpisodeIDSequence",
]
TRIAL = [
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialProtocolEthicsCommitteeName",
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
]
TRIAL_REQUIRED = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID")
TRIAL_EMPTY = ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialTimePointID")
COPIED = (*PATIENT, *STUDY, *PATIENT_STUDY, "TimezoneOffsetFromUTC")
REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
REQUEST = (
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "AccessionNumber",
)

_TEXT = frozenset(["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"])
_FORMS = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9 _]{0,16}"),
    "DA": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "DS": re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *"),
    "DT": re.compile(r"\d{4,14}(\.\d{1,6})?([+-]\d{4})?"),
    "IS": re.compile(r" *[+-]?\d{1,10} *"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
    "UI": re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*"),
}
_LONGEST = {"AE": 16, "AS": 4, "CS": 16, "DS": 16, "IS": 12, "UI": 64}
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")


def identification(header: Dataset, policy: TextPolicy) -> Dataset:
    """The attributes that tie a result to patient, study, order and trial, ready to be written.

    Type 2 attributes are always there, empty if the source has nothing valid to say.
    """
    result = copied(header, COPIED, policy)
    result.update(_trial(header, policy))
    if result.get("PatientSex") not in ("M", "F", "O", "", None):
        del result.PatientSex
    for keyword in REQUIRED:
        if keyword not in result:
            result.add(_empty(keyword))
    return result


def _trial(header: Dataset, policy: TextPolicy) -> Dataset:
    """Clinical Trial Subject and Study; nothing where the source does not name trial and subject (type 1)."""
    result = copied(header, TRIAL, policy)
    subject = result.get("ClinicalTrialSubjectID") or result.get("ClinicalTrialSubjectReadingID")
    if not subject or not all(result.get(keyword) for keyword in TRIAL_REQUIRED):
        return Dataset()
    for keyword in TRIAL_EMPTY:
        if keyword not in result:
            result.add(_empty(keyword))
    return result


def requests(header: Dataset, policy: TextPolicy) -> list[Dataset]:
    """Items of the Request Attributes Sequence (0040,0275), which a General Series carries."""
    result = copied(header, ("RequestAttributesSequence",), policy)
    return list(result.get("RequestAttributesSequence") or [])


def referenced_requests(header: Dataset, study_uid: str, policy: TextPolicy) -> list[Dataset]:
    """The same orders as items of an SR's Referenced Request Sequence (0040,A370)."""
    items = []
    for request in requests(header, policy):
        item = Dataset()
        item.StudyInstanceUID = study_uid
        item.ReferencedStudySequence = []
        item.RequestedProcedureCodeSequence = list(request.get("RequestedProcedureCodeSequence") or [])
        for keyword in REQUEST:
            item.add(request[keyword] if keyword in request else _empty(keyword))
        if "AccessionNumber" not in request:
            item.update(copied(header, ("AccessionNumber",), policy))
        items.append(item)
    return items


def copied(header: Dataset, keywords: Iterable[str], policy: TextPolicy) -> Dataset:
    """The named attributes of `header` that are present and valid; nothing of `header` is changed."""
    result, terms = Dataset(), terms_of(header)
    for keyword in keywords:
        tag = Tag(tag_for_keyword(keyword) or 0)
        if tag in header:
            element = _taken(header, tag, policy, terms)
            if element is not None:
                result.add(element)
    return result


def source_offset(header: Dataset) -> tzinfo | None:
    """Timezone Offset From UTC (0008,0201) of the source, where it states a possible one."""
    match = _OFFSET.fullmatch(str(header.get("TimezoneOffsetFromUTC") or "").strip())
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    if minutes > 14 * 60:
        return None
    return timezone(timedelta(minutes=minutes if match[1] == "+" else -minutes))


def _taken(header: Dataset, tag: BaseTag, policy: TextPolicy, terms: tuple[str, ...]) -> DataElement | None:
    stored = header.get_item(tag)
    vr = dictionary_VR(tag)
    if vr == "SQ":
        return DataElement(tag, "SQ", Items([_item(item, policy, terms) for item in header[tag].value or []]))
    if vr not in _TEXT:
        return DataElement(tag, vr, header[tag].value, validation_mode=config.IGNORE)
    raw = raw_value(stored, terms)
    if not _valid(vr, raw):
        return None
    return text_element(tag, vr, policy.take(raw, terms))


def _item(item: Dataset, policy: TextPolicy, terms: tuple[str, ...]) -> Dataset:
    """A sequence item without private attributes; its own character set, if it has one, is obeyed and kept."""
    own = terms_of(item)
    result = Dataset()
    for tag in item.keys():  # noqa: SIM118 - iterating a Dataset would decode its elements
        if tag.is_private or tag.element == 0 or (policy.converts and tag == 0x00080005):
            continue
        try:
            element = _taken(item, tag, policy, own or terms)
        except KeyError:  # not in the dictionary
            continue
        if element is not None:
            result.add(element)
    return result


def _valid(vr: str, raw: bytes) -> bool:
    form, longest = _FORMS.get(vr), _LONGEST.get(vr)
    if form is None and longest is None:
        return True
    for value in raw.decode("latin-1").split("\\"):
        text = value.strip(" \0") if vr != "DA" else value.strip()
        if text and ((form is not None and not form.fullmatch(text)) or (longest is not None and len(text) > longest)):
            return False
    return True


def _empty(keyword: str) -> DataElement:
    tag = tag_for_keyword(keyword) or 0
    return DataElement(tag, dictionary_VR(tag), "")
