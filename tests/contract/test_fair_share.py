"""Runs of different sources take turns; those of one keep their order; what is urgent, and what has waited long, still comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage import chains, runs
from storage.database import Database
from storage.fair_share import Turns, source_of
from storage.jobs import AGEING, JobQueue
from tests.contract.fill import add_instance, add_study
from tests.contract.test_runs import spec

SHARE = 10.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def queued(database: Database, queue: JobQueue, clock: Clock, source: str, number: int, *, priority: int = 0) -> str:
    """A study of a source, and its run."""
    uid = f"1.2.{len(source)}.{number}"
    add_study(database, uid)
    add_instance(database, uid, f"{uid}.1", calling_ae=source)
    with database.begin() as connection:
        what = replace(spec(), study_uid=uid, run_key=f"{source} {number}")
        assert runs.create_run(connection, what, queue=queue, priority=priority, turns=Turns(SHARE), now=clock()) is not None
        assert source_of(connection, uid) == source
    return f"{source} {number}"


def order(queue: JobQueue, count: int) -> list[str]:
    claimed = [queue.claim(["infer"], "w") for _ in range(count)]
    return [each.payload["run_key"] for each in claimed if each is not None]


def test_a_source_that_sends_much_keeps_nobody_waiting(database: Database, clock: Clock) -> None:
    queue = JobQueue(database, clock=clock)
    many = [queued(database, queue, clock, "CT", number) for number in range(20)]
    clock.now += 1
    few = [queued(database, queue, clock, "MRI", number) for number in range(2)]
    found = order(queue, 22)
    assert found[:4] == [many[0], few[0], many[1], few[1]]
    assert [each for each in found if each in many] == many


def test_what_is_urgent_and_what_has_waited_long_comes_first(database: Database, clock: Clock) -> None:
    queue = JobQueue(database, clock=clock)
    many = [queued(database, queue, clock, "CT", number) for number in range(6)]
    urgent = queued(database, queue, clock, "CT", 100, priority=50)
    assert order(queue, 1) == [urgent]
    clock.now += SHARE * 10
    late = queued(database, queue, clock, "MRI", 1)
    assert order(queue, 7) == [*many, late]


def test_without_shares_it_is_first_come_first_served(database: Database, clock: Clock) -> None:
    queue = JobQueue(database, clock=clock)
    for number in range(3):
        add_study(database, f"1.2.9.{number}")
        with database.begin() as connection:
            what = replace(spec(), study_uid=f"1.2.9.{number}", run_key=str(number))
            runs.create_run(connection, what, queue=queue, priority=number, now=clock())
    assert order(queue, 3) == ["2", "1", "0"]
    assert AGEING > 0


def test_a_run_that_waited_for_another_takes_its_sources_turn_and_has_waited_since_it_was_made(database: Database, clock: Clock) -> None:
    queue = JobQueue(database, clock=clock)
    waiting = []
    for number in range(3):
        first = queued(database, queue, clock, "CT", number)
        with database.begin() as connection:
            record = runs.find_run(connection, first)
            assert record is not None
            of_study = replace(spec(), study_uid=record.study_uid, input_set=[(f"{record.study_uid}.1", "d")], run_key=f"then {number}")
            pk = runs.create_run(connection, of_study, now=clock())
            assert pk is not None
            chains.wait(connection, pk, [("", record)], priority=0, max_attempts=3)
            runs.start_run(connection, record.pk, "cpu", now=clock())
            runs.complete_run(connection, record.pk, device="cpu", timings={}, findings={}, now=clock())
        claimed = queue.claim(["infer"], "w")
        assert claimed is not None
        with database.begin() as connection:
            queue.complete(connection, claimed)
        waiting.append(pk)
    clock.now += 2 * SHARE
    other = queued(database, queue, clock, "MRI", 9)
    clock.now += 1
    with database.begin() as connection:
        assert chains.follow(connection, queue, lambda _: (), turns=Turns(SHARE), now=clock()) == 3
    claimed_runs = [each.payload for each in (queue.claim(["infer"], "w") for _ in range(4)) if each is not None]
    assert [each.get("source") for each in claimed_runs] == ["CT", "CT", "MRI", "CT"]
    assert [each["run_pk"] for each in claimed_runs if each["source"] == "CT"] == waiting
    assert other in [each["run_key"] for each in claimed_runs]
