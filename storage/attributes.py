"""Which DICOM attribute the index holds, and where: the only place where a tag meets a column.

An attribute belongs to a level of the query/retrieve hierarchy (PS3.4 C.6). It is a column of that level's table, computed from other
rows (counts, Modalities in Study), or held only in the instances' header JSON, where it is found once a query is narrowed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from sqlalchemy import Column, Table

from storage import headers, schema


class Level(StrEnum):
    """Query/Retrieve Level (0008,0052)."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"

    @property
    def depth(self) -> int:
        return _LEVELS.index(self)


_LEVELS: Final = list(Level)
TABLES: Final[Mapping[Level, Table]] = dict(zip(Level, (schema.patient, schema.study, schema.series, schema.instance)))


class Source(Enum):
    """Where an attribute's value comes from."""

    COLUMN = "column"
    COMPUTED = "computed"
    HEADER = "header JSON"


@dataclass(frozen=True)
class Attribute:
    """One attribute of the index.

    Attributes
    ----------
    column : where its value stands, for `Source.COLUMN`
    multi : its values stand in one text with a backslash between them
    """

    keyword: str
    tag: int
    vr: str
    level: Level
    source: Source
    column: Column[Any] | None = None
    multi: bool = False


MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY, AVAILABILITY, TIMEZONE = 0x00080061, 0x00080062, 0x00080056, 0x00080201
PATIENT_NAME, REFERRING_PHYSICIAN = 0x00100010, 0x00080090
UNIQUE_KEYS: Final[Mapping[Level, int]] = {
    Level.PATIENT: 0x00100020,
    Level.STUDY: 0x0020000D,
    Level.SERIES: 0x0020000E,
    Level.IMAGE: 0x00080018,
}
# Number of Patient Related Studies ... Number of Series Related Instances: (level that is counted for, level that is counted)
COUNTS: Final[Mapping[int, tuple[Level, Level]]] = {
    0x00201200: (Level.PATIENT, Level.STUDY),
    0x00201202: (Level.PATIENT, Level.SERIES),
    0x00201204: (Level.PATIENT, Level.IMAGE),
    0x00201206: (Level.STUDY, Level.SERIES),
    0x00201208: (Level.STUDY, Level.IMAGE),
    0x00201209: (Level.SERIES, Level.IMAGE),
}
_INSTANCE_COLUMNS: Final = {
    headers.SOP_INSTANCE: "sop_uid",
    headers.SOP_CLASS: "sop_class_uid",
    headers.INSTANCE_NUMBER: "instance_number",
    headers.IMAGE_TYPE: "image_type",
    headers.ROWS: "rows",
    headers.COLUMNS: "columns",
    headers.BITS: "bits_allocated",
    headers.FRAMES: "number_of_frames",
    0x00083002: "transfer_syntax_uid",  # Available Transfer Syntax UID
}
# Held in the header JSON only, by level; whatever is named nowhere belongs to the instance.
_PATIENT_HEADER: Final = """
    TypeOfPatientID IssuerOfPatientIDQualifiersSequence PatientBirthTime PatientBirthDateInAlternativeCalendar OtherPatientIDs
    OtherPatientNames OtherPatientIDsSequence PatientBirthName PatientMotherBirthName EthnicGroup EthnicGroupCodeSequence
    PatientComments ReferencedPatientSequence PatientSpeciesDescription PatientSpeciesCodeSequence PatientBreedDescription
    ResponsiblePerson ResponsibleOrganization QualityControlSubject PatientIdentityRemoved DeidentificationMethod
    ClinicalTrialSubjectID ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName
"""
_STUDY_HEADER: Final = """
    PatientAge PatientSize PatientWeight PatientSexNeutered Occupation AdditionalPatientHistory MedicalAlerts Allergies SmokingStatus
    PregnancyStatus LastMenstrualDate PatientState AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence AdmissionID
    IssuerOfAdmissionIDSequence ServiceEpisodeID ServiceEpisodeDescription PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence
    NameOfPhysiciansReadingStudy PhysiciansReadingStudyIdentificationSequence ReferringPhysicianIdentificationSequence
    ConsultingPhysicianName RequestingPhysician RequestingService ProcedureCodeSequence ReferencedStudySequence
    IssuerOfAccessionNumberSequence ReasonForPerformedProcedureCodeSequence ReasonForVisit StudyComments InterpretationAuthor
    ClinicalTrialTimePointID ClinicalTrialTimePointDescription AnatomicRegionsInStudyCodeSequence
"""
_SERIES_HEADER: Final = """
    SeriesDescriptionCodeSequence PerformingPhysicianName PerformingPhysicianIdentificationSequence OperatorsName
    OperatorIdentificationSequence PerformedProcedureStepID PerformedProcedureStepDescription PerformedProcedureStepEndDate
    PerformedProcedureStepEndTime PerformedProtocolCodeSequence CommentsOnThePerformedProcedureStep RequestAttributesSequence
    ReferencedPerformedProcedureStepSequence RelatedSeriesSequence PatientPosition InstitutionAddress InstitutionalDepartmentName
    InstitutionCodeSequence DeviceSerialNumber DeviceUID SoftwareVersions PositionReferenceIndicator PresentationIntentType
    AnatomicalOrientationType TreatmentSessionUID ClinicalTrialSeriesID ClinicalTrialSeriesDescription
"""
# Of the instance's, those that an answer with "all" attributes holds.
_IMAGE_HEADER: Final = """
    InstanceCreationDate InstanceCreationTime AcquisitionDate AcquisitionTime AcquisitionDateTime ContentDate ContentTime
    AcquisitionNumber ImageLaterality AnatomicRegionSequence PrimaryAnatomicStructureSequence ImageComments BurnedInAnnotation
    DerivationDescription ImagePositionPatient ImageOrientationPatient SliceLocation SliceThickness PixelSpacing
    PhotometricInterpretation SamplesPerPixel BitsStored PixelRepresentation ContrastBolusAgent ViewPosition ViewCodeSequence
    ConceptNameCodeSequence ContentTemplateSequence CompletionFlag VerificationFlag VerifyingObserverSequence
    ReferencedRequestSequence CurrentRequestedProcedureEvidenceSequence PerformedProcedureCodeSequence ContentLabel
    ContentDescription ContentCreatorName PresentationCreationDate PresentationCreationTime ReferencedSeriesSequence
    SegmentSequence SegmentationType QuantityDefinitionSequence DocumentTitle MIMETypeOfEncapsulatedDocument
    StructureSetLabel RTPlanLabel LossyImageCompression WindowCenter WindowWidth
"""


