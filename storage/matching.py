"""DICOM attribute matching (PS3.4 C.2.2.2), as an SQL condition and as a predicate over a mapping; both agree.

    ""  or "*"                 universal: everything, also an absent value
    "CT"                       single value
    "A\\\\B" or ["A", "B"]        any of a list (UIDs; in rules any value)
    "*T1*", "T?"               wildcard: ``*`` any text, ``?`` one character
    "20240101-20240131"        range of dates, times or date-times, either end may be missing

    '""'                       empty value: what is absent or empty (PS3.4 C.2.2.2, Empty Value Matching)

A stored value with several parts (``A\\B``) matches when any part, or any parts in a row, do. A wildcard becomes LIKE with ESCAPE, never a
regular expression. Person names are matched by :mod:`storage.names`, whole data sets by :mod:`storage.query`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from pydicom.datadict import dictionary_VR, tag_for_keyword
from sqlalchemy import ColumnElement, and_, false, func, literal, or_, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

Wanted: TypeAlias = str | int | float | Sequence[str]

_ESCAPE = "!"
MAX_INEXACT = 100  # wildcards and ranges in one list: each is a condition of its own
MAX_TERMS = 10_000  # values in one list; a database takes some tens of thousands of parameters
MAX_LENGTH = 1024  # characters of one value; wildcards in more of them would take long to try
EMPTY = '""'
_HIGH = "~"  # sorts after every character of a date or a time
_LAST = "\U0010ffff"  # sorts after every character
RANGES = frozenset({"DA", "TM", "DT"})
_NO_WILDCARD = frozenset({"UI", "DA", "TM", "DT", "IS", "DS", "AS", "FL", "FD", "SL", "SS", "UL", "US"})


@dataclass(frozen=True)
class Range:
    """A range of dates or times; an empty end is open."""

    low: str
    high: str


@dataclass(frozen=True)
class Pattern:
    """One value looked for: literal, or with wildcards."""

    text: str
    wildcard: bool


Term: TypeAlias = Range | Pattern


def parse(wanted: Wanted, vr: str = "LO") -> tuple[Term, ...]:
    """Read a matching value: any of the terms has to match; none means that everything does."""
    values = [wanted] if isinstance(wanted, str) else [str(wanted)] if isinstance(wanted, int | float) else [str(value) for value in wanted]
    parts = [part.strip(" \0") for value in values for part in value.split("\\")]
    if not any(parts) or (vr not in _NO_WILDCARD and "*" in parts) or parts == ["*"]:
        return ()
    if len(parts) > MAX_TERMS:
        raise ValueError(f"a list of {len(parts)} values to match; at most {MAX_TERMS}")
    if max(map(len, parts)) > MAX_LENGTH:
        raise ValueError(f"a value to match of more than {MAX_LENGTH} characters")
    terms = tuple(_term(part, vr) for part in parts if part)
    inexact = sum(isinstance(term, Range) or term.wildcard for term in terms)
    if inexact > MAX_INEXACT:
        raise ValueError(f"a list of {inexact} wildcards or ranges to match; at most {MAX_INEXACT}")
    return terms


def _term(part: str, vr: str) -> Term:
    if part == EMPTY:
        return Pattern("", False)
    if vr in RANGES:
        low, dash, high = _split_range(part, vr)
        return Range(low, high if dash else low)
    return Pattern(part, vr not in _NO_WILDCARD and ("*" in part or "?" in part))


def _split_range(part: str, vr: str) -> tuple[str, str, str]:
    if vr == "DT" and part.count("-") and not part.startswith("-") and not part.endswith("-"):
        # "-0500" at the end of a date-time is its offset, not a range (PS3.5 6.2).
        low, dash, high = part.partition("-")
        if len(high) == 4 and high <= "1400" and len(low) > 4:
            return part, "", ""
        if len(high) > 5 and high[4:5] == "-":
            return f"{low}-{high[:4]}", "-", high[5:]
        return low, dash, high
    return part.partition("-")


def high_end(text: str) -> str:
    """The end of a range of dates or times, whatever more exact ones lie in it: 10:30 holds 10:30:59.9."""
    return text + _HIGH


class bytewise(FunctionElement[str]):
    """Compare a column byte by byte, whatever the database's collation."""

    inherit_cache = True
    name = "bytewise"


@compiles(bytewise)
def _plain(element: bytewise, compiler: Any, **options: Any) -> str:
    return str(compiler.process(next(iter(element.clauses)), **options))


@compiles(bytewise, "postgresql")
def _collated(element: bytewise, compiler: Any, **options: Any) -> str:
    return f'({compiler.process(next(iter(element.clauses)), **options)} COLLATE "C")'


def clause(
    column: ColumnElement[Any], wanted: Wanted, vr: str = "LO", *, ignore_case: bool = False, multi: bool = False
) -> ColumnElement[bool]:
    """Make the SQL condition that ``column`` matches ``wanted``.

    Parameters
    ----------
    ignore_case
        Fold letters (only ASCII ones on SQLite); names have a folded column instead.
    multi
        The column holds several values with a backslash between them, as Image Type. Costs the index.
    """
    terms = parse(wanted, vr)
    if not terms:
        return true()
    literals = [term.text for term in terms if isinstance(term, Pattern) and not term.wildcard]
    if len(literals) == len(terms) and not multi and not ignore_case:
        return column.in_(literals) if len(literals) > 1 else column == literals[0]
    return or_(false(), *(_term_clause(column, term, ignore_case, multi) for term in terms))


