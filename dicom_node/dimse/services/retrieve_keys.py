"""The identifier of a C-MOVE or C-GET (PS3.4 C.4.2.1.4, C.4.2.2): which level, and the unique keys of it and those above."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from dicom_node.dimse.contexts import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    PATIENT_STUDY_ONLY_GET,
    PATIENT_STUDY_ONLY_MOVE,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from storage.retrieval import UniqueKeys

MAX_IDENTIFIER: Final = 4 << 20
"""Longest identifier taken, in bytes: some 60,000 UIDs."""

_STUDY_LEVELS: Final = ("STUDY", "SERIES", "IMAGE")
LEVELS: Final[Mapping[str, tuple[str, ...]]] = {
    PATIENT_ROOT_MOVE: ("PATIENT", *_STUDY_LEVELS),
    PATIENT_ROOT_GET: ("PATIENT", *_STUDY_LEVELS),
    STUDY_ROOT_MOVE: _STUDY_LEVELS,
    STUDY_ROOT_GET: _STUDY_LEVELS,
    PATIENT_STUDY_ONLY_MOVE: ("PATIENT", "STUDY"),
    PATIENT_STUDY_ONLY_GET: ("PATIENT", "STUDY"),
}
_KEYWORDS: Final = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_TAGS: Final = [0x00080018, 0x00080052, 0x00100020, 0x0020000D, 0x0020000E]
_UID: Final = re.compile(r"[0-9.]{1,64}")


class IdentifierRefused(ValueError):
    """The identifier is none for this SOP class; the text is an Error Comment and holds no value of the identifier."""


def read_keys(identifier: bytes, transfer_syntax: str, sop_class_uid: str) -> UniqueKeys:
    """Read which instances are meant.

    Unique keys of the levels above that of the retrieve narrow it where they are given; they may be left out, as a UID needs no other
    key to be unique (PS3.4 C.4.2.2.2, relational retrieve).

    Raises
    ------
    IdentifierRefused
    """
    try:
        dataset = _decode(identifier, transfer_syntax)
        level = str(dataset.get("QueryRetrieveLevel", "")).strip()
        values = {name: _values(dataset, keyword) for name, keyword in _KEYWORDS.items()}
    except Exception as error:  # whatever the bytes make the parser do, they are no identifier
        raise IdentifierRefused("the identifier cannot be read") from error
    levels = LEVELS[sop_class_uid]
    if level not in levels:
        raise IdentifierRefused(f"Query/Retrieve Level has to be one of {', '.join(levels)}")
    if not values[level]:
        raise IdentifierRefused(f"no {_KEYWORDS[level]} at level {level}")
    below = levels[levels.index(level) + 1 :]
    if any(values[name] for name in below):
        raise IdentifierRefused(f"keys below level {level}")
    if not all(_UID.fullmatch(uid) for name in _STUDY_LEVELS for uid in values[name]):
        raise IdentifierRefused("a UID that is none")
    patient = values["PATIENT"] if "PATIENT" in levels else ()
    if len(patient) > 1 or (level == "PATIENT" and any(c in patient[0] for c in "*?")):
        raise IdentifierRefused("PatientID has to be a single value")
    return UniqueKeys(patient[0] if patient else "", values["STUDY"], values["SERIES"], values["IMAGE"])


def _decode(identifier: bytes, transfer_syntax: str) -> Dataset:
    if transfer_syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        import zlib

        identifier = zlib.decompressobj(-zlib.MAX_WBITS).decompress(identifier, MAX_IDENTIFIER)
    implicit, little = transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN, transfer_syntax != EXPLICIT_VR_BIG_ENDIAN
    return read_dataset(BytesIO(identifier), implicit, little, specific_tags=_TAGS)


def _values(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    value = dataset.get(keyword)
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else list(value)
    return tuple(text for each in values if (text := str(each).strip(" \0")))
