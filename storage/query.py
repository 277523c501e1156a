"""Queries of the index at one level of the hierarchy (PS3.4 C.4.1, PS3.18 10.6).

    plan(query)             which columns an answer has, which keys cannot be held; refuses what is no query
    stream(database, plan)  the matches, one tuple each, while they are read
    count(database, plan)   how many there are

Keys of the query's level and of those above it are matched and returned. A key of a level below narrows: some entity below has to
match. Nothing here knows of DIMSE or HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from storage.attributes import ATTRIBUTES, Attribute, Level, Source, attribute_of
from storage.database import Database
from storage.errors import StorageError
from storage.matching import Wanted, parse
from storage.query_sql import Condition, count_statement, match_statement

CHUNK = 256  # rows taken from the database at a time
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
    offset, limit : of the matches, newest study first; without a limit they come in no promised order
    timezone : "+0100": dates and times asked for, and answered, are of this offset from UTC; "" leaves them as received
    combined : a range of dates and one of times of the same event are one range of date-times (PS3.4 C.2.2.2.5)
    all_attributes : answer with every attribute that the index knows at this level and above
    """

    level: Level
    keys: tuple[Key, ...]
    fuzzy: bool = False
    offset: int = 0
    limit: int | None = None
    timezone: str = ""
    combined: bool = True
    all_attributes: bool = False


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
    """

    columns: tuple[Column, ...]
    unsupported: tuple[int, ...]
    warnings: tuple[str, ...]
    fuzzy_applied: bool
    query: Query = field(repr=False)
    selected: tuple[Attribute, ...] = field(repr=False)
    conditions: tuple[Condition, ...] = field(repr=False)


def plan(query: Query) -> Plan:
    """Find out how to answer a query.

    Raises
    ------
    QueryError
        A key is asked for in a way that cannot be matched.
    """
    selected: dict[int, Attribute] = {}
    conditions: list[Condition] = []
    unsupported: list[int] = []
    for key in query.keys:
        if key.tag in _NOT_KEYS or key.tag in selected:
            continue
        attribute = attribute_of(key.tag, key.vr, query.level)
        if attribute is None:
            unsupported.append(key.tag)
            continue
        wanted = _is_wanted(key, attribute)
        if attribute.level.depth <= query.level.depth:
            selected[key.tag] = attribute
        elif not wanted or attribute.source is Source.HEADER:
            unsupported.append(key.tag)
            continue
        if wanted:
            conditions.append(Condition(attribute, key.value))
    if query.all_attributes:
        for attribute in ATTRIBUTES.values():
            if attribute.level.depth <= query.level.depth:
                selected.setdefault(attribute.tag, attribute)
    chosen = tuple(selected[tag] for tag in sorted(selected))
    columns = tuple(Column(attribute.tag, attribute.vr) for attribute in chosen)
    return Plan(columns, tuple(unsupported), (), False, query, chosen, tuple(conditions))


def _is_wanted(key: Key, attribute: Attribute) -> bool:
    try:
        return bool(parse(key.value, attribute.vr))
    except ValueError as error:
        raise QueryError(f"{attribute.keyword or f'{key.tag:08X}'}: {error}") from None


def stream(database: Database, plan: Plan) -> Iterator[tuple[str | int | None, ...]]:
    """Read the matches of one snapshot, a few rows at a time; closing the iterator ends the read.

    Yields
    ------
    tuple
        The values of `plan.columns`.
    """
    query = plan.query
    statement = match_statement(query.level, plan.selected, plan.conditions, query.offset, query.limit, database.dialect)
    with database.read() as connection:
        for rows in connection.execution_options(yield_per=CHUNK).execute(statement).partitions():
            yield from map(tuple, rows)


def count(database: Database, plan: Plan) -> int:
    """Count the matches, whatever the query's limit."""
    with database.read() as connection:
        return int(connection.execute(count_statement(plan.query.level, plan.conditions)).scalar_one())