def _term_clause(column: ColumnElement[Any], term: Term, ignore_case: bool, multi: bool) -> ColumnElement[bool]:
    if isinstance(term, Range):
        value = bytewise(column)
        low = value >= term.low if term.low else true()
        high = value <= literal(high_end(term.high)) if term.high else true()
        return and_(column != "", low, high)
    if not term.text:
        return func.coalesce(column, "") == ""
    text: ColumnElement[Any] = func.lower(column) if ignore_case else column
    if ignore_case:
        term = Pattern(term.text.lower(), term.wildcard)
    if not multi:
        return text_clause(text, term)
    pattern = _like(term)
    forms = (pattern, f"{pattern}\\%", f"%\\{pattern}", f"%\\{pattern}\\%")
    return or_(*(text.like(form, escape=_ESCAPE) for form in forms))


def text_clause(text: ColumnElement[Any], pattern: Pattern) -> ColumnElement[bool]:
    """Make the condition that a text is exactly the pattern; what stands before its first wildcard is looked up in an index."""
    if not pattern.wildcard:
        return text == pattern.text
    like = text.like(_like(pattern), escape=_ESCAPE)
    prefix = prefix_of(pattern)
    if not prefix:
        return like
    plain = bytewise(text)
    return and_(plain >= prefix, plain < literal(prefix + _LAST), like)


def prefix_of(pattern: Pattern) -> str:
    """What every match of a pattern begins with."""
    return pattern.text.split("*", 1)[0].split("?", 1)[0] if pattern.wildcard else pattern.text


def _like(pattern: Pattern) -> str:
    escaped = "".join(f"{_ESCAPE}{character}" if character in "%_!" else character for character in pattern.text)
    return escaped.replace("*", "%").replace("?", "_") if pattern.wildcard else escaped


def matches(wanted: Mapping[str, Wanted], attributes: Mapping[str, Any], *, ignore_case: bool = False) -> bool:
    """Tell whether every attribute of ``wanted`` (by keyword) matches. An absent attribute matches only what asks for nothing."""
    return mismatch(wanted, attributes, ignore_case=ignore_case) is None


def mismatch(wanted: Mapping[str, Wanted], attributes: Mapping[str, Any], *, ignore_case: bool = False) -> str | None:
    """Name the first attribute that does not match, in readable words; None when all do."""
    for keyword, value in wanted.items():
        if not value_matches(value, attributes.get(keyword), vr_of(keyword), ignore_case=ignore_case):
            found = "\\".join(values_of(attributes.get(keyword)))
            return f"{keyword} is {found!r}, not {value!r}" if found else f"{keyword} is absent, not {value!r}"
    return None


@lru_cache(maxsize=1024)
def vr_of(keyword: str) -> str:
    """Name the value representation that decides how a keyword is matched: that of a date, a time or a UID; anything else is text."""
    tag = tag_for_keyword(keyword)
    vr = dictionary_VR(tag) if tag is not None else ""
    return vr if vr in RANGES or vr == "UI" else "LO"


def value_matches(wanted: Wanted, value: Any, vr: str = "LO", *, ignore_case: bool = False, multi: bool = True) -> bool:
    """Tell whether a stored value matches: the predicate beside :func:`clause`."""
    terms = _parsed(wanted, vr) if isinstance(wanted, str) else parse(wanted, vr)
    return terms_match(terms, value, ignore_case=ignore_case, multi=multi)


@lru_cache(maxsize=4096)
def _parsed(wanted: str, vr: str) -> tuple[Term, ...]:
    """The terms of one text: rules ask for the same again and again."""
    return parse(wanted, vr)


def terms_match(terms: Sequence[Term], value: Any, *, ignore_case: bool = False, multi: bool = True) -> bool:
    """Tell whether a stored value matches any of the terms of :func:`parse`, or there are none."""
    if not terms:
        return True
    parts = values_of(value)
    candidates = list(_runs(parts)) if multi else ["\\".join(parts)]
    return any(_term_matches(term, text, ignore_case) for term in terms for text in candidates)


def values_of(value: Any) -> list[str]:
    """The values of an attribute that holds none, one or several: a list, or a text with backslashes between them."""
    if value is None:
        return []
    values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    return [part for item in values for part in str(item).split("\\")]


def _runs(parts: Sequence[str]) -> Iterator[str]:
    for start in range(len(parts)):
        for end in range(start, min(len(parts), start + 16)):
            yield "\\".join(parts[start : end + 1])


def _term_matches(term: Term, text: str, ignore_case: bool) -> bool:
    if isinstance(term, Range):
        return text != "" and (not term.low or text >= term.low) and (not term.high or text <= high_end(term.high))
    if ignore_case:
        return pattern_matches(Pattern(term.text.lower(), term.wildcard), text.lower())
    return pattern_matches(term, text)


def pattern_matches(pattern: Pattern, text: str) -> bool:
    """Tell whether a text is exactly the pattern."""
    return _wildcard(pattern.text, text) if pattern.wildcard else pattern.text == text


def _wildcard(pattern: str, text: str) -> bool:
    """Match ``*`` and ``?`` in at most len(pattern) * len(text) steps, without a regular expression."""
    if "?" in pattern:
        return _wildcard_by_character(pattern, text)
    first, *pieces, last = pattern.split("*")
    position, end = len(first), len(text) - len(last)
    if end < position or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in pieces:
        position = text.find(piece, position, end)
        if position < 0:
            return False
        position += len(piece)
    return True


def _wildcard_by_character(pattern: str, text: str) -> bool:
    at = position = 0
    star, resume = -1, 0
    while position < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[position]):
            at, position = at + 1, position + 1
        elif star >= 0:
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return pattern[at:].strip("*") == ""
