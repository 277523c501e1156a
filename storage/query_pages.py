"""Rows of a plan, a page at a time: each page is a short transaction of its own, over before anything of it is handed out.

So however slowly a client takes its answers, no snapshot is kept (SQLite could not check its log point into the index, PostgreSQL could
not vacuum) and no connection. The next page goes on behind the key of the last row.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Row

from storage.database import Database
from storage.query_sql import match_statement

if TYPE_CHECKING:
    from storage.query import Plan

FIRST_PAGE: Final = 1024  # rows
LONGEST_PAGE: Final = 4096
LOOK_SECONDS: Final = 0.02  # between two calls of `check` while the database works
_INSTRUCTIONS: Final = 2_000  # of SQLite between two looks at the clock: tenths of a millisecond, or ten where each row takes long


def pages(database: Database, plan: Plan, check: Callable[[], None] | None = None) -> Iterator[Sequence[Row[Any]]]:
    """Read the rows of a plan's statement, in the order of their keys; the last column is the key.

    Parameters
    ----------
    check : called before each page, and now and then while SQLite looks for one; what it raises ends the read
    """
    left, offset, after, size = plan.rows_wanted, plan.rows_skipped, None, FIRST_PAGE
    while left is None or left > 0:
        wanted = size if left is None else min(size, left)
        if check is not None:
            check()
        rows = _page(database, plan, after, wanted, offset, check)
        if rows:
            yield rows
        if len(rows) < wanted:
            return
        left = None if left is None else left - len(rows)
        offset, after, size = 0, int(rows[-1][-1]), min(2 * size, LONGEST_PAGE)


def _page(
    database: Database, plan: Plan, after: int | None, limit: int, offset: int, check: Callable[[], None] | None
) -> Sequence[Row[Any]]:
    looking = _Looking(check)
    try:
        with database.read() as connection, looking.at(connection):
            return connection.execute(match_statement(plan, connection, after=after, limit=limit, offset=offset)).all()
    except Exception:
        if looking.raised is not None:
            raise looking.raised from None
        raise


class _Looking:
    """Calls `check` while SQLite is at work, and ends that when it raises."""

    def __init__(self, check: Callable[[], None] | None) -> None:
        self._check = check
        self._next = time.monotonic() + LOOK_SECONDS
        self.raised: BaseException | None = None

    @contextmanager
    def at(self, connection: Connection) -> Iterator[None]:
        driver = connection.connection.driver_connection
        if self._check is None or not isinstance(driver, sqlite3.Connection):
            yield
            return
        driver.set_progress_handler(self._look, _INSTRUCTIONS)
        try:
            yield
        finally:
            driver.set_progress_handler(None, 0)

    def _look(self) -> int:
        if time.monotonic() < self._next or self._check is None:
            return 0
        self._next = time.monotonic() + LOOK_SECONDS
        try:
            self._check()
        except BaseException as error:  # noqa: BLE001 - SQLite takes no exception; it is raised again where the statement has ended
            self.raised = error
            return 1
        return 0
