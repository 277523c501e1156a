"""Rows of the index as DICOM JSON (PS3.18 Annex F): one function is made for each query, and turns each row into bytes once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any, Final

from storage.query import Column

Value = str | int | float | None
Row = Sequence[Value]
Encode = Callable[[Any], str]

TEXTS: Final = frozenset({"LT", "ST", "UT", "UR"})  # a backslash in them separates nothing
NUMBERS: Final = frozenset({"DS", "IS", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV"})
_JSON_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def row_writer(columns: Sequence[Column], retrieve_url: Callable[[Row], str] | None = None) -> Callable[[Row], str]:
    """Make the function that writes a row as one JSON object, its attributes in ascending order.

    Parameters
    ----------
    retrieve_url
        Makes the value of Retrieve URL (0008,1190) of a row.
    """
    parts: list[tuple[int, str, str, Encode]] = []
    for number, column in enumerate(columns):
        head = f'"{column.tag:08X}":{{"vr":"{column.vr}"'
        parts.append((number, f'{head},"Value":', f"{head}}}", encoder(column.vr)))
    if retrieve_url is not None:
        at = sum(column.tag < 0x00081190 for column in columns)
        parts.insert(at, (-1, '"00081190":{"vr":"UR","Value":[', "", encode_basestring))

    def write(row: Row) -> str:
        written = []
        for number, head, empty, encode in parts:
            if number < 0:
                assert retrieve_url is not None
                written.append(f"{head}{encode(retrieve_url(row))}]}}")
                continue
            value = row[number]
            if value is None or value == "":
                written.append(empty)
            else:
                text = encode(value)
                written.append(f"{head}{text}}}" if text else empty)
        return "{" + ",".join(written) + "}"

    return write


def encoder(vr: str) -> Encode:
    """The function that writes a column's value as a JSON array; it returns "" for what is empty after all."""
    if vr == "SQ":
        return _items
    if vr == "PN":
        return lambda value: _array(str(value).split("\\"), _name)
    if vr in NUMBERS:
        return lambda value: f"[{value}]" if type(value) is int else _array(str(value).split("\\"), _number)
    if vr in TEXTS:
        return lambda value: f"[{encode_basestring(str(value))}]"
    return _strings


def _strings(value: Any) -> str:
    text = str(value)
    if "\\" not in text:
        return f"[{encode_basestring(text)}]"
    return _array(text.split("\\"), encode_basestring)


def _array(values: Sequence[str], encode: Callable[[str], str]) -> str:
    if not any(values):
        return ""
    return f"[{','.join([encode(value) if value else 'null' for value in values])}]"


def _name(text: str) -> str:
    groups = zip(_GROUPS, text.split("="))
    return "{" + ",".join(f'"{name}":{encode_basestring(group)}' for name, group in groups if group) + "}"


def _number(text: str) -> str:
    """A number as it is written where JSON can say it so; else as JSON says it, or as text where it is none (PS3.18 F.2.2)."""
    text = text.strip()
    if _JSON_NUMBER.fullmatch(text):
        return text
    try:
        number = float(text)
        return json.dumps(int(number) if number.is_integer() else number, allow_nan=False)
    except (ValueError, OverflowError):
        return encode_basestring(text)


def _items(value: Any) -> str:
    text = str(value)
    return "" if text == "[]" else text
