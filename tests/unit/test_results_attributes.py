"""Patient, study, order and trial are the source's; what would break our objects is left behind."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from dicom_node.results.encode import encode
from tests.results_cases import STUDY, context, headers, of_kind, prediction, read


def encoded(sources: list[Dataset]) -> list[Dataset]:
    return [read(item) for item in encode(prediction(sources), sources, context())]


def coded(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "99LOCAL", meaning
    return item


def test_identity_of_patient_and_study_is_copied() -> None:
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3", "ISO"
    trial = {"ClinicalTrialProtocolID": "T-7", "ClinicalTrialSponsorName": "Sponsor", "ClinicalTrialSubjectID": "7"}
    sources = headers(IssuerOfPatientID="HOSPITAL", IssuerOfPatientIDQualifiersSequence=[issuer], **trial)
    for dataset in encoded(sources):
        for keyword in [
            "PatientName",
            "PatientID",
            "PatientSex",
            "PatientBirthDate",
            "PatientAge",
            "StudyDate",
            "StudyTime",
            "StudyID",
            "AccessionNumber",
            "ReferringPhysicianName",
            "StudyDescription",
            "StudyInstanceUID",
            "IssuerOfPatientID",
            "ClinicalTrialProtocolID",
        ]:
            assert dataset[keyword].value == sources[0][keyword].value, keyword
        assert dataset.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "1.2.3"


def test_series_attributes_of_the_source_do_not_leak_into_ours() -> None:
    for dataset in encoded(headers(SeriesDescription="T1 sag", ProtocolName="T1", PerformingPhysicianName="A^B", SeriesDate="20251122")):
        assert dataset.SeriesDescription != "T1 sag"
        assert "SeriesDate" not in dataset
        assert "PerformingPhysicianName" not in dataset
        assert dataset.Manufacturer == "Example maker"


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientAge", "42", None),
        ("PatientSex", "female", ""),
        ("PatientBirthDate", "1970-01-01", ""),
        ("StudyDate", "20251399", ""),
        ("StudyTime", "25:00", ""),
        ("PatientWeight", 75.5, 75.5),
        ("PatientAge", "042Y", "042Y"),
        ("StudyTime", "101500.123", "101500.123"),
    ],
)
def test_invalid_values_are_left_empty_or_out(keyword: str, value: str, expected: object) -> None:
    for dataset in encoded(headers(**{keyword: value})):
        assert dataset.get(keyword) == expected


def test_missing_type_2_attributes_are_there_and_empty() -> None:
    sources = headers()
    for header in sources:
        for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName", "PatientSex"):
            del header[keyword]
    for dataset in encoded(sources):
        for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName", "PatientSex"):
            assert keyword in dataset
            assert not dataset[keyword].value


def test_orders_go_where_each_object_has_them() -> None:
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP1", "SPS1"
    request.RequestedProcedureDescription = "Head MR"
    request.RequestedProcedureCodeSequence = [coded("HMR", "Head MR")]
    request.add_new(0x00091001, "LO", "private")
    sources = headers(RequestAttributesSequence=[request])
    objects = encode(prediction(sources), sources, context())
    seg, report = read(of_kind(objects, "SEG")), read(of_kind(objects, "SR"))
    assert seg.RequestAttributesSequence[0].RequestedProcedureID == "RP1"
    assert 0x00091001 not in seg.RequestAttributesSequence[0]
    order = report.ReferencedRequestSequence[0]
    assert (order.StudyInstanceUID, order.RequestedProcedureID, order.AccessionNumber) == (STUDY, "RP1", "A1")
    assert order.RequestedProcedureCodeSequence[0].CodeValue == "HMR"
    assert order.PlacerOrderNumberImagingServiceRequest == ""


def test_private_and_unknown_attributes_stay_behind() -> None:
    item = coded("X", "x")
    item.add_new(0x00110010, "LO", "MAKER")
    item.add_new(0x00111001, "LO", "secret")
    for dataset in encoded(headers(ProcedureCodeSequence=[item])):
        assert not any(element.tag.is_private for element in dataset.iterall())
        assert dataset.ProcedureCodeSequence[0].CodeValue == "X"
