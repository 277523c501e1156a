"""Columns and indexes that C-FIND and QIDO match on: names by component group, their trigrams, dates byte by byte

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

from storage.names import name_keys

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BATCH = 5000
GROUPS = {
    "patient": ("name", "name", ("name_ideographic_key", "name_phonetic_key")),
    "study": ("referring_physician", "referring", ("referring_key", "referring_ideographic_key", "referring_phonetic_key")),
}
BYTEWISE = {"patient": ("patient_id", "name_key"), "study": ("study_date", "accession_number")}

_TEXT = "{0}name_key || '=' || {0}name_ideographic_key || '=' || {0}name_phonetic_key"
_PLAIN, _NEW, _OLD = (_TEXT.format(row) for row in ("", "new.", "old."))
_ADD = f"INSERT INTO patient_name_search (rowid, name) VALUES (new.pk, {_NEW});"
_REMOVE = f"INSERT INTO patient_name_search (patient_name_search, rowid, name) VALUES ('delete', old.pk, {_OLD});"
_CHANGED = "UPDATE OF pk, name_key, name_ideographic_key, name_phonetic_key"
SEARCH = (
    # Contentless and without positions: three characters > the patients whose folded name holds them.
    "CREATE VIRTUAL TABLE patient_name_search USING fts5(name, content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1')",
    f"CREATE TRIGGER patient_name_search_insert AFTER INSERT ON patient BEGIN {_ADD} END",
    f"CREATE TRIGGER patient_name_search_delete AFTER DELETE ON patient BEGIN {_REMOVE} END",
    f"CREATE TRIGGER patient_name_search_update AFTER {_CHANGED} ON patient BEGIN {_REMOVE} {_ADD} END",
    f"INSERT INTO patient_name_search (rowid, name) SELECT pk, {_PLAIN} FROM patient",
)


def upgrade() -> None:
    connection = op.get_bind()
    bytewise = sa.Text(collation="C") if connection.dialect.name == "postgresql" else sa.Text()
    for table, (_, _, columns) in GROUPS.items():
        for column in columns:
            op.add_column(table, sa.Column(column, bytewise, nullable=False, server_default=""))
    for table, (source, prefix, _) in GROUPS.items():
        _fold(connection, table, source, prefix)
    if connection.dialect.name == "postgresql":
        for table, changed in BYTEWISE.items():
            for column in changed:
                op.alter_column(table, column, type_=bytewise)
    for column in ("name_ideographic_key", "name_phonetic_key"):
        filled = sa.text(f"{column} <> ''")
        op.create_index(f"ix_patient_{column}", "patient", [column], sqlite_where=filled, postgresql_where=filled)
    op.create_index("ix_series_modality", "series", ["study_pk", "modality"])
    op.drop_index("ix_series_study_pk", table_name="series")
    if connection.dialect.name == "sqlite":
        _search_sqlite(connection)
    else:
        _search_postgresql(connection)


def _fold(connection: sa.Connection, name: str, source: str, prefix: str) -> None:
    """Fill the folded groups of the names that are there; most are plain already."""
    names = list(name_keys(prefix, ""))
    table = sa.table(name, *(sa.column(column) for column in ("pk", source, *names)))
    change = table.update().where(table.c.pk == sa.bindparam("of")).values({column: sa.bindparam(f"to_{column}") for column in names})
    for rows in _batches(connection, table, source):
        changes = []
        for row in rows:
            keys = name_keys(prefix, row[source])
            if any(row[column] != key for column, key in keys.items()):
                changes.append({"of": row["pk"], **{f"to_{column}": key for column, key in keys.items()}})
        if changes:
            connection.execute(change, changes)


def _batches(connection: sa.Connection, table: Any, source: str) -> Iterator[list[dict[str, Any]]]:
    last = -1
    while True:
        query = sa.select(table).where(table.c.pk > last, table.c[source] != "").order_by(table.c.pk).limit(BATCH)
        rows = [dict(row) for row in connection.execute(query).mappings()]
        if not rows:
            return
        yield rows
        last = rows[-1]["pk"]


def _search_sqlite(connection: sa.Connection) -> None:
    try:
        for statement in SEARCH:
            connection.exec_driver_sql(statement)
    except DBAPIError as error:
        if "no such module" not in str(error) and "no such tokenizer" not in str(error):
            raise  # a SQLite without FTS5 looks through the names instead


def _search_postgresql(connection: sa.Connection) -> None:
    columns = ", ".join(f"{column} gin_trgm_ops" for column in ("name_key", "name_ideographic_key", "name_phonetic_key"))
    try:
        with connection.begin_nested():
            connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_trgm")
            connection.exec_driver_sql(f"CREATE INDEX ix_patient_name_trigrams ON patient USING gin ({columns})")
    except DBAPIError:
        pass  # not installed, or not ours to create: names are looked through instead
