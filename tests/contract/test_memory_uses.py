"""What models took of memory is kept by size, the newest of each way; the flag of a study that did not fit stops nothing and gives way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select

from storage import memory_uses, runs
from storage.database import Database
from storage.flags import stops
from storage.jobs import JobQueue
from storage.memory_uses import KEPT, MemoryUseRecord
from storage.records import RunRecord
from storage.schema import study
from tests.contract.fill import add_study
from tests.contract.test_runs import spec


def use(voxels: int, taken: int, *, rung: str = "as configured", fitted: bool = True) -> MemoryUseRecord:
    return MemoryUseRecord("cuda", rung, voxels, taken, fitted)


def known(database: Database, digest: str = "d") -> list[MemoryUseRecord]:
    with database.read() as connection:
        return memory_uses.of_release(connection, digest)


def test_the_most_that_a_size_took_stands(database: Database) -> None:
    with database.begin() as connection:
        memory_uses.keep(connection, "d", [use(1000, 500), use(1000, 700), use(1000, 600), use(1000, 90, fitted=False)], now=10.0)
        memory_uses.keep(connection, "other", [use(1000, 1)], now=11.0)
        memory_uses.keep(connection, "d", [use(5 << 40, 6 << 40)], now=12.0)
    assert known(database) == [
        replace(use(1000, 90, fitted=False), runs=1, at=10.0),
        replace(use(1000, 700), runs=3, at=10.0),
        replace(use(5 << 40, 6 << 40), runs=1, at=12.0),
    ]


def test_the_newest_sizes_are_kept(database: Database) -> None:
    with database.begin() as connection:
        memory_uses.keep(connection, "d", [use(1, 1, rung="one window at a time")], now=0.0)
        for number in range(KEPT + 5):
            memory_uses.keep(connection, "d", [use(1000 + number, number)], now=float(number))
        memory_uses.keep(connection, "d", [use(1005, 9)], now=1000.0)
        memory_uses.keep(connection, "d", [use(5000, 9)], now=1001.0)
    left = [each.voxels for each in known(database) if each.rung == "as configured"]
    assert left == [1005, *range(1007, 1000 + KEPT + 5), 5000]
    assert len(known(database)) == KEPT + 1


@pytest.fixture
def failed(database: Database) -> RunRecord:
    add_study(database, "1.2")
    with database.begin() as connection:
        pk = runs.create_run(connection, spec(), queue=JobQueue(database), now=1000.0)
        assert pk is not None
        return runs.fail_run(connection, pk, "too large", now=1001.0)


def flag_of(database: Database) -> str | None:
    with database.read() as connection:
        found: str | None = connection.scalar(select(study.c.flag).where(study.c.study_uid == "1.2"))
        return found


def test_a_study_that_did_not_fit_is_flagged_until_it_is_tried_again(database: Database, failed: RunRecord) -> None:
    with database.begin() as connection:
        runs.flag_too_large(connection, failed, "it needs more")
    assert flag_of(database) == "too little memory for model brain: it needs more"
    assert not stops(flag_of(database))
    with database.begin() as connection:
        runs.unflag_too_large(connection, replace(failed, bundle="br_in"))
    assert flag_of(database) is not None
    with database.begin() as connection:
        runs.reopen_run(connection, failed.pk)
        assert runs.get_run(connection, failed.pk).state == "SCHEDULED"
    assert flag_of(database) is None


def test_a_flag_that_stops_a_study_takes_its_place_and_is_never_replaced_by_it(database: Database, failed: RunRecord) -> None:
    with database.begin() as connection:
        runs.flag_too_large(connection, failed, "it needs more")
        runs.flag_study(connection, "1.2", "held for review (rule a: look)")
    assert flag_of(database) == "held for review (rule a: look)"
    assert stops(flag_of(database))
    with database.begin() as connection:
        runs.flag_too_large(connection, failed, "it needs more")
        runs.flag_study(connection, "1.2", "another")
        runs.unflag_too_large(connection, failed)
    assert flag_of(database) == "held for review (rule a: look)"
    assert not stops(None)
