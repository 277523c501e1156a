"""A query as one SELECT: conditions by level, computed columns only for the rows that are returned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    Table,
    Text,
    and_,
    column,
    exists,
    false,
    func,
    literal,
    null,
    select,
    table,
    true,
)

from storage.attributes import (
    AVAILABILITY,
    COUNTS,
    MODALITIES_IN_STUDY,
    PATIENT_NAME,
    REFERRING_PHYSICIAN,
    SOP_CLASSES_IN_STUDY,
    TABLES,
    UNIQUE_KEYS,
    Attribute,
    Level,
    Source,
)
from storage.matching import Pattern, Wanted, clause, parse, value_matches
from storage.names import key_columns, name_clause, trigrams
from storage.query_dates import combined_clause
from storage.schema import instance, instance_header, patient, series, study
from storage.visibility import visible

if TYPE_CHECKING:
    from storage.query import Plan

ONLINE = "ONLINE"
_LEVELS = list(Level)
_PARENT = {
    Level.STUDY: study.c.patient_pk == patient.c.pk,
    Level.SERIES: series.c.study_pk == study.c.pk,
    Level.IMAGE: instance.c.series_pk == series.c.pk,
}
_NARROW = frozenset({*UNIQUE_KEYS.values(), 0x00080050})  # equal to one of these, few rows are left
_INDEXED = _NARROW | {PATIENT_NAME, 0x00080020}
_SEARCH = "patient_name_search"
_search = table(_SEARCH, column("rowid", Integer), column(_SEARCH, Text))


@dataclass(frozen=True)
class Condition:
    """An attribute that has to match.

    Attributes
    ----------
    span : of a date that is matched together with its time, the range of dates and the range of times
    """

    attribute: Attribute
    value: Wanted
    span: Any = None


def match_statement(plan: Plan, connection: Connection, *, limit: int, offset: int = 0, after: int | None = None) -> Select[Any]:
    """Make the statement of one page of a plan: its columns, the header JSON of `header_levels`, its hidden attributes, the row's key.

    Parameters
    ----------
    after : the key of the last row of the page before
    """
    return _Builder(plan, connection).rows(limit, offset, after)


def count_statement(plan: Plan, connection: Connection) -> Select[Any]:
    """Make the statement that counts the matches."""
    return _Builder(plan, connection).matching(func.count())


def check_value(attribute: Attribute, value: Wanted) -> None:
    """Refuse what the column could not be compared with; raises ValueError."""
    if attribute.column is not None and isinstance(attribute.column.type, Integer):
        _numbers(value, attribute.vr)
    elif attribute.tag in COUNTS:
        _numbers(value, "IS")


def _numbers(value: Wanted, vr: str) -> list[int]:
    try:
        numbers = [int(term.text) for term in parse(value, vr) if isinstance(term, Pattern)]
    except ValueError:
        raise ValueError("a whole number is meant") from None
    if any(abs(number) > 1 << 31 for number in numbers):
        raise ValueError("the number is out of range")
    return numbers


class _Builder:
    def __init__(self, plan: Plan, connection: Connection) -> None:
        self._plan = plan
        self._level = plan.query.level
        self._key = TABLES[self._level].c.pk
        self._fuzzy = plan.query.fuzzy
        self._sqlite = connection.dialect.name == "sqlite"
        names = any(each.attribute.tag == PATIENT_NAME for each in plan.conditions)
        self._searches = names and self._sqlite and not _is_narrow(plan.conditions) and _can_search(connection)

    def rows(self, limit: int, offset: int, after: int | None) -> Select[Any]:
        plan, level, key = self._plan, self._level, self._key
        attributes = (*plan.selected, *plan.hidden)
        headers = [_header(each) for each in plan.header_levels]
        values = [_value(each) for each in plan.selected] + headers + [_value(each) for each in plan.hidden]
        shown = _highest(level, attributes)
        # First which entities, then what is told of them: otherwise all matches would be computed to sort them and drop most.
        newest = level in (Level.PATIENT, Level.STUDY)
        # An expression has no index of its order, so that of a condition is used; without one, the first of the order are soon found.
        by = func.abs(key) if any(each.attribute.tag in _INDEXED for each in plan.conditions) else key
        chosen = self.matching(key).order_by(by.desc() if newest else by)
        if after is not None:
            chosen = chosen.where(by < after if newest else by > after)
        page = chosen.limit(limit).offset(offset).subquery("page")
        source = _joined(level, shown).join(page, page.c.pk == key)
        return select(*values, page.c.pk).select_from(source).order_by(page.c.pk.desc() if newest else page.c.pk)

    def matching(self, *values: ColumnElement[Any], highest: int = len(_LEVELS)) -> Select[Any]:
        """SELECT of `values` from what matches, joined with the levels above up to the depth `highest`."""
        level = self._level
        above = [each for each in self._plan.conditions if each.attribute.level.depth <= level.depth]
        below = [each for each in self._plan.conditions if each.attribute.level.depth > level.depth]
        seen = visible(self._plan.query.limits)
        if seen is not None:
            highest = min(highest, Level.STUDY.depth)
        source = _joined(level, min(highest, _highest(level, (each.attribute for each in above))))
        statement = select(*values).select_from(source).where(*map(self._condition, above))
        if seen is not None:
            statement = statement.where(seen)
        if below:
            deepest = max((each.attribute.level for each in below), key=lambda each: each.depth)
            child = _LEVELS[level.depth + 1]
            some = select(literal(1)).select_from(_joined(deepest, child.depth)).where(_PARENT[child], *map(self._condition, below))
            statement = statement.where(exists(some.correlate(TABLES[level])))
        return statement

    def _condition(self, condition: Condition) -> ColumnElement[bool]:
        attribute, value = condition.attribute, condition.value
        if attribute.tag == PATIENT_NAME:
            return and_(self._search(value), name_clause(key_columns(patient, "name"), value, fuzzy=self._fuzzy))
        if attribute.tag == REFERRING_PHYSICIAN:
            return name_clause(key_columns(study, "referring"), value, fuzzy=self._fuzzy)
        if attribute.source is Source.COMPUTED:
            return _computed_condition(attribute, value)
        assert attribute.column is not None
        if condition.span is not None:
            time = attribute.column.table.c[_TIMES[attribute.column.name]]
            return combined_clause(attribute.column, time, *condition.span)
        if isinstance(attribute.column.type, Integer):
            return attribute.column.in_(_numbers(value, attribute.vr))
        return clause(attribute.column, value, attribute.vr, multi=attribute.multi)

    def _search(self, value: Wanted) -> ColumnElement[bool]:
        """Look up the three characters in a row that a name has to hold."""
        found = trigrams(value, fuzzy=self._fuzzy) if self._searches else ()
        if not found:
            return true()
        wanted = " OR ".join("(" + " AND ".join(_quoted(each) for each in every) + ")" for every in found)
        return patient.c.pk.in_(select(_search.c.rowid).where(_search.c[_SEARCH].op("MATCH", is_comparison=True)(wanted)))


_TIMES = {"study_date": "study_time", "series_date": "series_time", "pps_start_date": "pps_start_time"}


def _is_narrow(conditions: Iterable[Condition]) -> bool:
    for each in conditions:
        terms = parse(each.value, each.attribute.vr) if each.attribute.tag in _NARROW else ()
        if terms and all(isinstance(term, Pattern) and not term.wildcard for term in terms):
            return True
    return False


def _can_search(connection: Connection) -> bool:
    return connection.exec_driver_sql(f"SELECT 1 FROM sqlite_master WHERE name = '{_SEARCH}'").first() is not None


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _highest(level: Level, attributes: Iterable[Attribute]) -> int:
    return min([level.depth, *(attribute.level.depth for attribute in attributes)])


def _joined(level: Level, highest: int) -> FromClause:
    """The level's table joined with those above it, up to the depth `highest`."""
    source: FromClause = TABLES[level]
    for at in range(level.depth, highest, -1):
        source = source.join(TABLES[_LEVELS[at - 1]], _PARENT[_LEVELS[at]])
    return source


