"""A study is complete once, when it is, and the reason is kept."""

from __future__ import annotations

import multiprocessing

import pytest
from sqlalchemy import select, update

from storage import associations, index
from storage.completion import CompletedStudy, CompletionPolicy, complete_quiet, hold_revision, route_again
from storage.database import Database
from storage.jobs import JobQueue
from storage.schema import audit, completion, study
from tests.contract.fill import add_instance, add_study
from tests.contract.workers import complete_all

QUIET = CompletionPolicy(quiet_period=60, max_wait=3600)


def opened(database: Database, name: str = "a1", *, now: float = 1000.0, lease: float = 1e6) -> str:
    associations.open_association(database, name, "receiver-1", "SCANNER", "NODE", "10.0.0.1", lease, now=now)
    return name


def received(database: Database, uid: str = "1.2", *, count: int = 2, at: float = 1000.0, association_id: str | None = None) -> None:
    add_study(database, uid, at=at)
    for number in range(count):
        add_instance(database, uid, f"{uid}.1.{number}", at=at, association_id=association_id)


def complete(database: Database, now: float, policy: CompletionPolicy = QUIET) -> list[CompletedStudy]:
    return complete_quiet(database, now, policy)


def state(database: Database, uid: str = "1.2") -> tuple[str, int | None]:
    with database.read() as connection:
        row = connection.execute(select(study.c.state, study.c.completed_revision).where(study.c.study_uid == uid)).one()
    return row.state, row.completed_revision


def test_a_quiet_study_without_a_sender_is_complete(database: Database) -> None:
    association = opened(database)
    received(database, association_id=association)
    associations.close_all(database, [associations.Ended(association, "released", 2, 1001)])
    assert complete(database, 1059) == []
    (done,) = complete(database, 1063)
    assert (done.study_uid, done.revision, done.previous_revision, done.instances, done.held) == ("1.2", 2, None, 2, None)
    assert done.reason == "no open association is sending it and nothing came for 63 s (quiet period 60 s); 2 instances"
    assert state(database) == ("COMPLETE", 2)
    (job,) = JobQueue(database).list()
    assert (job.kind, job.queue, job.study_uid, job.payload["revision"]) == ("route", "route", "1.2", 2)
    assert complete(database, 2000) == []
    with database.read() as connection:
        kept = connection.execute(select(completion)).one()
        record = index.study_record(connection, "1.2")
    assert (kept.revision, kept.reason, kept.input_digest) == (2, done.reason, done.input_digest)
    assert record is not None
    assert record.complete_reason == done.reason


def test_an_open_association_that_sends_it_keeps_it_open(database: Database) -> None:
    received(database, association_id=opened(database))
    opened(database, "elsewhere")
    assert complete(database, 1100) == []
    associations.close_all(database, [associations.Ended("a1", "aborted", 2, 1100)])
    assert len(complete(database, 1100)) == 1


def test_an_expired_lease_counts_as_closed(database: Database) -> None:
    received(database, association_id=opened(database, lease=200))
    assert complete(database, 1100) == []
    associations.touch(database, "receiver-1", 200, now=1150)
    assert complete(database, 1300) == []
    assert len(complete(database, 1351)) == 1
    assert associations.expire(database, now=1351) == 1


def test_a_heartbeat_can_name_the_associations_that_are_really_open(database: Database) -> None:
    received(database, association_id=opened(database, lease=10))
    opened(database, "a2", lease=10)
    assert associations.touch(database, "receiver-1", 1000, now=1005, among=["a2"]) == 1
    assert len(complete(database, 1060)) == 1


def test_an_idle_association_holds_it_up_no_longer_than_max_wait(database: Database) -> None:
    received(database, association_id=opened(database))
    assert complete(database, 4599) == []
    (done,) = complete(database, 4600)
    assert "max_wait 3600 s" in done.reason
    assert "association from SCANNER is still open but idle" in done.reason


def test_an_association_that_still_sends_for_it_is_not_idle(database: Database) -> None:
    association = opened(database)
    received(database, association_id=association)
    with database.begin() as connection:  # duplicates raise no revision, but they are sending
        from storage.schema import association_study

        connection.execute(update(association_study).values(last_at=4590.0))
    assert complete(database, 4600) == []


