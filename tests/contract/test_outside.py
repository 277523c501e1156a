"""Runs that somebody outside performs, and reports on their way by DIMSE: who has what, in the index."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select

from storage import outside, runs, workitem_dimse, workitem_events, workitem_runs, workitems
from storage import workitem_values as values
from storage.database import Database
from storage.errors import WorkitemRefused
from storage.jobs import JobQueue
from storage.schema import emitted, instance, workitem, workitem_notice
from storage.workitem_events import DIMSE, GLOBAL
from storage.workitem_values import Json, element
from tests.contract.fill import add_instance, add_study
from tests.contract.test_workitems import LOCK, PERFORMED, create

STUDY = "1.2"


def made(database: Database, queue: JobQueue, *, left: bool = False, deliver: tuple[str, ...] = ()) -> tuple[int, str]:
    """A run that waits, and the UID of its workitem."""
    add_study(database, STUDY)
    add_instance(database, STUDY, "1.2.1.1")
    spec = runs.RunSpec(STUDY, 1, ["1.2.1"], [("1.2.1.1", "00")], "rule", "brain", "1", "d", deliver_to=deliver, outside=left)
    with database.begin() as connection:
        pk = runs.create_run(connection, spec, queue=queue, now=1000.0)
        assert pk is not None
        workitem_runs.catch_up(connection, by="NODE", now=1000.0)
        return pk, str(connection.scalar(select(workitem.c.uid)))


def move(database: Database, queue: JobQueue, uid: str, state: str, lock: str = LOCK) -> int:
    with database.begin() as connection:
        return workitems.change_state(connection, uid, state, lock, by="OTHER", now=1001.0, queue=queue)


def refused(database: Database, queue: JobQueue, uid: str, state: str, lock: str = LOCK) -> int:
    with pytest.raises(WorkitemRefused) as caught:
        move(database, queue, uid, state, lock)
    return caught.value.status


def output(*uids: str) -> Json:
    references = [{"00081155": element("UI", uid)} for uid in uids]
    return {values.PERFORMED: element("SQ", {**PERFORMED, values.OUTPUT: element("SQ", {"00081199": element("SQ", *references)})})}


def test_a_run_goes_to_one_performer_only_ours_or_one_outside(database: Database) -> None:
    queue = JobQueue(database, clock=lambda: 1000.0)
    _, uid = made(database, queue)
    got: list[str] = []
    together = threading.Barrier(4)

    def claim(number: int) -> None:
        together.wait(30)
        if number == 0:
            got.extend(["worker"] if queue.claim(["infer"], "worker") else [])
            return
        try:
            move(database, queue, uid, "IN PROGRESS", f"2.25.{number}")
            got.append("outside")
        except WorkitemRefused as error:
            got.append(f"{error.status:04X}")

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in got if each != "C302"]) == 1
    assert queue.reclaim() == 0


def test_what_the_performer_lists_is_the_runs_result_and_is_delivered(database: Database) -> None:
    queue = JobQueue(database, clock=lambda: 1000.0)
    pk, uid = made(database, queue, left=True, deliver=("pacs",))
    assert queue.claim(["infer"], "worker") is None
    move(database, queue, uid, "IN PROGRESS")
    add_instance(database, STUDY, "1.2.9.1", series_uid="1.2.9")
    with database.begin() as connection:
        workitems.change(connection, uid, output("1.2.9.1", "1.2.9.1", "1.2.9.404", "1.2.1.1"), LOCK, by="OTHER", now=1001.0)
    assert refused(database, queue, uid, "COMPLETED", "2.25.5") == 0xC301
    assert move(database, queue, uid, "COMPLETED") == 0
    with database.read() as connection:
        record = runs.get_run(connection, pk)
        assert (record.state, record.device) == ("COMPLETED", "outside: OTHER")
        assert record.reason == "performed by OTHER: 3 objects, 2 of them not in its study here"
        assert runs.objects_of(connection, record.run_key) == ["1.2.9.1"]
        assert not runs.results_deleted(connection, record.run_key)
        assert connection.scalars(select(emitted.c.sop_uid)).all() == ["1.2.9.1"]
        assert connection.scalar(select(instance.c.run_key).where(instance.c.sop_uid == "1.2.1.1")) is None
    assert record.job_pk is not None
    assert queue.get(record.job_pk).state == "COMPLETED"
    job = queue.claim(["deliver:pacs"], "worker")
    assert job is not None
    assert move(database, queue, uid, "COMPLETED") == 0xB306


def test_a_run_that_ended_meanwhile_keeps_its_end(database: Database) -> None:
    queue = JobQueue(database, clock=lambda: 1000.0)
    pk, uid = made(database, queue)
    move(database, queue, uid, "IN PROGRESS")
    with database.begin() as connection:
        workitems.change(connection, uid, output(), LOCK, by="OTHER", now=1001.0)
        runs.cancel_run(connection, pk, "by a person", now=1001.0)
    assert {refused(database, queue, uid, state) for state in ("COMPLETED", "CANCELED")} == {0xC300}
    with database.read() as connection:
        assert runs.get_run(connection, pk).reason == "by a person"


def test_outputs_are_read_once_each() -> None:
    assert outside.outputs(output("1.2", "1.3", "1.2")) == ["1.2", "1.3"]
    assert outside.outputs({}) == []


def test_one_reports_to_a_subscriber_at_a_time_and_what_fails_waits(database: Database) -> None:
    with database.begin() as connection:
        workitem_events.subscribe(connection, "AET", GLOBAL, channel=DIMSE, now=1.0)
    create(database)

    def due(who: str, now: float) -> int:
        with database.read() as connection:
            return len(workitem_dimse.next_reports(connection, "AET", who, now=now, limit=9))

    def hold(who: str, now: float) -> bool:
        with database.begin() as connection:
            return workitem_dimse.hold(connection, "AET", who, until=now + 10, now=now)

    assert [hold("a", 1.0), hold("a", 2.0), hold("b", 5.0), hold("b", 13.0), hold("a", 14.0)] == [True, True, False, True, False]
    assert (due("a", 15.0), due("b", 15.0)) == (0, 1)
    with database.begin() as connection:
        workitem_dimse.leave(connection, "AET", "a")
        workitem_dimse.failed(connection, "AET", "answered 0110", next_at=20.0)
        assert workitem_dimse.attempts(connection, "AET") == 1
    assert (due("b", 19.0), due("b", 21.0)) == (0, 1)
    with database.begin() as connection:
        workitem_dimse.taken(connection, "AET", list(connection.scalars(select(workitem_notice.c.pk))))
        assert workitem_dimse.attempts(connection, "AET") == 0
    assert due("b", 21.0) == 0
