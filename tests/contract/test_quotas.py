"""Runs beyond a source's quota wait for their turn, each knows when that is, and nobody else waits for them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import select

from storage import chains, quotas, runs
from storage.database import Database
from storage.fair_share import Turns
from storage.jobs import JobQueue
from storage.quotas import Quota
from storage.schema import job, run
from tests.contract.fill import add_instance, add_study
from tests.contract.test_fair_share import Clock, order
from tests.contract.test_runs import spec

HOUR = 3600.0
TWO = (Quota(("RESEARCH*",), 2, HOUR),)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(database: Database, clock: Clock) -> JobQueue:
    return JobQueue(database, clock=clock)


def queued(
    database: Database, queue: JobQueue, clock: Clock, source: str, number: int, *, priority: int = 0, limits: tuple[Quota, ...] = TWO
) -> int:
    """A study of a source, and its run."""
    uid = f"1.2.{len(source)}.{number}"
    add_study(database, uid)
    add_instance(database, uid, f"{uid}.1", calling_ae=source)
    with database.begin() as connection:
        what = replace(spec(), study_uid=uid, run_key=f"{source} {number}")
        pk = runs.create_run(connection, what, queue=queue, priority=priority, turns=Turns(10.0, limits), now=clock())
    assert pk is not None
    return pk


def due(database: Database, pk: int) -> tuple[float, str | None]:
    """From when on a run may be taken, and why not before."""
    with database.read() as connection:
        row = connection.execute(select(job.c.not_before, run.c.reason).join(run, run.c.job_pk == job.c.pk).where(run.c.pk == pk)).one()
    return row.not_before, row.reason


def test_more_than_the_quota_waits_and_says_until_when(database: Database, queue: JobQueue, clock: Clock) -> None:
    many = [queued(database, queue, clock, "RESEARCH1", number) for number in range(5)]
    other = queued(database, queue, clock, "CT", 9)
    why = "waits for the quota of RESEARCH1: at most 2 runs in 1 h"
    begin = clock.now
    assert [due(database, pk) for pk in many] == [(begin, None)] * 2 + [(begin + HOUR, why)] * 2 + [(begin + 2 * HOUR, why)]
    assert due(database, other) == (begin, None)
    assert order(queue, 6) == ["RESEARCH1 0", "CT 9", "RESEARCH1 1"]
    clock.now += HOUR
    assert order(queue, 6) == ["RESEARCH1 2", "RESEARCH1 3"]
    clock.now += HOUR
    assert order(queue, 6) == ["RESEARCH1 4"]


def test_each_source_has_its_own_and_several_quotas_all_count(database: Database, queue: JobQueue, clock: Clock) -> None:
    limits = (*TWO, Quota(("*",), 3, 24 * HOUR))
    one = [queued(database, queue, clock, "RESEARCH1", number, limits=limits) for number in range(4)]
    two = queued(database, queue, clock, "RESEARCH22", 0, limits=limits)
    assert [due(database, pk)[0] - clock.now for pk in one] == [0, 0, HOUR, 24 * HOUR]
    assert due(database, one[3])[1] == "waits for the quota of RESEARCH1: at most 3 runs in 1 d"
    assert due(database, two) == (clock.now, None)


def test_what_is_urgent_takes_an_earlier_turn_of_its_own_source(database: Database, queue: JobQueue, clock: Clock) -> None:
    many = [queued(database, queue, clock, "RESEARCH1", number) for number in range(4)]
    urgent = queued(database, queue, clock, "RESEARCH1", 10, priority=5)
    begin = clock.now
    assert [due(database, pk)[0] - begin for pk in [*many, urgent]] == [0, 0, HOUR, 2 * HOUR, HOUR]


def test_a_run_that_has_waited_for_its_turn_does_not_outweigh_others(database: Database, queue: JobQueue, clock: Clock) -> None:
    for number in range(3):
        queued(database, queue, clock, "RESEARCH1", number)
    order(queue, 2)
    clock.now += HOUR - 1
    queued(database, queue, clock, "CT", 1)
    clock.now += 1
    assert order(queue, 2) == ["CT 1", "RESEARCH1 2"]


def test_a_canceled_run_gives_its_turn_back_and_a_changed_quota_counts_at_once(database: Database, queue: JobQueue, clock: Clock) -> None:
    many = [queued(database, queue, clock, "RESEARCH1", number) for number in range(5)]
    with database.begin() as connection:
        runs.cancel_run(connection, many[2], "not wanted", now=clock())
        assert quotas.settle(connection, TWO, now=clock()) == 1
    assert due(database, many[4])[0] == clock.now + HOUR
    with database.begin() as connection:
        quotas.settle(connection, (Quota(("RESEARCH1",), 1, HOUR),), now=clock())
    assert [due(database, pk)[0] - clock.now for pk in many[3:]] == [HOUR, 2 * HOUR]
    with database.begin() as connection:
        quotas.settle(connection, (), now=clock())
    assert [due(database, pk) for pk in many[3:]] == [(clock.now, None)] * 2
    assert len(order(queue, 9)) == 4


def test_a_run_that_waited_for_another_is_in_the_quota_when_it_goes_on(database: Database, queue: JobQueue, clock: Clock) -> None:
    first = [queued(database, queue, clock, "RESEARCH1", number) for number in range(2)]
    with database.begin() as connection:
        waiting = runs.create_run(connection, replace(spec(), study_uid="1.2.9.0", run_key="second"), now=clock())
        assert waiting is not None
        chains.wait(connection, waiting, [("", runs.get_run(connection, first[0]))], priority=0, max_attempts=3)
        runs.start_run(connection, first[0], "cpu", now=clock())
        runs.complete_run(connection, first[0], device="cpu", timings={}, findings=None, now=clock())
        assert chains.follow(connection, queue, lambda _: (), turns=Turns(10.0, TWO), now=clock()) == 1
    assert due(database, waiting)[0] == clock.now + HOUR


def test_standings_tell_what_is_used_and_what_waits(database: Database, queue: JobQueue, clock: Clock) -> None:
    for number in range(3):
        queued(database, queue, clock, "RESEARCH1", number)
    queued(database, queue, clock, "CT", 0)
    with database.read() as connection:
        (found,) = quotas.standings(connection, TWO, now=clock())
        later = quotas.standings(connection, TWO, now=clock() + 3 * HOUR)
    assert found == quotas.Standing("RESEARCH1", ("at most 2 runs in 1 h",), (2,), 1, clock.now + HOUR)
    assert later == []


def test_routers_at_once_let_no_more_go_than_the_quota(database: Database, queue: JobQueue, clock: Clock) -> None:
    for number in range(8):
        add_study(database, f"1.2.9.{number}")
        add_instance(database, f"1.2.9.{number}", f"1.2.9.{number}.1", calling_ae="RESEARCH1")
    ready = threading.Barrier(8)

    def route(number: int) -> None:
        ready.wait(20)
        with database.begin() as connection:
            what = replace(spec(), study_uid=f"1.2.9.{number}", run_key=f"{number}")
            runs.create_run(connection, what, queue=queue, turns=Turns(10.0, TWO), now=clock())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(route, range(8)))
    assert len(order(queue, 9)) == 2
    with database.read() as connection:
        turns = sorted(row - clock.now for row in connection.scalars(select(job.c.not_before)))
    assert turns == [0, 0, HOUR, HOUR, 2 * HOUR, 2 * HOUR, 3 * HOUR, 3 * HOUR]