def _computed_condition(attribute: Attribute, value: Wanted) -> ColumnElement[bool]:
    if attribute.tag == MODALITIES_IN_STUDY:
        return _some(series, clause(series.c.modality, value, "CS"))
    if attribute.tag == SOP_CLASSES_IN_STUDY:
        return _some(instance, clause(instance.c.sop_class_uid, value, "UI"))
    if attribute.tag == AVAILABILITY:
        return true() if value_matches(value, ONLINE, "CS") else false()
    return _count(*COUNTS[attribute.tag]).in_(_numbers(value, "IS"))


def _some(source: Table, which: ColumnElement[bool]) -> ColumnElement[bool]:
    # Correlated by name: at a level below, the table stands in the statement around it as well.
    return exists(select(literal(1)).select_from(source).where(source.c.study_pk == study.c.pk, which).correlate(study))


@lru_cache(maxsize=1024)
def _value(attribute: Attribute) -> ColumnElement[Any]:
    value: ColumnElement[Any]
    if attribute.source is Source.HEADER:
        value = null()
    elif attribute.tag == AVAILABILITY:
        value = literal(ONLINE, Text)
    elif attribute.tag in COUNTS:
        value = _count(*COUNTS[attribute.tag])
    elif attribute.source is Source.COMPUTED:
        value = _distinct(series.c.modality if attribute.tag == MODALITIES_IN_STUDY else instance.c.sop_class_uid)
    else:
        assert attribute.column is not None
        value = attribute.column
    return value.label(f"v{attribute.tag:08x}")


