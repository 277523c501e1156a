"""What SQL cannot say of a row: attributes that only the header JSON holds, sequences, other offsets from UTC.

Values leave here as text with backslashes between several of them, as a number, as the DICOM JSON items of a sequence, or as None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storage.attributes import TIMEZONE, Level, Source
from storage.header_json import decode_header
from storage.matching import parse, value_matches
from storage.names import name_matches
from storage.query_dates import PAIRS, combined_matches, minutes, shift
from storage.query_sql import Condition

if TYPE_CHECKING:
    from storage.query import Key, Plan

Row = Sequence[Any]
Answer = tuple[str | int | None, ...]
_NUMBERS = frozenset({"IS", "DS", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV"})


class RowReader:
    """Makes answers of the rows of a plan's statement: its columns, then the headers of `levels`, then `hidden` attributes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._width = len(plan.selected)
        self._headers = {level: self._width + at for at, level in enumerate(plan.header_levels)}
        self._at = {attribute.tag: at for at, attribute in enumerate(plan.selected)}
        first = self._width + len(self._headers)
        self._at |= {attribute.tag: first + at for at, attribute in enumerate(plan.hidden) if attribute.tag not in self._at}
        self._keys = {key.tag: key for key in plan.query.keys}
        self._offset = minutes(plan.query.timezone)

    def read(self, row: Row) -> Answer | None:
        """The answer that a row gives; None where it does not match."""
        values = list(row)
        if self._offset is not None:
            self._adjust(values, self._offset)
        headers = {level: decode_header(row[at]) if row[at] is not None else {} for level, at in self._headers.items()}
        for condition in self._plan.checked:
            if not self._holds(condition, values, headers):
                return None
        for at, attribute in enumerate(self._plan.selected):
            if attribute.source is Source.HEADER:
                element = headers[attribute.level].get(f"{attribute.tag:08X}", {})
                key = self._keys.get(attribute.tag)
                values[at] = element_text(element, key.items if key else ())
        return tuple(values[: self._width])

    def _holds(self, condition: Condition, values: Sequence[Any], headers: Mapping[Level, Mapping[str, Any]]) -> bool:
        attribute = condition.attribute
        if attribute.source is Source.HEADER:
            element = headers[attribute.level].get(f"{attribute.tag:08X}", {})
            return element_matches(self._keys[attribute.tag], element, fuzzy=self._plan.query.fuzzy)
        value = values[self._at[attribute.tag]]
        if condition.span is not None:
            return combined_matches(value, values[self._at[PAIRS[attribute.tag]]], *condition.span)
        return value_matches(condition.value, value, attribute.vr, multi=attribute.multi)

    def _adjust(self, values: list[Any], wanted: int) -> None:
        zone = self._at.get(TIMEZONE)
        own = minutes(values[zone]) if zone is not None else None
        if zone is None or own is None:
            return
        for date, time in PAIRS.items():
            if date in self._at and time in self._at:
                at, after = self._at[date], self._at[time]
                values[at], values[after] = shift(values[at], values[after], wanted - own)
        values[zone] = self._plan.query.timezone


def element_matches(key: Key, element: Mapping[str, Any], *, fuzzy: bool = False) -> bool:
    """Tell whether an attribute, as DICOM JSON, matches; of a sequence any item, with all of its keys (PS3.4 C.2.2.2.6)."""
    if key.items:
        found = element.get("Value") or []
        return all(not _asks(item) or any(_item_matches(item, stored, fuzzy) for stored in found) for item in key.items)
    vr = element.get("vr") or key.vr
    if vr == "PN":
        return name_matches(key.value, _texts(element), fuzzy=fuzzy)
    values = _texts(element)
    if vr in _NUMBERS:
        terms = parse(key.value, vr)
        return not terms or bool({_number(text) for text in values} & {_number(getattr(term, "text", "")) for term in terms})
    return value_matches(key.value, values or None, vr)


def _item_matches(keys: Sequence[Key], item: Mapping[str, Any], fuzzy: bool) -> bool:
    return all(element_matches(key, item.get(f"{key.tag:08X}", {}), fuzzy=fuzzy) for key in keys)


def _asks(keys: Sequence[Key]) -> bool:
    return any(_asks(item) for key in keys for item in key.items) or any(bool(parse(key.value, key.vr)) for key in keys)


def is_wanted(key: Key, vr: str) -> bool:
    """Tell whether a key has something to match: universal matching asks for the value only."""
    return any(_asks(item) for item in key.items) if vr == "SQ" else bool(parse(key.value, vr))


def element_text(element: Mapping[str, Any], items: Sequence[Sequence[Key]] = ()) -> str | int | None:
    """The value of an attribute, from its DICOM JSON; of a sequence the items with what `items` asks of them, or whole."""
    if element.get("vr") == "SQ":
        found = element.get("Value") or []
        wanted = [key for item in items for key in item]
        return json.dumps([_part(item, wanted) for item in found] if wanted else found, ensure_ascii=False, separators=(",", ":"))
    texts = _texts(element)
    return "\\".join(texts) if texts else None


def _part(item: Mapping[str, Any], keys: Sequence[Key]) -> dict[str, Any]:
    part: dict[str, Any] = {}
    for key in sorted(keys, key=lambda each: each.tag):
        name = f"{key.tag:08X}"
        element = item.get(name, {"vr": key.vr})
        nested = [each for below in key.items for each in below]
        if nested and element.get("vr") == "SQ":
            element = {**element, "Value": [_part(below, nested) for below in element.get("Value") or []]}
        part[name] = element
    return part


def _texts(element: Mapping[str, Any]) -> list[str]:
    values = element.get("Value") or []
    return [text for value in values if (text := _text(value))]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "=".join(str(value.get(group, "")) for group in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")
    return "" if value is None else str(value)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
