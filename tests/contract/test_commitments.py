"""Storage commitment transactions in the index: recorded once, reported by one at a time, and what peers commit to us."""

from __future__ import annotations

import threading

import pytest

from storage import commitment_requests, commitments, deliveries
from storage.commitments import Request, TooMuchOpen, Verdict
from storage.database import Database
from storage.deliveries import InstanceAnswer
from storage.errors import NotFound
from storage.jobs import JobQueue, JobState

PAIRS = [("1.2.840", f"1.2.{number}") for number in range(5)]


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database, clock=lambda: 100.0)


def record(database: Database, queue: JobQueue, uid: str = "1.9", *, pairs: list[tuple[str, str]] | None = None, peer: str = "a") -> int:
    request = Request(peer, "NODE", uid, pairs or PAIRS)
    with database.begin() as connection:
        return commitments.record_request(connection, request, queue, association_until=110.0, now=100.0)


def read(database: Database, pk: int) -> commitments.CommitmentRecord:
    with database.read() as connection:
        return commitments.get(connection, pk)


def judge(database: Database, pk: int, failures: dict[int, int] | None = None) -> None:
    with database.begin() as connection:
        commitments.record_verdict(connection, commitments.get(connection, pk), Verdict(failures or {}, {"1.5": 4}), now=101.0)


def test_a_transaction_is_kept_as_it_was_asked_with_a_job(database: Database, queue: JobQueue) -> None:
    pk = record(database, queue)
    kept = read(database, pk)
    assert (kept.peer, kept.transaction_uid, kept.instances, kept.state, kept.duplicate) == ("a", "1.9", 5, "REQUESTED", False)
    with database.read() as connection:
        assert commitments.references_of(connection, pk) == PAIRS
    claimed = queue.claim(["commit:a"], "w")
    assert claimed is not None
    assert claimed.payload == {"commitment_pk": pk}


def test_the_same_request_is_one_transaction_in_any_order_and_another_is_a_duplicate(database: Database, queue: JobQueue) -> None:
    pk = record(database, queue)
    assert record(database, queue, pairs=[*reversed(PAIRS), PAIRS[0]]) == pk
    assert len(queue.list(kind="commit")) == 1
    other = record(database, queue, pairs=PAIRS[:1])
    assert read(database, other).duplicate
    assert not read(database, record(database, queue, peer="b")).duplicate


def test_a_report_holds_what_was_judged(database: Database, queue: JobQueue) -> None:
    pk = record(database, queue)
    judge(database, pk, {1: 0x0112, 4: 0x0110})
    with database.read() as connection:
        report = commitments.report_of(connection, pk)
    assert report.committed == [PAIRS[0], PAIRS[2], PAIRS[3]]
    assert report.failed == [(PAIRS[1], 0x0112), (PAIRS[4], 0x0110)]


