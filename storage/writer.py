"""One index writer per process: whoever comes first commits for all who wait (group commit), on one raw connection.

A thread puts its instance in the queue and takes the lead when it gets it. The leader writes everything that is queued in one transaction
and makes it durable; those whose instance went with it find it done. With a single association no thread ever waits for another.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from storage import arrivals, write_ahead_log
from storage.database import Database, translated
from storage.errors import IndexCollision, IndexUnavailable
from storage.rows import Entry, Memory, insert_group

log = structlog.get_logger()

MAX_GROUP = 256
CHECKPOINT_PAGES = 4000  # of the write-ahead log, between two copies into the index file: fewer and longer ones


class IndexWriter:
    """Writes rows of the index for all threads of this process.

    Its connection is opened at the first use and again after any error, so service resumes when the database does.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: deque[Entry] = deque()
        self._lead = threading.Lock()
        self._connection: Any = None
        self._memory = Memory()
        self._lock_clause = " FOR UPDATE OF study" if database.dialect == "postgresql" else ""

    def submit(self, entry: Entry) -> None:
        """Return when the rows of `entry` are durable, or when it is known why there are none (`entry.known`, `entry.own`).

        Raises
        ------
        IndexUnavailable
            Nothing was written; or, where `entry.error` is an `OutcomeUnknown`, the commit may have happened.
        """
        self._queue.append(entry)
        with self._lead:
            while not entry.done:
                self._commit(self._next_group())
        if entry.error is not None:
            raise entry.error

    def close(self) -> None:
        with self._lead:
            self._disconnect()

    def _next_group(self) -> list[Entry]:
        """What is queued; an instance that comes twice at once waits for the fate of the first."""
        group: dict[str, Entry] = {}
        later: list[Entry] = []
        while self._queue and len(group) < MAX_GROUP:
            entry = self._queue.popleft()
            if group.setdefault(entry.header.sop_uid, entry) is not entry:
                later.append(entry)
        self._queue.extendleft(reversed(later))
        return list(group.values())

    def _commit(self, group: Sequence[Entry]) -> None:
        try:
            self._transact(group)
        except IndexUnavailable as error:
            for entry in group:
                entry.error = error
        except Exception as error:  # noqa: BLE001 a row that the database will not take must not take the others with it
            if len(group) == 1:
                log.error("index.row_refused", kind=type(error).__name__, sop_uid=group[0].header.sop_uid)
                group[0].error = IndexUnavailable("index does not take the row")
            else:
                for entry in group:
                    self._commit([entry])
        for entry in group:
            entry.done = True

    def _transact(self, group: Sequence[Entry]) -> None:
        if self._short(group):
            return
        try:
            self._attempt(group)
        except IndexCollision:  # two receivers waited for each other, and this one gave way (PostgreSQL): the other has gone on
            self._attempt(group)
        except IndexUnavailable:
            raise
        except Exception:  # whatever the database says to keys that are no longer there; without the memory it means the rows
            if not self._memory.parents:
                raise
            self._memory.forget()
            self._attempt(group)

    def _short(self, group: Sequence[Entry]) -> bool:
        """Write a group in one statement, where the database and the group allow it."""
        if self._database.dialect != "sqlite" or not self._memory.parents:
            return False
        with translated():
            connection = self._current()
        try:
            with translated():
                return arrivals.insert(connection, group, self._memory)
        except Exception as error:
            for entry in group:
                entry.segment_pk = None
            self._disconnect()
            raise OutcomeUnknown("index did not say whether it committed") from error

    def _attempt(self, group: Sequence[Entry]) -> None:
        committing = False
        try:
            with translated():
                execute = self._begin()
                insert_group(execute, group, self._memory, lock=self._lock_clause)
                committing = True
                execute("COMMIT", ())
            self._memory.keep()
        except BaseException as error:
            self._memory.drop()
            for entry in group:
                entry.pk = entry.known = entry.segment_pk = None
                entry.own = False
            self._rollback(keep=not committing and not isinstance(error, IndexUnavailable))
            if committing and not _found_no_space(error):
                raise OutcomeUnknown("index did not say whether it committed") from error
            raise

    def _current(self) -> Any:
        """The connection, made anew where there is none or the index is another file now."""
        if self._connection is not None and not self._database.is_current(self._connection):
            self._disconnect()
        if self._connection is None:
            connection = self._database.raw()
            if self._database.dialect == "sqlite":
                connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
                arrivals.prepare(connection)
                write_ahead_log.lengthen(connection, CHECKPOINT_PAGES)
            self._connection = connection
        return self._connection

    def _begin(self) -> Callable[[str, Sequence[Any]], Sequence[Sequence[Any]]]:
        connection = self._current()
        self._database.begin_raw(connection)
        if self._database.dialect == "sqlite":
            return lambda sql, parameters: connection.execute(sql, parameters).fetchall()

        def execute(sql: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
            cursor = connection.execute(sql.replace("?", "%s"), parameters)
            return cursor.fetchall() if cursor.description else ()

        return execute

    def _rollback(self, *, keep: bool) -> None:
        if keep and self._connection is not None:
            try:
                self._connection.execute("ROLLBACK")
                return
            except Exception:  # noqa: BLE001, S110 whatever the driver says: the connection is given up below
                pass
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception:  # noqa: BLE001 a connection that broke may refuse even this
                log.warning("index.close_failed")


def _found_no_space(error: BaseException) -> bool:
    """Whether a commit failed for want of space: SQLite then has not written its last frame, so it did not happen."""
    cause = error.__cause__
    return isinstance(cause, sqlite3.Error) and (cause.sqlite_errorcode & 0xFF) == sqlite3.SQLITE_FULL


class OutcomeUnknown(IndexUnavailable):
    """The connection broke in the middle of a commit: the rows may be there. The bytes must stay until that is known."""

