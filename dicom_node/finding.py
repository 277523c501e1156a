"""Queries as they are typed: keywords and values to an identifier, matches to lines."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

from dicom_node.errors import UsageError

_RETURNED = {
    "study": ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate", "ModalitiesInStudy", "StudyDescription"),
    "series": ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription"),
    "image": ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "InstanceNumber"),
}


def identifier(level: str, keys: Sequence[str]) -> Dataset:
    """The identifier of ``KEYWORD[=VALUE]`` keys, with what is worth showing at a level.

    Raises
    ------
    UsageError
        A keyword that the dictionary does not know.
    """
    asked = Dataset()
    asked.QueryRetrieveLevel = level.upper()
    for keyword in _RETURNED[level]:
        setattr(asked, keyword, "")
    for key in keys:
        keyword, _, value = key.partition("=")
        if tag_for_keyword(keyword) is None:
            raise UsageError(f"'{keyword}' is no keyword of the DICOM dictionary; PatientID and StudyDate are")
        if not value.isascii():
            asked.SpecificCharacterSet = "ISO_IR 192"
        setattr(asked, keyword, value)
    return asked


def shown(match: Dataset, asked: Dataset) -> list[str]:
    """A match as columns, in the order of what was asked for."""
    hidden = ("QueryRetrieveLevel", "SpecificCharacterSet")
    values = [match.get(each.keyword, "") for each in asked if each.keyword not in hidden]
    return ["/".join(map(str, value)) if isinstance(value, MultiValue) else str(value) for value in values]
