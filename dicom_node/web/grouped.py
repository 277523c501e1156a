"""Writes of several requests in one transaction: one wait for the index's write lock, one sync to disk, one thread.

Each has a savepoint of its own, so what is refused leaves no trace and harms no other; and each is answered after the commit, as if it had
been alone. While a group is written, the next one gathers: a lone request waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from storage.database import Database, translated
from storage.errors import IndexCollision, IndexUnavailable

MOST: Final = 32  # in one transaction


@dataclass(frozen=True)
class _Write:
    change: Callable[[Connection], Any]
    durable: bool
    news: bool
    done: asyncio.Future[Any]


class GroupedWrites:
    """The writes of one event loop, in the order in which they came; ``after`` is called when some of them are news for others."""

    def __init__(self, database: Database, after: Callable[[], object] = lambda: None) -> None:
        self._database = database
        self._after = after
        self._waiting: list[_Write] = []
        self._work: asyncio.Task[None] | None = None

    async def write(self, change: Callable[[Connection], Any], *, durable: bool = True, news: bool = True) -> Any:
        """What the change returns, once it is committed; or its exception, and nothing of it is.

        One that is not durable is synced with the next that is, as :meth:`storage.database.Database.begin` says.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(change, durable, news, done))
        if self._work is None:
            self._work = asyncio.create_task(self._drain())
        return await done

    async def _drain(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                outcomes = await run_in_threadpool(self._carried_out, group)
                for write, outcome in zip(group, outcomes, strict=True):
                    if write.done.cancelled():
                        continue
                    if isinstance(outcome, Exception):
                        write.done.set_exception(outcome)
                    else:
                        write.done.set_result(outcome)
        finally:
            self._work = None

    def _carried_out(self, group: Sequence[_Write]) -> list[Any]:
        outcomes = self._committed(group)
        if any(write.news for write in group):
            self._after()
        return outcomes

    def _committed(self, group: Sequence[_Write]) -> list[Any]:
        """What became of each, in their order: a result, or an exception."""
        try:
            with self._database.begin(durable=any(write.durable for write in group)) as connection:
                if len(group) == 1:
                    return [group[0].change(connection)]
                return [_tried(connection, write.change) for write in group]
        except IndexCollision as error:  # two transactions that wait for each other: alone nobody does
            return [error] if len(group) == 1 else [self._committed([write])[0] for write in group]
        except Exception as error:  # noqa: BLE001 - whatever it is, it is handed to whoever asked
            return [error] * len(group)


def _tried(connection: Connection, change: Callable[[Connection], Any]) -> Any:
    try:
        with translated(), connection.begin_nested():
            return change(connection)
    except IndexUnavailable:  # whatever the database says about itself ends the transaction, and so the group
        raise
    except Exception as error:  # its own only: handed to whoever asked
        if connection.invalidated:
            raise
        return error