def _distinct(of: ColumnElement[Any]) -> ColumnElement[Any]:
    """The distinct values of a study's series or instances, with backslashes between them."""
    source = series if of is series.c.modality else instance
    found = select(of.label("value")).where(source.c.study_pk == study.c.pk, of != "").distinct().order_by(of).correlate(study).subquery()
    return select(func.aggregate_strings(found.c.value, "\\")).scalar_subquery()


def _count(of: Level, counted: Level) -> ColumnElement[Any]:
    if of is Level.STUDY and counted is Level.IMAGE:
        return select(func.count()).select_from(instance).where(instance.c.study_pk == study.c.pk).correlate(study).scalar_subquery()
    if counted is Level.IMAGE and of is Level.PATIENT:
        source: FromClause = instance.join(study, instance.c.study_pk == study.c.pk)
    else:
        source = _joined(counted, of.depth + 1)
    return select(func.count()).select_from(source).where(_PARENT[_LEVELS[of.depth + 1]]).correlate(TABLES[of]).scalar_subquery()


@lru_cache
def _header(level: Level) -> ColumnElement[Any]:
    """The header JSON of an instance, or of the first one of a series, study or patient that has any."""
    json = select(instance_header.c.json_zlib)
    if level is Level.IMAGE:
        return json.where(instance_header.c.instance_pk == instance.c.pk).correlate(instance).scalar_subquery()
    of, alias = TABLES[level], instance.alias("shown")
    json = json.select_from(alias.join(instance_header, instance_header.c.instance_pk == alias.c.pk))
    if level is Level.SERIES:
        json = json.where(alias.c.series_pk == series.c.pk).order_by(alias.c.pk)
    elif level is Level.STUDY:
        json = json.where(alias.c.study_pk == study.c.pk).order_by(alias.c.series_pk, alias.c.pk)
    else:
        own = study.alias("own")
        json = json.join(own, own.c.pk == alias.c.study_pk).where(own.c.patient_pk == patient.c.pk).order_by(own.c.pk, alias.c.series_pk)
    return json.limit(1).correlate(of).scalar_subquery()