def _columns(level: Level, columns: Mapping[int, str]) -> Iterable[Attribute]:
    for tag, name in columns.items():
        multi = tag == headers.IMAGE_TYPE
        yield Attribute(keyword_for_tag(tag), tag, _vr(tag), level, Source.COLUMN, TABLES[level].c[name], multi)


def _headers(level: Level, keywords: str) -> Iterable[Attribute]:
    for keyword in keywords.split():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        yield Attribute(keyword, tag, _vr(tag), level, Source.HEADER)


def _computed() -> Iterable[Attribute]:
    levels = {MODALITIES_IN_STUDY: Level.STUDY, SOP_CLASSES_IN_STUDY: Level.STUDY}
    for tag, level in {**levels, **{tag: pair[0] for tag, pair in COUNTS.items()}}.items():
        yield Attribute(keyword_for_tag(tag), tag, _vr(tag), level, Source.COMPUTED)


def _vr(tag: int) -> str:
    return dictionary_VR(tag)[:2]


ATTRIBUTES: Final[Mapping[int, Attribute]] = {
    attribute.tag: attribute
    for attributes in (
        _headers(Level.PATIENT, _PATIENT_HEADER),
        _headers(Level.STUDY, _STUDY_HEADER),
        _headers(Level.SERIES, _SERIES_HEADER),
        _headers(Level.IMAGE, _IMAGE_HEADER),
        _columns(Level.PATIENT, headers.PATIENT_COLUMNS),
        _columns(Level.STUDY, headers.STUDY_COLUMNS | {headers.STUDY: "study_uid"}),
        _columns(Level.SERIES, headers.SERIES_COLUMNS | {headers.SERIES: "series_uid"}),
        _columns(Level.IMAGE, _INSTANCE_COLUMNS),
        _computed(),
    )
    for attribute in attributes
}


def attribute_of(tag: int, vr: str, level: Level) -> Attribute | None:
    """Find the attribute of a tag for a query at `level`; None where the index cannot hold it.

    Instance Availability belongs to the level that is asked at; what the table does not name is an attribute of the instance.
    """
    known = ATTRIBUTES.get(tag)
    if known is not None:
        return known
    if tag == AVAILABILITY:
        return availability(level)
    if tag >> 16 < 8 or tag & 0xFFFF == 0 or tag >= 0x7FE00000:
        return None
    with contextlib.suppress(KeyError):  # private or newer than the dictionary: as the request says
        vr = _vr(tag)
    return Attribute(keyword_for_tag(tag), tag, vr, Level.IMAGE, Source.HEADER)


def columns_of(level: Level) -> dict[str, Column[Any]]:
    """The columns of a level by keyword."""
    return {each.keyword: each.column for each in ATTRIBUTES.values() if each.level is level and each.column is not None}


def availability(level: Level) -> Attribute:
    """Instance Availability of the entities of a level."""
    return Attribute("InstanceAvailability", AVAILABILITY, "CS", level, Source.COMPUTED)
