"""SQLite's short way for a group of instances: one statement that is its own transaction.

Each statement that Python sends to SQLite costs a hand-over of the interpreter between threads, and a group commit sent six. Here the rows
go into a temporary view whose trigger writes instance, location and revision, so a group is one statement. It holds for instances
of which everything is known beforehand; whatever it meets that is not so (a UID that is taken, a study that is gone) undoes the
whole statement, and the group goes the long way of `rows.insert_group`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from storage.rows import INSTANCE_COLUMNS, LOCATION_COLUMNS, TOUCH_SECONDS, Entry, Memory, instance_values, location_values, series_key

_OF_LOCATION = tuple(f"location_{name}" for name in LOCATION_COLUMNS[1:])
_CHECKED = ("study_uid", "series_uid")
_COLUMNS = (*INSTANCE_COLUMNS, *_OF_LOCATION, *_CHECKED)
# What SQLite says where nothing was committed: before it has written anything, or because the frames of the commit found no place.
_NOT_COMMITTED = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL}
)
MAX_ROWS = 32766 // len(_COLUMNS)  # of one statement: SQLite's limit of parameters


def _new(names: Sequence[str]) -> str:
    return ", ".join(f'NEW."{name}"' for name in names)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


_NOTHING = ", ".join(f'NULL AS "{name}"' for name in _COLUMNS)
_VIEW = f"CREATE TEMP VIEW arrival AS SELECT {_NOTHING}"
_TRIGGER = f"""
CREATE TEMP TRIGGER arrival_insert INSTEAD OF INSERT ON arrival BEGIN
    INSERT INTO instance ({_quoted(INSTANCE_COLUMNS)}) VALUES ({_new(INSTANCE_COLUMNS)});
    INSERT INTO location ({_quoted(LOCATION_COLUMNS)}) VALUES (last_insert_rowid(), {_new(_OF_LOCATION)});
    UPDATE study SET revision = revision + 1, state = 'RECEIVING', last_received_at = max(last_received_at, NEW.received_at)
        WHERE pk = NEW.study_pk AND study_uid = NEW.study_uid AND EXISTS (
            SELECT 1 FROM series WHERE pk = NEW.series_pk AND series_uid = NEW.series_uid AND study_pk = NEW.study_pk);
    SELECT RAISE(ABORT, 'the study or series is no longer what it was') WHERE changes() = 0;
END
"""


def prepare(connection: sqlite3.Connection) -> None:
    """Give a new connection the view and its trigger; they are its own and leave no trace in the file."""
    connection.execute(_VIEW).close()
    connection.execute(_TRIGGER).close()


def insert(connection: sqlite3.Connection, group: Sequence[Entry], memory: Memory) -> bool:
    """Write and commit the rows of a group. False: it has to go the long way, and nothing was written.

    Raises
    ------
    sqlite3.Error
        Anything else that SQLite says; the commit may have happened.
    """
    if len(group) > MAX_ROWS or not all(_is_plain(entry, memory) for entry in group):
        return False
    values: list[Any] = []
    for entry in group:
        header = entry.header
        values += instance_values(entry, memory.parents[series_key(entry)])
        values += location_values(entry, entry.place.segment_pk)
        values += (header.study_uid, header.series_uid)
    try:
        connection.execute(_statement(len(group)), values).close()
    except (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError, ValueError):
        return False  # the last four: a value that cannot be bound, and nothing was executed
    except sqlite3.OperationalError as error:
        if (error.sqlite_errorcode & 0xFF) in _NOT_COMMITTED:
            return False
        raise
    for entry in group:
        entry.segment_pk = entry.place.segment_pk
    return True


def _is_plain(entry: Entry, memory: Memory) -> bool:
    """Tell whether nothing but the three rows of an instance is to be written."""
    if entry.may_be_own or entry.opening is not None or entry.origin != "received" or entry.place.segment_pk is None:
        return False
    parents = memory.parents.get(series_key(entry))
    if parents is None or parents.patient_id != entry.header.patient_id:
        return False
    touched = memory.touched.get((entry.association_id or "", entry.header.study_uid), 0.0)
    return entry.association_id is None or 0 <= entry.received_at - touched < TOUCH_SECONDS


@lru_cache(maxsize=256)
def _statement(rows: int) -> str:
    marks = f"({', '.join('?' * len(_COLUMNS))})"
    return f"INSERT INTO arrival ({_quoted(_COLUMNS)}) VALUES {', '.join([marks] * rows)}"
