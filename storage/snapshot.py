"""A consistent copy of the index as one SQLite file, whichever database it lives in, and the way back."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import JSON, Connection, Table, Text, cast, create_engine, delete, func, insert, null, select, text
from sqlalchemy.pool import NullPool

from storage import schema
from storage.database import Database, open_database
from storage.errors import StorageError

BATCH = 1000


def snapshot(database: Database, target: Path) -> None:
    """Write the committed state of `database` at one moment to the new SQLite file `target`, while others go on writing."""
    if database.dialect == "sqlite":
        _online_backup(Path(str(database.url.database)).absolute(), target)
    else:
        _copy_tables(database, target)


def load(source: Path, database: Database) -> None:
    """Fill `database`, which must be migrated and empty, from the SQLite file `source`; an older schema is migrated on the way.

    Raises
    ------
    StorageError
        `database` is not empty.
    """
    with TemporaryDirectory() as scratch:
        copy = Path(scratch) / "index.sqlite"
        shutil.copyfile(source, copy)
        with closing(open_database(f"sqlite:///{copy}", create=True)) as held, held.read() as reading, database.begin() as writing:
            if writing.execute(select(func.count()).select_from(schema.archive_info)).scalar_one():
                raise StorageError("the database to restore into is not empty")
            _transfer(reading, writing)
            if database.dialect == "postgresql":
                _set_sequences(writing)


@contextmanager
def reading(source: Path) -> Iterator[Connection]:
    """Read a snapshot file where it lies, writing nothing beside it."""
    address = f"{source.absolute().as_uri()}?mode=ro"
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def _online_backup(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)  # all pages in one step: one read snapshot, writers are not held up in WAL mode
        copy.execute("PRAGMA journal_mode = DELETE")


def _copy_tables(database: Database, target: Path) -> None:
    with closing(open_database(f"sqlite:///{target}", create=True)) as copy, database.read() as reading, copy.begin() as writing:
        _transfer(reading, writing)
    with closing(sqlite3.connect(target)) as plain:
        plain.execute("PRAGMA journal_mode = DELETE")


def _transfer(reading: Connection, writing: Connection) -> None:
    # Triggers note every row as a change of the worklist, and senders of studies. Both come along as they were: what was noted goes.
    noted = (schema.worklist_change, schema.study_source)
    for table in [*(each for each in schema.metadata.sorted_tables if each not in noted), *noted]:
        if table in noted:
            writing.execute(delete(table))
        for rows in _batches(reading, table):
            writing.execute(insert(table), rows)
        _restore_nulls(writing, table)


def _batches(reading: Connection, table: Table) -> Iterator[Sequence[dict[str, Any]]]:
    # A run names its predecessor, so rows go in the order of their keys.
    found = reading.execution_options(yield_per=BATCH).execute(select(table).order_by(*table.primary_key.columns))
    for rows in found.mappings().partitions(BATCH):
        yield [dict(row) for row in rows]


def _restore_nulls(writing: Connection, table: Table) -> None:
    # SQLAlchemy binds None for a JSON column as the JSON value null.
    for column in table.c:
        if isinstance(column.type, JSON) and column.nullable:
            writing.execute(table.update().where(cast(column, Text) == "null").values({column.name: null()}))


def _set_sequences(writing: Connection) -> None:
    for table in schema.metadata.sorted_tables:
        if "pk" in table.c:
            sequence, last = f"pg_get_serial_sequence('{table.name}', 'pk')", f"SELECT MAX(pk) FROM {table.name}"
            writing.execute(text(f"SELECT setval({sequence}, COALESCE(({last}), 0) + 1, false)"))


