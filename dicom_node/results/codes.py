"""Coded concepts that results use beyond what a model brings along."""

from __future__ import annotations

from highdicom.sr import CodedConcept

from models.findings import Code


def concept(code: Code) -> CodedConcept:
    """A model's code as highdicom's coded concept."""
    return CodedConcept(code.value, code.scheme, code.meaning[:64])


IMAGING_MEASUREMENT_REPORT = CodedConcept("126000", "DCM", "Imaging Measurement Report")
PROCESSING_EQUIPMENT = CodedConcept("109102", "DCM", "Processing Equipment")
ACQUISITION_EQUIPMENT = CodedConcept("109101", "DCM", "Acquisition Equipment")
COMMENT = CodedConcept("121106", "DCM", "Comment")
PROBABILITY = CodedConcept("2339001", "SCT", "Probability")
NO_UNITS = CodedConcept("1", "UCUM", "no units")

SUMMARY_OF_ANALYSES = CodedConcept("111065", "DCM", "Summary of Analyses")
SUCCEEDED = CodedConcept("111222", "DCM", "Succeeded")
FAILED = CodedConcept("111224", "DCM", "Failed")
NOT_ATTEMPTED = CodedConcept("111225", "DCM", "Not Attempted")

PRESENCE = CodedConcept("121052", "DCM", "Presence of property")
ABSENT = CodedConcept("121054", "DCM", "Absent")

# Procedure Reported where the source does not name its procedure itself.
_PROCEDURES = {
    "CT": CodedConcept("77477000", "SCT", "Computed tomography"),
    "MR": CodedConcept("113091000", "SCT", "Magnetic resonance imaging"),
    "PT": CodedConcept("82918005", "SCT", "Positron emission tomography"),
    "NM": CodedConcept("373205008", "SCT", "Nuclear medicine imaging procedure"),
    "US": CodedConcept("16310003", "SCT", "Ultrasonography"),
    "MG": CodedConcept("71651007", "SCT", "Mammography"),
    "CR": CodedConcept("168537006", "SCT", "Plain radiography"),
    "DX": CodedConcept("168537006", "SCT", "Plain radiography"),
}
_IMAGING = CodedConcept("363679005", "SCT", "Imaging")


def procedure_of(modality: str) -> CodedConcept:
    """The imaging procedure that a modality stands for (CID 100 where it has one)."""
    return _PROCEDURES.get(modality, _IMAGING)
