"""The job queue with real worker processes, and under any sequence of operations."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from storage.database import Database
from storage.errors import StaleToken
from storage.jobs import Backoff, ClaimedJob, JobQueue, JobSpec, JobState
from storage.schema import job, job_event
from tests.contract.workers import claim_all, claim_and_hang

SPAWN = multiprocessing.get_context("spawn")
LEGAL = {
    None: {"SCHEDULED"},
    "SCHEDULED": {"IN_PROGRESS", "CANCELED"},
    "IN_PROGRESS": {"SCHEDULED", "COMPLETED", "FAILED", "CANCELED"},
    "FAILED": {"SCHEDULED"},
    "CANCELED": {"SCHEDULED"},
    "COMPLETED": set[str](),
}


def put(database: Database, queue: JobQueue, *keys: str) -> list[int | None]:
    with database.begin() as connection:
        return [queue.enqueue(connection, JobSpec("route", "route", key, max_attempts=3)) for key in keys]


def test_several_processes_claim_each_job_once(database: Database, database_url: str) -> None:
    jobs = put(database, JobQueue(database), *(f"k{number}" for number in range(120)))
    start, answer = SPAWN.Event(), SPAWN.Queue()
    children = [SPAWN.Process(target=claim_all, args=(database_url, f"w{number}", start, answer)) for number in range(4)]
    for child in children:
        child.start()
    start.set()
    claimed = Counter(pk for _ in children for pk in answer.get(timeout=120))
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert claimed == Counter(jobs)
    assert {record.state for record in JobQueue(database).list(limit=1000)} == {"COMPLETED"}


def test_the_job_of_a_killed_worker_goes_to_another(database: Database, database_url: str) -> None:
    queue = JobQueue(database)
    (pk,) = put(database, queue, "k")
    claimed = SPAWN.Queue()
    child = SPAWN.Process(target=claim_and_hang, args=(database_url, claimed))
    child.start()
    assert claimed.get(timeout=60) == pk
    assert queue.claim(["route"], "other") is None
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    assert queue.reclaim() == 1
    again = queue.claim(["route"], "other")
    assert again is not None
    assert (again.pk, again.attempts) == (pk, 2)
    assert [event.worker for event in queue.events(again.pk) if event.state == "IN_PROGRESS"] == ["doomed", "other"]


class Run:
    """Applies operations to a queue and remembers what must hold."""

    def __init__(self, database: Database) -> None:
        self.now = 1000.0
        self.database = database
        backoff = Backoff(base=5, jitter=0.0)
        self.queue = JobQueue(database, clock=lambda: self.now, backoff=backoff, lease=30)
        self.claims: list[ClaimedJob] = []

    def apply(self, operation: str, number: int) -> None:
        if operation == "enqueue":
            put(self.database, self.queue, f"k{number % 2}")
        elif operation == "claim":
            claimed = self.queue.claim(["route"], f"w{number}")
            if claimed is not None:
                assert claimed.transaction_uid not in {each.transaction_uid for each in self.claims}
                self.claims.append(claimed)
        elif operation == "advance":
            self.now += (3, 31, 1000)[number % 3]
        elif operation == "reclaim":
            self.queue.reclaim()
        elif operation in ("cancel", "stop", "requeue"):
            self.administer(operation, number)
        elif self.claims:
            self.work(operation, self.claims[number % len(self.claims)])

    def administer(self, operation: str, number: int) -> None:
        listed = self.queue.list()
        if listed and operation == "requeue":
            self.queue.requeue(listed[number % len(listed)].pk, "again")
        elif listed:
            self.queue.cancel(listed[number % len(listed)].pk, "why", running=operation == "stop")

    def work(self, operation: str, claimed: ClaimedJob) -> None:
        record = self.queue.get(claimed.pk)
        current = record.state == "IN_PROGRESS" and record.transaction_uid == claimed.transaction_uid
        try:
            self.finish(operation, claimed)
        except StaleToken:
            assert not current
            assert self.queue.get(claimed.pk) == record
        else:
            assert current

    def finish(self, operation: str, claimed: ClaimedJob) -> None:
        if operation == "complete":
            with self.database.begin() as connection:
                self.queue.complete(connection, claimed)
        elif operation == "retry":
            spent = claimed.attempts >= claimed.max_attempts
            assert self.queue.retry(claimed, "x") is (JobState.FAILED if spent else JobState.SCHEDULED)
        elif operation == "fail":
            self.queue.fail(claimed, "x")
        elif operation == "release":
            self.queue.release(claimed, "x")
        else:
            self.queue.extend(claimed)

    def check(self) -> None:
        with self.database.read() as connection:
            records = connection.execute(select(job)).all()
            events = connection.execute(select(job_event).order_by(job_event.c.pk)).all()
        live = Counter(row.dedupe_key for row in records if row.state in ("SCHEDULED", "IN_PROGRESS"))
        assert all(count == 1 for count in live.values())
        for row in records:
            before: str | None = None
            for event in (each for each in events if each.job_pk == row.pk):
                assert event.state in LEGAL[before], f"{before} > {event.state}"
                before = event.state
            assert before == row.state
            assert 0 <= row.attempts <= row.max_attempts
            assert (row.finished_at is not None) == JobState(row.state).final
            assert (row.lease_until is not None) <= (row.state in ("IN_PROGRESS", "COMPLETED", "FAILED"))


OPERATIONS = ["enqueue", "claim", "claim", "complete", "retry", "fail", "release", "extend"]
OPERATIONS += ["advance", "reclaim", "cancel", "stop", "requeue"]


@pytest.mark.slow
@given(steps=st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 5)), max_size=25))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_sequence_of_operations_breaks_the_queue(database: Database, steps: list[tuple[str, int]]) -> None:
    with database.begin() as connection:
        connection.execute(delete(job))
    run = Run(database)
    for operation, number in steps:
        run.apply(operation, number)
    run.check()

