"""PS3.15 Table E.1-1: what the Basic Application Level Confidentiality Profile does with each attribute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from pydicom.tag import BaseTag


class Option(StrEnum):
    """Options of the profile (PS3.15 E.3) that an export may use."""

    PATIENT = "patient"
    """Retain Patient Characteristics: sex, age, size, weight and the like."""
    SHIFT = "shift"
    """Retain Longitudinal Temporal Information with Modified Dates: all dates of a patient moved by the same number of days."""
    DEVICE = "device"
    """Retain Device Identity: station, serial number and the like."""


#: Items of the De-identification Method Code Sequence (CID 7050).
METHODS: Mapping[Option | None, tuple[str, str]] = {
    None: ("113100", "Basic Application Confidentiality Profile"),
    Option.PATIENT: ("113108", "Retain Patient Characteristics Option"),
    Option.SHIFT: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Option.DEVICE: ("113109", "Retain Device Identity Option"),
}


@dataclass(frozen=True)
class Line:
    """One line of the table: the profile's code, and the options that keep (or shift) the attribute."""

    code: str
    options: frozenset[str]


@cache
def table() -> Mapping[str, Line]:
    """The table by tag, eight upper-case hexadecimal digits; ``X`` stands for any digit of a repeating group."""
    lines = {}
    for row in files("dicom_node.datasets").joinpath("confidentiality.csv").read_text(encoding="ascii").splitlines():
        if not row.startswith("#"):
            tag, code, options = row.split(",")
            lines[tag.upper()] = Line(code, frozenset(options.split()))
    return lines


def line_of(tag: BaseTag) -> Line | None:
    """The line about an attribute; None where the table has none."""
    text = f"{int(tag):08X}"
    if text[:2] in ("50", "60"):
        return table().get("50XXXXXX" if text[:2] == "50" else f"60XX{text[4:]}")
    return table().get(text)
