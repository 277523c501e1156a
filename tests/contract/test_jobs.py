"""The job queue: one owner at a time, nothing lost, every transition written down."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from storage.database import Database
from storage.errors import NotFound, StaleToken
from storage.jobs import AGEING, Backoff, ClaimedJob, JobQueue, JobSpec, JobState
from storage.schema import job


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
    return JobQueue(database, clock=clock, backoff=Backoff(base=10, factor=2, cap=60, jitter=0.5, random=lambda: 0.0), lease=30)


def put(database: Database, jobs: JobQueue, key: str = "k", **options: object) -> int | None:
    values = {"kind": "route", "queue": "route", "max_attempts": 3, **options}
    with database.begin() as connection:
        return jobs.enqueue(connection, JobSpec(dedupe_key=key, payload={"n": 1}, **values))  # type: ignore[arg-type]


def take(queue: JobQueue, *queues: str) -> ClaimedJob:
    claimed = queue.claim(queues or ["route"], "worker-1")
    assert claimed is not None
    return claimed


def test_a_job_is_claimed_and_completed_beside_its_effect(database: Database, queue: JobQueue) -> None:
    pk = put(database, queue, study_uid="1.2")
    claimed = take(queue)
    assert (claimed.pk, claimed.attempts, claimed.payload, claimed.study_uid) == (pk, 1, {"n": 1}, "1.2")
    assert claimed.lease_until == 1030
    with database.begin() as connection:
        queue.complete(connection, claimed, "done")
    assert queue.get(claimed.pk).state == "COMPLETED"
    assert queue.get(claimed.pk).finished_at == 1000
    assert queue.claim(["route"], "worker-1") is None
    assert [(event.state, event.detail) for event in queue.events(claimed.pk)] == [
        ("SCHEDULED", "enqueued"),
        ("IN_PROGRESS", "attempt 1 of 3"),
        ("COMPLETED", "done"),
    ]


def test_enqueueing_is_undone_with_its_cause(database: Database, queue: JobQueue) -> None:
    with pytest.raises(LookupError):  # noqa: PT012
        with database.begin() as connection:
            queue.enqueue(connection, JobSpec("route", "route", "k"))
            raise LookupError
    assert queue.list() == []


def test_a_live_job_is_not_queued_twice(database: Database, queue: JobQueue) -> None:
    first = put(database, queue)
    assert put(database, queue) is None
    claimed = take(queue)
    assert put(database, queue) is None
    with database.begin() as connection:
        queue.complete(connection, claimed)
    second = put(database, queue)
    assert second is not None
    assert second != first


def test_a_job_of_low_priority_is_not_starved(database: Database, queue: JobQueue, clock: Clock) -> None:
    put(database, queue, "low", priority=-2)
    claimed = []
    for number in range(6):
        put(database, queue, f"urgent {number}", priority=1)
        job = queue.claim(["route"], "w")
        assert job is not None
        claimed.append(queue.get(job.pk).dedupe_key)
        clock.now += AGEING
    assert claimed.index("low") == 3, claimed


def test_priority_then_time_decides(database: Database, queue: JobQueue, clock: Clock) -> None:
    put(database, queue, "later", not_before=999.0)
    put(database, queue, "sooner", not_before=998.0)
    put(database, queue, "urgent", priority=5)
    put(database, queue, "not yet", priority=9, not_before=1001.0)
    order = [queue.get(take(queue).pk).dedupe_key for _ in range(3)]
    assert order == ["urgent", "sooner", "later"]
    assert queue.claim(["route"], "w") is None
    clock.now = 1001
    assert queue.get(take(queue).pk).dedupe_key == "not yet"


def test_queues_are_claimed_by_name_or_prefix(database: Database, queue: JobQueue) -> None:
    put(database, queue, "a", queue="deliver:a_b")
    put(database, queue, "b", queue="deliverxpacs")
    assert queue.claim(["route"], "w") is None
    assert queue.claim(["deliver:a%"], "w") is None
    assert take(queue, "route", "deliver:*").queue == "deliver:a_b"
    assert queue.claim(["deliver:*"], "w") is None
    with pytest.raises(ValueError, match="at least one queue"):
        queue.claim([], "w")


def test_a_retry_waits_for_its_backoff_and_the_last_one_fails(database: Database, queue: JobQueue, clock: Clock) -> None:
    put(database, queue)
    waits = []
    for _ in range(2):
        claimed = take(queue)
        assert queue.retry(claimed, "refused") is JobState.SCHEDULED
        waits.append(queue.get(claimed.pk).not_before - clock.now)
        assert queue.claim(["route"], "w") is None
        clock.now += waits[-1]
    assert waits == [10, 20]
    claimed = take(queue)
    assert queue.retry(claimed, "refused") is JobState.FAILED
    assert queue.get(claimed.pk).error == "attempts spent: refused"


def test_backoff_is_bounded_and_jittered() -> None:
    assert [Backoff(base=5, factor=2, cap=100, jitter=0).delay(n) for n in (1, 2, 3, 50, 10_000)] == [5, 10, 20, 100, 100]
    assert Backoff(base=8, jitter=0.5, random=lambda: 1.0).delay(1) == 4


def test_a_release_counts_no_attempt(database: Database, queue: JobQueue) -> None:
    put(database, queue)
    queue.release(take(queue), "shutdown")
    assert take(queue).attempts == 1


def test_only_the_newest_claim_may_write(database: Database, queue: JobQueue, clock: Clock) -> None:
    put(database, queue)
    old = take(queue)
    clock.now += 31
    assert queue.reclaim() == 1
    new = take(queue)
    assert new.transaction_uid != old.transaction_uid
    for attempt in (
        lambda: queue.extend(old),
        lambda: queue.retry(old, "x"),
        lambda: queue.fail(old, "x"),
        lambda: queue.release(old, "x"),
    ):
        with pytest.raises(StaleToken):
            attempt()
    for refused in (queue.fence, queue.complete):
        with pytest.raises(StaleToken):  # noqa: PT012
            with database.begin() as connection:
                put_beside = JobSpec("route", "route", "beside")
                queue.enqueue(connection, put_beside)
                refused(connection, old)
    assert [record.dedupe_key for record in queue.list()] == ["k"]
    with database.begin() as connection:
        queue.fence(connection, new)
        queue.complete(connection, new)


def test_a_heartbeat_keeps_the_lease(database: Database, queue: JobQueue, clock: Clock) -> None:
    put(database, queue)
    claimed = take(queue)
    clock.now += 29
    queue.extend(claimed)
    clock.now += 29
    assert queue.reclaim() == 0
    clock.now += 2
    assert queue.reclaim() == 1


def test_reclaiming_fails_a_job_that_kills_its_workers(database: Database, queue: JobQueue, clock: Clock) -> None:
    pk = put(database, queue, max_attempts=2)
    for _ in range(2):
        take(queue)
        clock.now += 31
        assert queue.reclaim() == 1
    assert pk is not None
    assert queue.get(pk).state == "FAILED"
    assert queue.get(pk).finished_at == clock.now
    assert queue.events(pk)[-1].detail == "attempts spent: the worker's lease expired"


def test_cancel_and_requeue(database: Database, queue: JobQueue) -> None:
    pk = put(database, queue)
    assert pk is not None
    claimed = take(queue)
    assert not queue.cancel(pk, "no longer wanted")
    assert queue.cancel(pk, "stop it", running=True)
    with pytest.raises(StaleToken):
        queue.extend(claimed)
    assert not queue.cancel(pk, "again", running=True)
    twin = put(database, queue)
    assert not queue.requeue(pk, "a live job does this work")
    assert twin is not None
    assert queue.cancel(twin, "out of the way")
    assert queue.requeue(pk, "once more")
    assert not queue.requeue(pk, "it is live")
    assert take(queue).attempts == 1


def test_listing_filters(database: Database, queue: JobQueue) -> None:
    put(database, queue, "a", study_uid="1.2")
    put(database, queue, "b", kind="infer", queue="infer")
    assert [record.dedupe_key for record in queue.list()] == ["b", "a"]
    assert [record.dedupe_key for record in queue.list(kind="infer")] == ["b"]
    assert [record.dedupe_key for record in queue.list(study_uid="1.2")] == ["a"]
    assert queue.list(state=JobState.FAILED) == []
    with pytest.raises(NotFound):
        queue.get(99)
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(job)) == 2
