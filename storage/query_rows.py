"""What SQL cannot say of a row: attributes that only the header JSON holds, sequences, other offsets from UTC.

Values leave here as text with backslashes between several of them, as a number, as the DICOM JSON items of a sequence, or as None.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storage.attributes import TIMEZONE, Level, Source
from storage.header_json import decode_header
from storage.matching import Wanted, parse, terms_match
from storage.names import names_match, parse_wanted
from storage.query_dates import PAIRS, combined_matches, minutes, shift
from storage.query_sql import Condition

if TYPE_CHECKING:
    from storage.query import Key, Plan

Row = Sequence[Any]
Answer = tuple[str | int | None, ...]
_Test = Callable[[Sequence[Any], Mapping[Level, Mapping[str, Any]]], bool]
_NUMBERS = frozenset({"IS", "DS", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV"})


class RowReader:
    """Makes answers of the rows of a plan's statement: its columns, then the headers of `levels`, then `hidden` attributes.

    What is asked for is read once, not for each row.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._width = len(plan.selected)
        self._headers = {level: self._width + at for at, level in enumerate(plan.header_levels)}
        self._at = {attribute.tag: at for at, attribute in enumerate(plan.selected)}
        first = self._width + len(self._headers)
        self._at |= {attribute.tag: first + at for at, attribute in enumerate(plan.hidden) if attribute.tag not in self._at}
        keys = {key.tag: key for key in plan.query.keys}
        self._tests = [self._test(condition, keys) for condition in plan.checked]
        self._shown = [
            (at, attribute.level, f"{attribute.tag:08X}", _item_keys(keys.get(attribute.tag)))
            for at, attribute in enumerate(plan.selected)
            if attribute.source is Source.HEADER
        ]
        self._offset = minutes(plan.query.timezone)

    def read(self, row: Row) -> Answer | None:
        """The answer that a row gives; None where it does not match."""
        values = list(row)
        if self._offset is not None:
            self._adjust(values, self._offset)
        headers = {level: decode_header(row[at]) if row[at] is not None else {} for level, at in self._headers.items()}
        if not all(test(values, headers) for test in self._tests):
            return None
        for at, level, name, wanted in self._shown:
            values[at] = element_text(headers[level].get(name, {}), wanted)
        return tuple(values[: self._width])

    def _test(self, condition: Condition, keys: Mapping[int, Key]) -> _Test:
        attribute, at = condition.attribute, self._at.get(condition.attribute.tag, -1)
        if attribute.source is Source.HEADER:
            matches = element_test(keys[attribute.tag], fuzzy=self._plan.query.fuzzy)
            level, name = attribute.level, f"{attribute.tag:08X}"
            return lambda values, headers: matches(headers[level].get(name, {}))
        if condition.span is not None:
            (dates, times), time_at = condition.span, self._at[PAIRS[attribute.tag]]
            return lambda values, headers: combined_matches(values[at], values[time_at], dates, times)
        terms = parse(condition.value, attribute.vr)
        return lambda values, headers: terms_match(terms, values[at], multi=attribute.multi)

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


def element_test(key: Key, *, fuzzy: bool = False) -> Callable[[Mapping[str, Any]], bool]:
    """Make the predicate of a key over an attribute as DICOM JSON; of a sequence any item, with all of its keys (PS3.4 C.2.2.2.6)."""
    if key.items:
        tests = [_item_test(item, fuzzy) for item in key.items if _asks(item)]
        return lambda element: all(
            any(isinstance(stored, dict) and test(stored) for stored in element.get("Value") or []) for test in tests
        )
    by_vr: dict[str, Callable[[Sequence[str]], bool]] = {}

    def matches(element: Mapping[str, Any]) -> bool:
        vr = element.get("vr") or key.vr
        test = by_vr.get(vr)
        if test is None:
            test = by_vr[vr] = _values_test(key.value, vr, fuzzy)
        return test(_texts(element))

    return matches


def _item_test(keys: Sequence[Key], fuzzy: bool) -> Callable[[Mapping[str, Any]], bool]:
    tests = [(f"{key.tag:08X}", element_test(key, fuzzy=fuzzy)) for key in keys]
    return lambda item: all(test(item.get(name, {})) for name, test in tests)


def _values_test(wanted: Wanted, vr: str, fuzzy: bool) -> Callable[[Sequence[str]], bool]:
    if vr == "PN":
        names = parse_wanted(wanted, fuzzy)
        return lambda texts: names_match(names, texts)
    terms = parse(wanted, vr)
    if vr in _NUMBERS:
        numbers = {_number(getattr(term, "text", "")) for term in terms}
        return lambda texts: not numbers or not numbers.isdisjoint(map(_number, texts))
    return lambda texts: terms_match(terms, texts or None)


def _item_keys(key: Key | None) -> tuple[Key, ...]:
    """What is asked of the items of a sequence; nothing: all of it."""
    return tuple(each for item in key.items for each in item) if key is not None else ()


def _asks(keys: Sequence[Key]) -> bool:
    return any(_asks(item) for key in keys for item in key.items) or any(bool(parse(key.value, key.vr)) for key in keys)


def is_wanted(key: Key, vr: str) -> bool:
    """Tell whether a key has something to match: universal matching asks for the value only."""
    return any(_asks(item) for item in key.items) if vr == "SQ" else bool(parse(key.value, vr))


def element_text(element: Mapping[str, Any], wanted: Sequence[Key] = ()) -> str | int | None:
    """The value of an attribute, from its DICOM JSON; of a sequence the items with what is `wanted` of them, or whole."""
    if element.get("vr") == "SQ":
        found = element.get("Value") or []
        return json.dumps([_part(item, wanted) for item in found] if wanted else found, ensure_ascii=False, separators=(",", ":"))
    texts = _texts(element)
    return "\\".join(texts) if texts else None


def _part(item: Mapping[str, Any], keys: Sequence[Key]) -> dict[str, Any]:
    part: dict[str, Any] = {}
    for key in sorted(keys, key=lambda each: each.tag):
        name = f"{key.tag:08X}"
        element = item.get(name, {"vr": key.vr})
        nested = _item_keys(key)
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