def test_one_reporter_at_a_time(database: Database, queue: JobQueue) -> None:
    pk = record(database, queue)

    def claim(who: str, now: float = 101.0) -> bool:
        with database.begin() as connection:
            return commitments.claim_report(connection, pk, who, until=now + 60, now=now)

    assert not claim("early")
    judge(database, pk)
    won: list[str] = []
    barrier = threading.Barrier(4)

    def race(who: str) -> None:
        barrier.wait()
        if claim(who):
            won.append(who)

    threads = [threading.Thread(target=race, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert claim("later", now=200.0)  # the first died, or its peer never answered
    with database.begin() as connection:
        assert not commitments.record_reported(connection, pk, won[0], "", now=201.0)
        commitments.give_back(connection, pk, won[0], "not mine any more")
        assert commitments.record_reported(connection, pk, "later", "done", now=201.0)
    assert (read(database, pk).state, read(database, pk).detail) == ("REPORTED", "done")


def test_a_reported_transaction_asked_again_is_judged_again(database: Database, queue: JobQueue) -> None:
    pk = record(database, queue)
    judge(database, pk)
    with database.begin() as connection:
        commitments.claim_report(connection, pk, "w", until=200.0, now=101.0)
        commitments.record_reported(connection, pk, "w", "", now=102.0)
    job = queue.claim(["commit:a"], "w")
    assert job is not None
    with database.begin() as connection:
        queue.complete(connection, job)
    assert record(database, queue) == pk
    assert read(database, pk).state == "REQUESTED"
    assert [each.state for each in queue.list(kind="commit")] == [JobState.SCHEDULED.value, JobState.COMPLETED.value]


def test_a_peer_cannot_fill_the_index(database: Database, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitments, "MAX_OPEN", 2)
    record(database, queue, "1.1")
    record(database, queue, "1.2")
    with pytest.raises(TooMuchOpen):
        record(database, queue, "1.3")
    record(database, queue, "1.2")  # known already
    record(database, queue, "1.3", peer="b")
    monkeypatch.setattr(commitments, "MAX_OPEN_INSTANCES", 9)
    with pytest.raises(TooMuchOpen):
        record(database, queue, "1.4", peer="b")


def test_a_closed_association_makes_its_report_due(database: Database, queue: JobQueue) -> None:
    pk = record(database, queue)
    claimed = queue.claim(["commit:a"], "w")
    assert claimed is not None
    queue.retry(claimed, "left to the association", delay=500.0, count_attempt=False)
    assert queue.claim(["commit:a"], "w") is None
    with database.begin() as connection:
        assert commitments.leave_association(connection, [pk], queue) == {"a"}
    assert queue.claim(["commit:a"], "w") is not None
    assert read(database, pk).association_until == 0.0


def test_ended_transactions_are_forgotten_in_the_end(database: Database, queue: JobQueue) -> None:
    done, failed, waiting = record(database, queue, "1.1"), record(database, queue, "1.2"), record(database, queue, "1.3")
    judge(database, done)
    with database.begin() as connection:
        commitments.claim_report(connection, done, "w", until=200.0, now=101.0)
        commitments.record_reported(connection, done, "w", "", now=102.0)
        commitments.fail(connection, failed, "nobody took it")
        assert commitments.forget(connection, 50.0) == 0
        assert commitments.forget(connection, 150.0) == 2
    with pytest.raises(NotFound):
        read(database, done)
    assert read(database, waiting).state == "REQUESTED"


# --- asked by us


def sent(database: Database, queue: JobQueue, uids: list[str]) -> int:
    with database.begin() as connection:
        pk = deliveries.create_delivery(connection, None, "1.5", "pacs", uids, queue, now=100.0)
        assert pk is not None
        for uid in uids:
            deliveries.record_answers(connection, pk, [InstanceAnswer(uid, "ACCEPTED", 0, at=100.0)])
        commitment_requests.record_request(connection, "7.1", pk, "pacs", uids, due_at=200.0, now=100.0)
    return pk


def report(
    database: Database, queue: JobQueue, uid: str, good: set[str], bad: dict[str, int], *, peer: str = "pacs", now: float = 150.0
) -> bool:
    with database.begin() as connection:
        return commitment_requests.record_report(connection, peer, uid, good, bad, queue, now=now)


def states(database: Database, pk: int) -> dict[str, tuple[str | None, int | None]]:
    with database.read() as connection:
        return {each.sop_uid: (each.commitment, each.failure_reason) for each in deliveries.instances_of(connection, pk)}


def test_a_report_is_kept_and_hastens_the_delivery(database: Database, queue: JobQueue) -> None:
    pk = sent(database, queue, ["1", "2", "3"])
    claimed = queue.claim(["deliver:pacs"], "w")
    assert claimed is not None
    queue.retry(claimed, "waits for the report", delay=3600.0, count_attempt=False)
    assert not report(database, queue, "7.1", {"1"}, {}, peer="other")
    assert not report(database, queue, "7.2", {"1"}, {})
    assert report(database, queue, "7.1", {"1", "99"}, {"2": 0x0110, "98": 0x0112})
    assert states(database, pk) == {"1": ("COMMITTED", None), "2": ("FAILED", 0x0110), "3": ("REQUESTED", None)}
    assert queue.claim(["deliver:pacs"], "w") is not None
    assert report(database, queue, "7.1", {"2"}, {})  # told twice: the first holds
    assert states(database, pk)["2"] == ("FAILED", 0x0110)


def test_a_late_failure_does_not_undo_what_was_asked_since_and_a_late_success_counts(database: Database, queue: JobQueue) -> None:
    pk = sent(database, queue, ["1", "2"])
    with database.begin() as connection:
        commitment_requests.expire(connection, "7.1", "no report in time")
        commitment_requests.record_request(connection, "7.2", pk, "pacs", ["1", "2"], due_at=300.0, now=200.0)
    assert report(database, queue, "7.1", {"1"}, {"2": 0x0110}, now=210.0)
    assert states(database, pk) == {"1": ("COMMITTED", None), "2": ("REQUESTED", None)}


def test_what_failed_is_sent_again_with_its_reason(database: Database, queue: JobQueue) -> None:
    pk = sent(database, queue, ["1", "2"])
    report(database, queue, "7.1", {"1"}, {"2": 0x0110})
    with database.begin() as connection:
        failed = [each for each in deliveries.instances_of(connection, pk) if each.commitment == "FAILED"]
        commitment_requests.send_again(connection, failed)
    with database.read() as connection:
        (again,) = deliveries.instances_of(connection, pk, pending=True)
    assert (again.sop_uid, again.commit_attempts, again.failure_reason) == ("2", 1, 0x0110)