def test_required_series_and_expected_count_are_waited_for(database: Database) -> None:
    policy = CompletionPolicy(60, 3600, required=[{"Modality": "MR", "SeriesDescription": "*t1*"}], expected_count=3)
    received(database)
    assert complete(database, 1100, policy) == []
    add_instance(database, "1.2", "1.2.2.1", series_uid="1.2.2", series_description="Ax T1 MPRAGE")
    (done,) = complete(database, 1100, policy)
    assert "required series Modality=MR, SeriesDescription=*t1* is there" in done.reason
    assert "3 of 3 expected instances" in done.reason


def test_what_never_came_is_named_after_max_wait(database: Database) -> None:
    policy = CompletionPolicy(60, 3600, required=[{"SeriesDescription": "*T1*"}], expected_count=9)
    received(database)
    assert complete(database, 4599, policy) == []
    (done,) = complete(database, 4600, policy)
    assert "required series SeriesDescription=*T1* did not come" in done.reason
    assert "2 of 9 expected instances" in done.reason


def test_a_late_instance_reopens_and_completes_again(database: Database) -> None:
    received(database)
    (first,) = complete(database, 1100)
    with database.begin() as connection:
        assert hold_revision(connection, "1.2", 2)
        assert not hold_revision(connection, "1.2", 1)
    add_instance(database, "1.2", "1.2.1.late", at=1200)
    assert state(database) == ("RECEIVING", 2)
    with database.begin() as connection:
        assert not hold_revision(connection, "1.2", 2)
        assert not hold_revision(connection, "1.2", 3)
    assert complete(database, 1259) == []
    (second,) = complete(database, 1260)
    assert (second.revision, second.previous_revision) == (3, 2)
    assert second.input_digest != first.input_digest
    assert len(JobQueue(database).list()) == 2


def test_a_flagged_study_is_not_run(database: Database) -> None:
    received(database)
    with database.begin() as connection:
        connection.execute(update(study).values(flag="its instances disagree on PatientID"))
    (done,) = complete(database, 1100)
    assert done.held == "not run: its instances disagree on PatientID"
    assert JobQueue(database).list() == []
    with database.read() as connection:
        assert "study.held" in connection.scalars(select(audit.c.event)).all()
    queue = JobQueue(database)
    with database.begin() as connection:
        assert route_again(connection, queue, "1.2", actor="somebody", why="the same person", now=1200) is not None
        assert route_again(connection, queue, "1.2", actor="somebody", why="twice", now=1200) is None
        assert route_again(connection, queue, "9.9", actor="somebody", why="unknown", now=1200) is None
        assert connection.scalar(select(study.c.flag)) is None
    (job,) = queue.list()
    assert job.payload["revision"] == 2


def test_an_imported_study_is_never_completed(database: Database) -> None:
    add_study(database, "1.2")
    add_instance(database, "1.2", "1.2.1.1", origin="imported")
    assert complete(database, 1e9) == []


def test_more_studies_than_one_transaction_takes(database: Database) -> None:
    for number in range(120):
        received(database, f"1.2.{number}", count=1)
    assert len(complete(database, 1100)) == 120
    assert len(JobQueue(database).list(limit=1000)) == 120


def test_two_completers_complete_a_study_once(database: Database, database_url: str) -> None:
    uids = [f"1.2.{number}" for number in range(20)]
    for uid in uids:
        received(database, uid, count=1)
    spawn = multiprocessing.get_context("spawn")
    start, answer = spawn.Event(), spawn.Queue()
    children = [spawn.Process(target=complete_all, args=(database_url, 1100.0, QUIET, start, answer)) for _ in range(3)]
    for child in children:
        child.start()
    start.set()
    completed = [uid for _ in children for uid in answer.get(timeout=60)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    completed += [each.study_uid for each in complete(database, 1100)]
    assert sorted(completed) == sorted(uids)
    assert len(JobQueue(database).list()) == 20


@pytest.mark.parametrize("uid", ["1.2"])
def test_an_instance_that_slips_in_undoes_it(database: Database, uid: str) -> None:
    received(database, uid)
    with database.begin() as ingest:
        if database.dialect == "postgresql":  # SQLite has one writer: the completer would wait for it
            ingest.execute(update(study).values(revision=study.c.revision + 1, last_received_at=1099.0))
            assert complete(database, 1100) == []
        else:
            ingest.execute(update(study).values(revision=study.c.revision + 1, last_received_at=1099.0))
    assert complete(database, 1100) == []
    assert len(complete(database, 1160)) == 1
