"""Queries of the index at one level of the hierarchy (PS3.4 C.4.1, PS3.18 10.6).

    plan(query)             which columns an answer has, which keys cannot be held; refuses what is no query
    stream(database, plan)  the matches, one tuple each, while they are read
    count(database, plan)   how many there are

Keys of the query's level and of those above it are matched and returned. A key of a level below narrows: some entity below has to
match. Nothing here knows of DIMSE or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from storage.attributes import ATTRIBUTES, AVAILABILITY, TIMEZONE, Attribute, Level, Source, attribute_of, availability
from storage.database import Database
from storage.errors import StorageError
from storage.matching import Wanted
from storage.query_dates import PAIRS, combined, day_around, minutes
from storage.query_pages import pages
from storage.query_rows import Answer, RowReader, is_wanted
from storage.query_sql import Condition, check_value, count_statement
from storage.visibility import NO_LIMITS, Limits

MAX_EXAMINED = 100_000  # rows whose header JSON is looked into for one query
_ADJUSTED = {*PAIRS, *PAIRS.values()}
_NOT_KEYS = frozenset({0x00080001, 0x00080005, 0x00080052, 0x00080053, 0x00080054})  # of the message, not of what it asks for


class QueryError(StorageError, ValueError):
    """A key that cannot be matched: names it and says what is wrong, never with a patient's value."""


@dataclass(frozen=True)
class Key:
    """One attribute asked for.

    Attributes
    ----------
    value : decoded text to match, several values as a list or with a backslash between them; "" asks for the value (universal matching)
    items : of a sequence, the keys of each item
    """

    tag: int
    vr: str
    value: Wanted = ""
    items: tuple[tuple[Key, ...], ...] = ()


@dataclass(frozen=True)
class Query:
    """A question to the index.

    Attributes
    ----------
    fuzzy : match person names by their words, in any order
    offset, limit : of the matches, newest study first
    timezone : "+0100": dates and times asked for, and answered, are of this offset from UTC; "" leaves them as received
    combined : a range of dates and one of times of the same event are one range of date-times (PS3.4 C.2.2.2.5)
    all_attributes : answer with every attribute that the index knows at this level and above
    limits : whoever asks may see only such studies
    """

    level: Level
    keys: tuple[Key, ...]
    fuzzy: bool = False
    offset: int = 0
    limit: int | None = None
    timezone: str = ""
    combined: bool = True
    all_attributes: bool = False
    limits: Limits = NO_LIMITS


@dataclass(frozen=True)
class Column:
    """One column of the answer: text with backslashes between several values, a number, DICOM JSON items of a sequence, or None."""

    tag: int
    vr: str


@dataclass(frozen=True)
class Plan:
    """How a query is answered.

    Attributes
    ----------
    columns : what each row of the answer holds, in this order
    unsupported : tags asked for that the index does not hold at this level
    warnings : what is answered otherwise than asked
    fuzzy_applied : person names were matched by their words
    selected : the attributes of the columns
    conditions, checked : what SQL decides, and what is decided row by row afterwards
    hidden : attributes that only the decision needs
    """

    columns: tuple[Column, ...]
    unsupported: tuple[int, ...]
    warnings: tuple[str, ...]
    fuzzy_applied: bool
    query: Query = field(repr=False)
    selected: tuple[Attribute, ...] = field(repr=False)
    conditions: tuple[Condition, ...] = field(repr=False)
    checked: tuple[Condition, ...] = field(repr=False)
    hidden: tuple[Attribute, ...] = field(repr=False)

    @property
    def header_levels(self) -> tuple[Level, ...]:
        """Whose header JSON is read: of the instance, or of one instance of the series, study or patient."""
        attributes = (*self.selected, *(condition.attribute for condition in self.checked))
        return tuple(sorted({each.level for each in attributes if each.source is Source.HEADER}))

    @property
    def plain(self) -> bool:
        """Whether the rows of the statement are the answer."""
        return not self.checked and not self.header_levels and not self.query.timezone

    @property
    def rows_wanted(self) -> int | None:
        """How many rows of the statement are read at most; None: as many as there are."""
        return None if self.checked else self.query.limit

    @property
    def rows_skipped(self) -> int:
        """How many rows of the statement are left out before the first."""
        return 0 if self.checked else self.query.offset


