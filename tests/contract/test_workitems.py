"""Workitems in the index: their states, their lock, what is refused with which status, who is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from storage import runs, workitem_events, workitem_runs, workitems
from storage import workitem_values as values
from storage.database import Database
from storage.errors import WorkitemRefused
from storage.jobs import JobQueue
from storage.query import Key
from storage.workitem_events import FILTERED, GLOBAL, WEB
from storage.workitem_values import Json, element
from storage.workitems import State

UID, LOCK = "2.25.1", "2.25.77"
PERFORMED: Json = {
    values.PERFORMED_STATION: element("SQ", values.code("S", "L", "station")),
    values.PERFORMED_AT: element("DT", "20240101"),
    values.PERFORMED_UNTIL: element("DT", "20240101"),
    values.PERFORMED_CODES: element("SQ", values.code("W", "L", "work")),
    values.OUTPUT: element("SQ"),
}


def dataset(**more: Json) -> Json:
    return {
        values.STATE: element("CS", "SCHEDULED"),
        values.PRIORITY: element("CS", "HIGH"),
        values.LABEL: element("LO", "segment"),
        values.READINESS: element("CS", "READY"),
        values.START: element("DT", "20240101120000"),
        values.WORKLIST: element("LO", "brains"),
        **more,
    }


def create(database: Database, uid: str = UID, now: float = 1.0, more: Json | None = None) -> int:
    with database.begin() as connection:
        return workitems.create(connection, uid, dataset(**(more or {})), by="manager", now=now)[1]


def move(database: Database, state: str, lock: str = LOCK, uid: str = UID, now: float = 2.0) -> int:
    with database.begin() as connection:
        return workitems.change_state(connection, uid, state, lock, by="performer", now=now)


def change(database: Database, changes: Json, lock: str = "") -> None:
    with database.begin() as connection:
        workitems.change(connection, UID, changes, lock, by="performer", now=3.0)


def cancel(database: Database, uid: str = UID, details: Json | None = None) -> int:
    with database.begin() as connection:
        return workitems.request_cancel(connection, JobQueue(database), uid, details, by="manager", now=4.0)


def read(database: Database, uid: str = UID) -> workitems.Workitem:
    with database.read() as connection:
        return workitems.get(connection, uid)


def refused(call: Any, *arguments: Any, **more: Any) -> int:
    with pytest.raises(WorkitemRefused) as error:
        call(*arguments, **more)
    return error.value.status


def test_a_workitem_is_claimed_updated_and_completed_by_who_has_its_lock(database: Database) -> None:
    assert create(database) == 0
    assert refused(create, database) == 0x0111
    assert refused(move, database, "COMPLETED") == 0xC310
    assert refused(move, database, "IN PROGRESS", "") == 0xC301
    assert move(database, "IN PROGRESS") == 0
    assert refused(move, database, "IN PROGRESS", "2.25.78") == 0xC302
    assert refused(change, database, {values.LABEL: element("LO", "x")}) == 0xC301
    assert refused(move, database, "COMPLETED", "2.25.78") == 0xC301
    assert refused(move, database, "COMPLETED") == 0xC304
    change(database, {values.PERFORMED: element("SQ", PERFORMED)}, LOCK)
    assert move(database, "COMPLETED") == 0
    item = read(database)
    assert (item.state, item.final_at, item.performer) == (State.COMPLETED, 2.0, "performer")
    assert values.TRANSACTION not in item.shown


def test_a_final_state_stays(database: Database) -> None:
    create(database)
    move(database, "IN PROGRESS")
    assert move(database, "CANCELED") == 0
    assert move(database, "CANCELED") == 0xB304
    assert refused(move, database, "CANCELED", "2.25.78") == 0xC301
    assert refused(move, database, "COMPLETED") == 0xC300
    assert refused(move, database, "IN PROGRESS") == 0xC300
    assert refused(move, database, "SCHEDULED") == 0xC303
    assert refused(change, database, {values.LABEL: element("LO", "x")}, LOCK) == 0xC300
    assert cancel(database) == 0xB304
    assert refused(move, database, "NONE") == 0x0106
    assert refused(move, database, "IN PROGRESS", LOCK, "2.25.404") == 0xC307


def test_a_cancel_request_ends_what_waits_and_tells_who_performs(database: Database) -> None:
    create(database)
    reason = {values.REASON: element("LT", "not needed")}
    assert cancel(database, details=reason) == 0
    item = read(database)
    assert item.state is State.CANCELED
    assert values.text(values.items(item.shown, values.PROGRESS)[0], values.REASON) == "not needed"
    create(database, "2.25.2")
    move(database, "IN PROGRESS", uid="2.25.2")
    assert cancel(database, "2.25.2", reason) == 0
    assert read(database, "2.25.2").state is State.IN_PROGRESS
    with database.read() as connection:
        happened = workitem_events.history(connection, read(database, "2.25.2").pk)
    assert [each["type"] for each in happened] == [1, 1, 2]


@pytest.mark.parametrize(
    ("tag", "value", "status"),
    [
        (values.STATE, element("CS", "IN PROGRESS"), 0xC309),
        (values.PRIORITY, element("CS", "URGENT"), 0x0106),
        (values.READINESS, element("CS"), 0x0121),
        (values.START, element("DT", "soon"), 0x0106),
        (values.TRANSACTION, element("UI", LOCK), 0x0106),
        (values.SOP_INSTANCE, element("UI", "2.25.9"), 0x0106),
    ],
)
def test_what_is_no_new_workitem(database: Database, tag: str, value: Json, status: int) -> None:
    assert refused(create, database, more={tag: value}) == status
    assert refused(read, database) == 0xC307


def test_one_of_many_performers_gets_it(database: Database) -> None:
    create(database)
    barrier = threading.Barrier(4)
    won: list[str] = []
    lost: list[int] = []

    def claim(lock: str) -> None:
        barrier.wait()
        try:
            move(database, "IN PROGRESS", lock)
        except WorkitemRefused as error:
            lost.append(error.status)
        else:
            won.append(lock)

    threads = [threading.Thread(target=claim, args=(f"2.25.{number}",)) for number in range(100, 104)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [read(database).transaction_uid] == won
    assert lost == [0xC302] * 3


def test_workitems_are_found_by_columns_and_by_what_their_sequences_hold(database: Database) -> None:
    station = element("SQ", values.code("GPU1", "99L", "first"))
    create(database, "2.25.2", more={"00404025": station, values.START: element("DT", "20240103")})
    create(database, "2.25.1")
    create(database, "2.25.3", more={values.PRIORITY: element("CS", "LOW")})

    def found(*keys: Key, **more: Any) -> list[str]:
        with database.read() as connection:
            return [item.uid for item in workitems.search(connection, keys, **more)]

    assert found() == ["2.25.1", "2.25.3", "2.25.2"]
    assert found(Key(0x00741200, "CS", "LOW")) == ["2.25.3"]
    assert found(Key(0x00404005, "DT", "20240102-")) == ["2.25.2"]
    assert found(Key(0x00404025, "SQ", "", ((Key(0x00080100, "SH", "GPU*"),),))) == ["2.25.2"]
    assert found(Key(0x00741204, "LO", "seg*"), offset=1, limit=1) == ["2.25.3"]
    create(database, "2.25.4", more={"00404025": element("LO", "GPU1")})  # of another VR than the attribute has
    assert found(Key(0x00404025, "SQ", "", ((Key(0x00080100, "SH", "GPU*"),),))) == ["2.25.2"]


def told(database: Database, aet: str) -> list[tuple[str, int]]:
    with database.read() as connection:
        return [(notice.uid, notice.type) for notice in workitem_events.waiting(connection, WEB, [aet])]


def test_who_watches_is_told_until_it_does_not_want_to_be(database: Database) -> None:
    create(database)
    with database.begin() as connection:
        workitem_events.subscribe(connection, "ONE", UID, channel=WEB, now=1.0)
        workitem_events.subscribe(connection, "ALL", GLOBAL, channel=WEB, now=1.0)
        low = Key(0x00741200, "CS", "LOW")
        workitem_events.subscribe(connection, "LOW", FILTERED, channel=WEB, matching=[low], now=1.0)
    create(database, "2.25.2", more={values.PRIORITY: element("CS", "LOW")})
    move(database, "IN PROGRESS")
    assert told(database, "ONE") == [(UID, 1), (UID, 1)]
    assert told(database, "ALL") == [(UID, 1), ("2.25.2", 1), (UID, 1)]
    assert told(database, "LOW") == [("2.25.2", 1)]
    with database.begin() as connection:
        workitem_events.sent(connection, [each.pk for each in workitem_events.waiting(connection, WEB, ["ALL", "LOW"])])
        workitem_events.unsubscribe(connection, "ALL", UID, now=2.0)
        workitem_events.suspend(connection, "ALL", GLOBAL, now=2.0)
        workitem_events.unsubscribe(connection, "LOW", GLOBAL, now=2.0)
    move(database, "CANCELED")
    create(database, "2.25.3", now=5.0, more={values.PRIORITY: element("CS", "LOW")})
    move(database, "IN PROGRESS", uid="2.25.2")
    assert told(database, "ALL") == [("2.25.2", 1)]
    assert told(database, "LOW") == []


def test_a_new_subscriber_hears_how_things_stand_and_with_a_lock_of_what_is_final_too(database: Database) -> None:
    for number in (1, 2):
        create(database, f"2.25.{number}")
    cancel(database, "2.25.1")
    with database.begin() as connection:
        workitem_events.subscribe(connection, "OPEN", GLOBAL, channel=WEB, now=1.0)
        workitem_events.subscribe(connection, "LOCK", GLOBAL, channel=WEB, deletion_lock=True, now=1.0)
        assert [(each.aet, each.waiting) for each in workitem_events.watchers(connection)] == [("LOCK", 2), ("OPEN", 1)]
    assert told(database, "OPEN") == [("2.25.2", 1)]
    assert told(database, "LOCK") == [("2.25.1", 1), ("2.25.2", 1)]


def test_who_is_to_perform_a_workitem_is_told_when_it_is_made_and_when_that_changes(database: Database) -> None:
    station = element("SQ", values.code("GPU1", "99L", "first"))
    person: Json = {values.HUMAN_CODES: element("SQ", values.code("P", "99L", "reader")), values.ORGANIZATION: element("LO", "Ward")}
    with database.begin() as connection:
        workitem_events.subscribe(connection, "ALL", GLOBAL, channel=WEB, now=1.0)
    create(database, more={values.STATIONS: station})
    change(database, {values.HUMANS: element("SQ", person)})
    change(database, {values.LABEL: element("LO", "other")})
    change(database, {values.STATIONS: element("SQ"), values.HUMANS: element("SQ")})
    with database.read() as connection:
        reports = [(each.type, each.content) for each in workitem_events.waiting(connection, WEB, ["ALL"])]
    named = {values.HUMAN_CODES: person[values.HUMAN_CODES], values.ORGANIZATION: person[values.ORGANIZATION]}
    assert [kind for kind, _ in reports] == [1, 5, 5]
    assert [content for _, content in reports[1:]] == [{values.STATIONS: station}, {values.STATIONS: station, **named}]


def test_final_workitems_go_after_a_while_unless_somebody_locks_them(database: Database) -> None:
    for number in range(1, 4):
        create(database, f"2.25.{number}")
    for number in (1, 2):
        move(database, "IN PROGRESS", uid=f"2.25.{number}")
        move(database, "CANCELED", uid=f"2.25.{number}", now=10.0)
    with database.begin() as connection:
        workitem_events.subscribe(connection, "ONE", "2.25.2", channel=WEB, deletion_lock=True, now=1.0)
        assert workitems.purge(connection, 10.0, locked_before=0.0) == 0
        assert workitems.purge(connection, 11.0, locked_before=0.0) == 1
    assert refused(read, database, "2.25.1") == 0xC307
    assert [read(database, f"2.25.{number}").state for number in (2, 3)] == [State.CANCELED, State.SCHEDULED]
    with database.begin() as connection:
        assert workitems.purge(connection, 11.0, locked_before=11.0) == 1


def test_the_workitem_of_a_run_follows_it_to_its_end(database: Database) -> None:
    queue = JobQueue(database, clock=lambda: 1000.0)
    specs = [runs.RunSpec("1.2", 1, ["1.2.1"], [(f"1.2.1.{n}", "00")], "rule", "brain", "1", "d") for n in range(3)]
    with database.begin() as connection:
        pks = [runs.create_run(connection, spec, queue=queue, now=1000.0) for spec in specs]
        workitem_events.subscribe(connection, "ALL", GLOBAL, channel=WEB, now=1000.0)
    assert tended(database) == 3
    assert tended(database) == 0
    with database.begin() as connection:
        done, failed, waiting = pks
        assert done is not None
        assert failed is not None
        assert waiting is not None
        for pk in (done, failed):
            assert runs.start_run(connection, pk, "cpu", now=1001.0) is not None
        runs.complete_run(connection, done, device="cpu", timings={}, findings={}, now=1002.0)
        runs.fail_run(connection, failed, "no head", now=1002.0)
    assert tended(database) == 2
    with database.read() as connection:
        items = {item.run_pk: item for item in workitems.list_items(connection)}
    assert [items[pk].state for pk in pks] == [State.COMPLETED, State.CANCELED, State.SCHEDULED]
    values.check_completed(items[done].shown)
    with database.read() as connection:
        reports = workitem_events.waiting(connection, WEB, ["ALL"])
    assert [values.text(each.content, values.STATE) for each in reports if each.uid == items[done].uid] == [
        "SCHEDULED",
        "IN PROGRESS",
        "COMPLETED",
    ]
    assert "FAILED: no head" in str(items[failed].shown)
    assert refused(move, database, "IN PROGRESS", LOCK, items[waiting].uid) == 0x0124
    assert cancel(database, items[waiting].uid) == 0
    with database.read() as connection:
        assert runs.get_run(connection, waiting).state == "CANCELED"
    assert read(database, items[waiting].uid).state is State.CANCELED
    assert tended(database) == 0


def test_a_run_that_is_tried_again_gets_a_workitem_of_its_own_for_that(database: Database) -> None:
    queue = JobQueue(database, clock=lambda: 1000.0)
    spec = runs.RunSpec("1.2", 1, ["1.2.1"], [("1.2.1.1", "00")], "rule", "brain", "1", "d")
    with database.begin() as connection:
        pk = runs.create_run(connection, spec, queue=queue, now=1000.0)
        assert pk is not None

    def attempt(end: Callable[..., Any], *arguments: Any, **more: Any) -> None:
        with database.begin() as connection:
            assert runs.start_run(connection, pk, "cpu", now=1001.0) is not None
            end(connection, pk, *arguments, now=1002.0, **more)

    def again() -> None:
        with database.begin() as connection:
            workitem_runs.try_again(connection, pk, by="person", now=1003.0)
            runs.reopen_run(connection, pk)

    def states() -> list[State]:
        with database.read() as connection:
            return [item.state for item in workitems.list_items(connection)][::-1]

    assert tended(database) == 1
    attempt(runs.fail_run, "no head")
    tended(database)
    again()
    assert states() == [State.CANCELED, State.SCHEDULED]
    attempt(runs.fail_run, "no head yet")
    again()  # before anybody looked
    assert states() == [State.CANCELED, State.CANCELED, State.SCHEDULED]
    attempt(runs.complete_run, device="cpu", timings={}, findings={})
    again()  # there is nothing to try again
    assert tended(database) == 1
    assert states() == [State.CANCELED, State.CANCELED, State.COMPLETED]
    assert tended(database) == 0
    with database.read() as connection:
        reasons = [str(item.shown) for item in workitems.list_items(connection)][::-1]
    assert "FAILED: no head yet" in reasons[1]


def tended(database: Database) -> int:
    with database.begin() as connection:
        return workitem_runs.catch_up(connection, by="NODE", now=1003.0)
