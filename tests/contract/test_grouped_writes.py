"""Writes of several requests in one transaction: each as if it were alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event, func, select

from dicom_node.web.grouped import GroupedWrites
from storage import workitem_values as values
from storage import workitems
from storage.database import Database
from storage.errors import IndexCollision, IndexUnavailable, WorkitemRefused
from storage.schema import workitem
from tests.contract.test_workitems import dataset

Change = Callable[[Connection], Any]


def written(database: Database, changes: list[Change]) -> list[Any]:
    """What each of several writes at once returned or raised."""

    async def all_of_them() -> list[Any]:
        writes = GroupedWrites(database)
        return await asyncio.gather(*(writes.write(change) for change in changes), return_exceptions=True)

    return asyncio.run(all_of_them())


def creation(uid: str, then: Callable[[], None] = lambda: None) -> Change:
    def change(connection: Connection) -> str:
        made = workitems.create(connection, uid, dataset(), by="manager", now=1.0)[0]
        then()
        return made.uid

    return change


def fail() -> None:
    raise RuntimeError("something")


def uids(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.scalars(select(workitem.c.uid)))


def test_each_has_its_own_result_and_what_fails_leaves_no_trace(database: Database) -> None:
    # The first is written alone, while the others gather.
    changes = [creation("2.25.1"), creation("2.25.2"), creation("2.25.1"), creation("2.25.3", fail), creation("2.25.4")]
    one, two, twice, failed, four = written(database, changes)
    assert (one, two, four) == ("2.25.1", "2.25.2", "2.25.4")
    assert isinstance(twice, WorkitemRefused)
    assert twice.status == values.DUPLICATE_SOP_INSTANCE
    assert isinstance(failed, RuntimeError)
    assert uids(database) == {"2.25.1", "2.25.2", "2.25.4"}


def test_many_at_once_are_few_transactions(database: Database) -> None:
    commits: list[int] = []
    event.listen(database.engine, "commit", lambda connection: commits.append(1))
    count = 100
    assert written(database, [creation(f"2.25.{number + 1}") for number in range(count)]) == [f"2.25.{n + 1}" for n in range(count)]
    assert len(uids(database)) == count
    assert len(commits) <= 5


def test_a_group_that_collides_with_another_transaction_is_carried_out_one_by_one(database: Database) -> None:
    attempts: list[int] = []

    def collide() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise IndexCollision("deadlock")

    changes = [creation(f"2.25.{number}", collide if number == 3 else lambda: None) for number in range(1, 6)]
    assert written(database, changes) == [f"2.25.{number}" for number in range(1, 6)]
    assert len(attempts) == 2
    assert len(uids(database)) == 5


def test_a_database_that_cannot_be_used_is_everybodys_trouble(database: Database) -> None:
    def broken(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT 1 FROM no_such_table")

    answers = written(database, [creation("2.25.1"), creation("2.25.2"), broken, creation("2.25.3")])
    assert [type(answer) for answer in answers] == [IndexUnavailable] * 4
    assert uids(database) == set()


def test_nobody_is_told_of_success_where_the_commit_fails(database: Database) -> None:
    def refuse(connection: Connection) -> None:
        if connection.scalar(select(func.count()).select_from(workitem)):
            raise RuntimeError("no")

    event.listen(database.engine, "commit", refuse)
    answers = written(database, [creation(f"2.25.{number}") for number in range(1, 6)])
    assert [type(answer) for answer in answers] == [RuntimeError] * 5
    event.remove(database.engine, "commit", refuse)
    assert uids(database) == set()
