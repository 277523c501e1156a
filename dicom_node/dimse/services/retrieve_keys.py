"""The identifier of a C-MOVE or C-GET (PS3.4 C.4.2.1.4, C.4.2.2): which level, and the unique keys of it and those above."""

from __future__ import annotations

import re
from typing import Final

from pydicom.charset import convert_encodings, decode_bytes

from dicom_node.dimse.contexts import LEVELS
from dicom_node.dimse.identifier import IdentifierRefused
from dicom_node.pixels.elements import Element, NotReadable, read, text
from storage.retrieval import UniqueKeys

MAX_IDENTIFIER: Final = 4 << 20
"""Longest identifier taken, in bytes: some 60,000 UIDs."""

_KEYWORDS: Final = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_TAGS: Final = {"PATIENT": 0x00100020, "STUDY": 0x0020000D, "SERIES": 0x0020000E, "IMAGE": 0x00080018}
_ISSUER: Final = 0x00100021
_LEVEL: Final = 0x00080052
_CHARACTER_SET: Final = 0x00080005
_MOST: Final = 512  # elements
_UID: Final = re.compile(r"[0-9.]{1,64}")


def read_keys(identifier: bytes, transfer_syntax: str, sop_class_uid: str) -> UniqueKeys:
    """Read which instances are meant.

    Unique keys of the levels above that of the retrieve narrow it where they are given; they may be left out, as a UID needs no other
    key to be unique (PS3.4 C.4.2.2.2, relational retrieve). Issuer of Patient ID tells apart patients whose ID is the same.

    Raises
    ------
    IdentifierRefused
    """
    try:
        elements = read(identifier, transfer_syntax, MAX_IDENTIFIER, most=_MOST)
    except (NotReadable, RecursionError) as error:
        raise IdentifierRefused("the identifier cannot be read") from error
    level = text(elements, _LEVEL)
    values = {name: _values(elements, tag) for name, tag in _TAGS.items()}
    levels = LEVELS[sop_class_uid]
    if level not in levels:
        raise IdentifierRefused(f"Query/Retrieve Level has to be one of {', '.join(levels)}")
    if not values[level]:
        raise IdentifierRefused(f"no {_KEYWORDS[level]} at level {level}")
    below = levels[levels.index(level) + 1 :]
    if any(values[name] for name in below):
        raise IdentifierRefused(f"keys below level {level}")
    if not all(_UID.fullmatch(uid) for name in _TAGS if name != "PATIENT" for uid in values[name]):
        raise IdentifierRefused("a UID that is none")
    patient = values["PATIENT"] if "PATIENT" in levels else ()
    if len(patient) > 1 or (level == "PATIENT" and any(c in patient[0] for c in "*?")):
        raise IdentifierRefused("PatientID has to be a single value")
    issuer = _values(elements, _ISSUER) if patient else ()
    if len(issuer) > 1:
        raise IdentifierRefused("IssuerOfPatientID has to be a single value")
    return UniqueKeys("".join(patient), "".join(issuer), values["STUDY"], values["SERIES"], values["IMAGE"])


def _values(elements: list[Element], tag: int) -> tuple[str, ...]:
    for element in elements:
        if element.tag == tag and isinstance(element.value, bytes | memoryview):
            raw = bytes(element.value)
            return tuple(value for each in _text(raw, elements).split("\\") if (value := each.strip(" \0")))
    return ()


def _text(raw: bytes, elements: list[Element]) -> str:
    """A text in the identifier's character set; of the keys read here only PatientID may need it."""
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    names = text(elements, _CHARACTER_SET).split("\\")
    try:
        return str(decode_bytes(raw, convert_encodings(names), {0x5C}))
    except (LookupError, UnicodeError, ValueError):
        return raw.decode("latin-1")
