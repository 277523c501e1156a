"""The few statements whose spelling differs between SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Insert, Table, literal
from sqlalchemy.dialects import postgresql, sqlite


def insert_new(connection: Connection, table: Table) -> Insert:
    """INSERT that leaves an existing row alone: with RETURNING, no row comes back for one that was already there."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def insert_or_update(
    connection: Connection, table: Table, keys: Sequence[str], values: Mapping[str, Any], update: Mapping[str, ColumnElement[Any] | Any]
) -> Insert:
    """INSERT ``values``; where ``keys`` already have a row, change that row by ``update``."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).values(**values).on_conflict_do_update(index_elements=list(keys), set_=dict(update))
    return sqlite.insert(table).values(**values).on_conflict_do_update(index_elements=list(keys), set_=dict(update))


def plan_each_time(connection: Connection) -> None:
    """Have PostgreSQL plan each query of this transaction for its own values.

    A driver that prepares what it asks often lets it settle on one plan for all values, which is none for a search: what few rows
    have and what many have are found in different ways.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_custom_plan")


def is_one_of(column: Column[Any], *values: str) -> ColumnElement[bool]:
    """Condition with the values spelled out in the statement: a parameter would hide that a partial index applies."""
    spelled = [literal(value, literal_execute=True) for value in values]
    return column == spelled[0] if len(spelled) == 1 else column.in_(spelled)
