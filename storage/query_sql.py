"""A query as one SELECT: conditions by level, computed columns only for the rows that are returned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, Text, exists, func, literal, null, select

from storage.attributes import (
    AVAILABILITY,
    COUNTS,
    MODALITIES_IN_STUDY,
    PATIENT_NAME,
    REFERRING_PHYSICIAN,
    TABLES,
    Attribute,
    Level,
    Source,
)
from storage.matching import Wanted, clause
from storage.names import key_columns, name_clause
from storage.schema import instance, patient, series, study

_LEVELS = list(Level)
_PARENT = {
    Level.STUDY: study.c.patient_pk == patient.c.pk,
    Level.SERIES: series.c.study_pk == study.c.pk,
    Level.IMAGE: instance.c.series_pk == series.c.pk,
}


@dataclass(frozen=True)
class Condition:
    """An attribute that has to match."""

    attribute: Attribute
    value: Wanted


def match_statement(
    level: Level, selected: Sequence[Attribute], conditions: Sequence[Condition], offset: int, limit: int | None, dialect: str
) -> Select[Any]:
    """Make the statement whose columns are `selected`."""
    values = [_value(attribute, dialect).label(f"v{attribute.tag:08x}") for attribute in selected]
    shown = _highest(level, selected)
    key = TABLES[level].c.pk
    if limit is None and not offset:
        return _where(select(*values).select_from(_joined(level, min(shown, _highest(level, _of(conditions))))), level, conditions)
    # First which entities, then what is told of them: otherwise all matches would be computed to sort them and drop most.
    chosen = _where(select(key).select_from(_joined(level, _highest(level, _of(conditions)))), level, conditions)
    order = key.desc() if level in (Level.PATIENT, Level.STUDY) else key
    page = chosen.order_by(order).limit(-1 if limit is None and dialect == "sqlite" else limit).offset(offset).subquery("page")
    source = _joined(level, shown).join(page, page.c.pk == key)
    return select(*values).select_from(source).order_by(page.c.pk.desc() if level in (Level.PATIENT, Level.STUDY) else page.c.pk)


def count_statement(level: Level, conditions: Sequence[Condition]) -> Select[Any]:
    """Make the statement that counts the matches."""
    return _where(select(func.count()).select_from(_joined(level, _highest(level, _of(conditions)))), level, conditions)


def _of(conditions: Iterable[Condition]) -> Sequence[Attribute]:
    return [condition.attribute for condition in conditions]


def _highest(level: Level, attributes: Iterable[Attribute]) -> int:
    return min([level.depth, *(attribute.level.depth for attribute in attributes)])


def _joined(level: Level, highest: int) -> FromClause:
    """The level's table joined with those above it, up to the depth `highest`."""
    source: FromClause = TABLES[level]
    for at in range(level.depth, highest, -1):
        source = source.join(TABLES[_LEVELS[at - 1]], _PARENT[_LEVELS[at]])
    return source


def _where(statement: Select[Any], level: Level, conditions: Sequence[Condition]) -> Select[Any]:
    above = [condition for condition in conditions if condition.attribute.level.depth <= level.depth]
    below = [condition for condition in conditions if condition.attribute.level.depth > level.depth]
    statement = statement.where(*(_condition(condition) for condition in above))
    if below:
        deepest = max((condition.attribute.level for condition in below), key=lambda each: each.depth)
        child = _LEVELS[level.depth + 1]
        some = select(literal(1)).select_from(_joined(deepest, child.depth)).where(_PARENT[child])
        statement = statement.where(exists(some.where(*(_condition(condition) for condition in below)).correlate(TABLES[level])))
    return statement


def _condition(condition: Condition) -> ColumnElement[bool]:
    attribute = condition.attribute
    if attribute.tag == PATIENT_NAME:
        return name_clause(key_columns(patient, "name"), condition.value)
    if attribute.tag == REFERRING_PHYSICIAN:
        return name_clause(key_columns(study, "referring"), condition.value)
    if attribute.tag == MODALITIES_IN_STUDY:
        return exists().where(series.c.study_pk == study.c.pk, clause(series.c.modality, condition.value, "CS"))
    assert attribute.column is not None
    return clause(attribute.column, condition.value, attribute.vr, multi=attribute.multi)


def _value(attribute: Attribute, dialect: str) -> ColumnElement[Any]:
    if attribute.source is Source.COLUMN:
        assert attribute.column is not None
        return attribute.column
    if attribute.source is Source.HEADER:
        return null()
    if attribute.tag == AVAILABILITY:
        return literal("ONLINE", Text)
    if attribute.tag in COUNTS:
        return _count(*COUNTS[attribute.tag])
    column = series.c.modality if attribute.tag == MODALITIES_IN_STUDY else instance.c.sop_class_uid
    table = column.table
    distinct = select(column.label("value")).where(table.c.study_pk == study.c.pk, column != "").distinct().order_by(column)
    found = distinct.correlate(study).subquery()
    return select(func.aggregate_strings(found.c.value, "\\")).scalar_subquery()


def _count(of: Level, counted: Level) -> ColumnElement[Any]:
    if counted is Level.IMAGE and of is Level.STUDY:
        return select(func.count()).select_from(instance).where(instance.c.study_pk == study.c.pk).scalar_subquery()
    if counted is Level.IMAGE and of is Level.PATIENT:
        source: FromClause = instance.join(study, instance.c.study_pk == study.c.pk)
    else:
        source = _joined(counted, of.depth + 1)
    return select(func.count()).select_from(source).where(_PARENT[_LEVELS[of.depth + 1]]).correlate(TABLES[of]).scalar_subquery()