def plan(query: Query) -> Plan:
    """Find out how to answer a query.

    Raises
    ------
    QueryError
        A key is asked for in a way that cannot be matched.
    """
    if query.timezone and minutes(query.timezone) is None:
        raise QueryError("TimezoneOffsetFromUTC: an offset such as +0100 is meant")
    selected: dict[int, Attribute] = {}
    wanted: dict[int, Condition] = {}
    unsupported: list[int] = []
    for key in query.keys:
        if key.tag in _NOT_KEYS or key.tag in selected:
            continue
        attribute = attribute_of(key.tag, key.vr, query.level)
        below = attribute is not None and attribute.level.depth > query.level.depth
        asks = attribute is not None and _asks(key, attribute)
        if attribute is None or (below and (not asks or attribute.source is Source.HEADER)):
            unsupported.append(key.tag)
            continue
        if not below:
            selected[key.tag] = attribute
        if asks and not (query.timezone and key.tag == TIMEZONE):
            wanted[key.tag] = Condition(attribute, key.value)
    if query.all_attributes:
        every = (each for each in ATTRIBUTES.values() if each.level.depth <= query.level.depth)
        selected = {each.tag: each for each in every} | {AVAILABILITY: availability(query.level)} | selected
    conditions, checked = _divide(query, _paired(wanted) if query.combined else list(wanted.values()))
    names = any(each.attribute.vr == "PN" for each in (*conditions, *checked))
    chosen = tuple(selected[tag] for tag in sorted(selected))
    return Plan(
        columns=tuple(Column(attribute.tag, attribute.vr) for attribute in chosen),
        unsupported=tuple(unsupported),
        warnings=(),
        fuzzy_applied=query.fuzzy and names,
        query=query,
        selected=chosen,
        conditions=tuple(conditions),
        checked=tuple(checked),
        hidden=_hidden(query, selected, checked),
    )


def _asks(key: Key, attribute: Attribute) -> bool:
    try:
        if not is_wanted(key, attribute.vr):
            return False
        check_value(attribute, key.value)
    except ValueError as error:
        raise QueryError(f"{attribute.keyword or f'{key.tag:08X}'}: {error}") from None
    return True


def _paired(wanted: dict[int, Condition]) -> list[Condition]:
    """Let a date and a time of the same event be one condition, where both are ranges."""
    found = dict(wanted)
    for date, time in PAIRS.items():
        if date in found and time in found:
            span = combined(found[date].value, found[time].value)
            if span is not None:
                found[date] = replace(found[date], span=span)
                del found[time]
    return list(found.values())


def _divide(query: Query, wanted: Iterable[Condition]) -> tuple[list[Condition], list[Condition]]:
    """What SQL decides, and what is checked row by row; the latter is narrowed by SQL where it can be."""
    conditions, checked = [], []
    for condition in wanted:
        attribute = condition.attribute
        if attribute.source is Source.HEADER:
            checked.append(condition)
        elif query.timezone and attribute.tag in _ADJUSTED and attribute.level.depth <= query.level.depth:
            checked.append(condition)
            around = day_around(condition.value) if attribute.vr == "DA" else ""
            if around:
                conditions.append(Condition(attribute, around))
        else:
            conditions.append(condition)
    return conditions, checked


def _hidden(query: Query, selected: Mapping[int, Attribute], checked: Iterable[Condition]) -> tuple[Attribute, ...]:
    needed: dict[int, Attribute] = {}
    if query.timezone:
        used = {*selected, *(condition.attribute.tag for condition in checked)} & _ADJUSTED
        partners = {tag for pair in PAIRS.items() if used & {*pair} for tag in pair}
        needed = {tag: ATTRIBUTES[tag] for tag in sorted(partners)}
        if query.level.depth >= Level.STUDY.depth:
            needed[TIMEZONE] = ATTRIBUTES[TIMEZONE]
    return tuple(attribute for tag, attribute in needed.items() if tag not in selected)


def stream(database: Database, plan: Plan, *, check: Callable[[], None] | None = None) -> Generator[Answer, None, None]:
    """Read the matches, newest study first, a page at a time: up to FIRST_PAGE of them are those of one moment.

    Nothing is held while an answer is out: neither a connection nor a snapshot (:mod:`storage.query_pages`).

    Parameters
    ----------
    check : called now and then, also while nothing matches; what it raises ends the read

    Yields
    ------
    tuple
        The values of `plan.columns`: text with backslashes between several values, a number, the items of a sequence as DICOM JSON, None.

    Raises
    ------
    QueryError
        So many rows had to be looked into that the query has to be narrowed.
    """
    query = plan.query
    if plan.plain:
        for rows in pages(database, plan, check):
            yield from [row[:-1] for row in rows]
        return
    reader = RowReader(plan)
    answers: Iterator[Answer] = (answer for row in _examined(database, plan, check) if (answer := reader.read(row)) is not None)
    if plan.checked:
        answers = islice(answers, query.offset, None if query.limit is None else query.offset + query.limit)
    yield from answers


def _examined(database: Database, plan: Plan, check: Callable[[], None] | None) -> Iterator[Sequence[Any]]:
    seen = 0
    for rows in pages(database, plan, check):
        yield from rows
        seen += len(rows)
        if plan.checked and seen > MAX_EXAMINED:
            raise QueryError(f"more than {MAX_EXAMINED} headers would have to be looked into; ask for a date, a UID or a name as well")


def count(database: Database, plan: Plan) -> int:
    """Count the matches, whatever the query's offset and limit."""
    if plan.checked:
        every = replace(plan, query=replace(plan.query, offset=0, limit=None))
        return sum(1 for _ in stream(database, every))
    with database.read() as connection:
        return int(connection.execute(count_statement(plan, connection)).scalar_one())
