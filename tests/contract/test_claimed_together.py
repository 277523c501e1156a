"""Runs that are claimed beside another one: alike, due, in order, each under a claim of its own, and recovered each by itself."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from storage.batches import alike
from storage.database import Database
from storage.errors import StaleToken
from storage.jobs import ClaimedJob, JobQueue, JobSpec
from storage.schema import run


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(database: Database, clock: Clock) -> JobQueue:
    return JobQueue(database, clock=clock, lease=30)


_VALUES = {
    "study_uid": "1.2", "study_revision": 1, "series_uids": [], "input_set": [], "rule": "r", "bundle": "b", "bundle_version": "1",
    "parameters": {}, "deliver_to": [], "created_at": 1000.0,
}  # fmt: skip


def put(database: Database, queue: JobQueue, key: str, release: str, **options: object) -> int:
    with database.begin() as connection:
        made = insert(run).values(**_VALUES, run_key=key, release_digest=release).returning(run.c.pk)
        run_pk = connection.scalar(made)
        job_pk = queue.enqueue(connection, JobSpec("infer", "infer", key, payload={"run_pk": run_pk}, **options))  # type: ignore[arg-type]
        assert job_pk is not None
        connection.execute(run.update().where(run.c.pk == run_pk).values(job_pk=job_pk))
    return job_pk


def first(queue: JobQueue) -> ClaimedJob:
    claimed = queue.claim(["infer"], "one")
    assert claimed is not None
    return claimed


def beside(database: Database, claimed: ClaimedJob, most: int = 7) -> list[int]:
    with database.read() as connection:
        return alike(connection, claimed, most, now=1000.0)


def test_what_is_alike_and_due_in_the_queues_order(database: Database, queue: JobQueue) -> None:
    put(database, queue, "a", "film")
    second = put(database, queue, "b", "film")
    put(database, queue, "later", "film", not_before=1001.0)
    put(database, queue, "other", "head")
    third = put(database, queue, "c", "film")
    claimed = first(queue)
    assert beside(database, claimed) == [second, third]
    assert beside(database, claimed, 1) == [second]


def test_none_comes_before_a_run_of_greater_priority(database: Database, queue: JobQueue) -> None:
    put(database, queue, "a", "film", priority=2)
    second = put(database, queue, "b", "film", priority=2)
    put(database, queue, "urgent", "head", priority=1)
    put(database, queue, "c", "film", priority=0)
    assert beside(database, first(queue)) == [second]


def test_each_is_claimed_for_itself_and_by_one_worker_only(database: Database, queue: JobQueue) -> None:
    pks = [put(database, queue, key, "film") for key in "abcd"]
    taken = queue.claim(["infer"], "other")
    assert taken is not None
    assert taken.pk == pks[0]
    claimed = queue.claim_some(pks, "one")
    assert [each.pk for each in claimed] == pks[1:]
    assert len({each.transaction_uid for each in claimed}) == 3
    assert {(each.attempts, each.worker) for each in claimed} == {(1, "one")}
    assert queue.claim_some(pks, "two") == []
    assert [event.detail for event in queue.events(pks[2])] == ["enqueued", "attempt 1 of 5"]


def test_each_is_extended_ended_and_freed_for_itself(database: Database, queue: JobQueue, clock: Clock) -> None:
    pks = [put(database, queue, key, "film") for key in "abc"]
    ended, held, lost = queue.claim_some(pks, "one")
    with database.begin() as connection:
        queue.complete(connection, ended)
    clock.now += 20
    queue.extend(held)
    clock.now += 20
    assert queue.reclaim() == 1
    assert [queue.get(pk).state for pk in pks] == ["COMPLETED", "IN_PROGRESS", "SCHEDULED"]
    with pytest.raises(StaleToken), database.begin() as connection:
        queue.complete(connection, lost)
