"""Coded concepts that results use beyond what a model brings along."""

from __future__ import annotations

from math import isnan

from highdicom.sr import CodedConcept

from models.findings import Code


def concept(code: Code) -> CodedConcept:
    """A model's code as highdicom's coded concept."""
    return CodedConcept(code.value, code.scheme, code.meaning[:64])


IMAGING_MEASUREMENT_REPORT = CodedConcept("126000", "DCM", "Imaging Measurement Report")
PROCESSING_EQUIPMENT = CodedConcept("109102", "DCM", "Processing Equipment")
ACQUISITION_EQUIPMENT = CodedConcept("109101", "DCM", "Acquisition Equipment")
SOURCE_SERIES = CodedConcept("121323", "DCM", "Source series for image processing operation")
COMMENT = CodedConcept("121106", "DCM", "Comment")
PROBABILITY = CodedConcept("2339001", "SCT", "Probability")
NO_UNITS = CodedConcept("1", "UCUM", "no units")

SUMMARY_OF_ANALYSES = CodedConcept("111065", "DCM", "Summary of Analyses")
SUCCEEDED = CodedConcept("111222", "DCM", "Succeeded")
FAILED = CodedConcept("111224", "DCM", "Failed")
NOT_ATTEMPTED = CodedConcept("111225", "DCM", "Not Attempted")

PRESENCE = CodedConcept("121052", "DCM", "Presence of property")
ABSENT = CodedConcept("121054", "DCM", "Absent")

# Procedure Reported (CID 100) where the source does not name its procedure itself.
_PROCEDURES = {
    "CT": CodedConcept("25045-6", "LN", "CT unspecified body region"),
    "MR": CodedConcept("25056-3", "LN", "MRI unspecified body region"),
    "PT": CodedConcept("44136-0", "LN", "PET unspecified body region"),
    "NM": CodedConcept("49118-3", "LN", "NM unspecified body region"),
    "CR": CodedConcept("43468-8", "LN", "XR unspecified body region"),
    "DX": CodedConcept("43468-8", "LN", "XR unspecified body region"),
}
_IMAGING = CodedConcept("363679005", "SCT", "Imaging procedure")


def not_finite(value: float) -> CodedConcept:
    """Why a measurement has no value (CID 42, Numeric Value Qualifier)."""
    if isnan(value):
        return CodedConcept("114000", "DCM", "Not a number")
    if value < 0:
        return CodedConcept("114001", "DCM", "Negative Infinity")
    return CodedConcept("114002", "DCM", "Positive Infinity")


def procedure_of(modality: str) -> CodedConcept:
    """The imaging procedure that a modality stands for."""
    return _PROCEDURES.get(modality, _IMAGING)
