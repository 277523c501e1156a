"""Event reports of workitems by DIMSE (PS3.4 CC.2.3, CC.2.4): who watches is told, where it listens, until it has taken it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.workitem_events import Reporter, build_reporters
from storage import workitems
from storage.schema import workitem_notice, workitem_reporter
from tests.dimse import until
from tests.node import StepNode, peer, running, settings
from tests.workitems_dimse import FILTERED, GLOBAL, WATCH, Events, client, listening, workitem

RIGHT = "may_manage_workitems = true"
QUIET = '\n[delivery]\nbackoff = 0\nconnect_timeout = "2s"\nresponse_timeout = "5s"\n'


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def node(tmp_path: Path, events: Events) -> Iterator[StepNode]:
    with listening(events) as port:
        more = peer("client", port, title="CLIENT", more=RIGHT) + peer("other", 1, title="OTHER", more=RIGHT)
        with running(settings(tmp_path / "node", more=more)) as started:
            yield started


@pytest.fixture
def reporter(node: StepNode) -> Iterator[Reporter]:
    made = build_reporters(node.node)
    yield made[-1]
    for each in made:
        each.close()


def waiting(node: StepNode) -> int:
    with node.node.database.read() as connection:
        return len(connection.execute(select(workitem_notice.c.pk)).all())


def test_a_watcher_is_told_on_its_own_association(node: StepNode, reporter: Reporter) -> None:
    events = Events()
    with client(node.port, events=events) as watcher, client(node.port, title="OTHER") as manager:
        uid = manager.create()[1]
        assert watcher.watch(uid) == 0x0000
        events.await_state(uid, "SCHEDULED")
        unwatched = manager.create()[1]
        assert manager.state(uid, "IN PROGRESS") == 0x0000
        assert manager.act(uid, 2, WATCH, ReasonForCancellation="not needed") == 0x0000
        until(lambda: any(kind == 2 for _, kind, _ in events.got))
        requested = next(dataset for _, kind, dataset in events.got if kind == 2)
        assert (requested.ReasonForCancellation, requested.RequestingAE) == ("not needed", "OTHER")
        assert manager.state(uid, "CANCELED") == 0x0000
        events.await_state(uid, "CANCELED")
        assert events.states(uid) == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
        assert not reporter.step()  # nobody else calls it meanwhile
        assert events.states(unwatched) == []
        until(lambda: waiting(node) == 0)


def test_a_watcher_that_is_away_is_called(node: StepNode, events: Events, reporter: Reporter) -> None:
    with client(node.port) as watcher:
        assert watcher.watch(GLOBAL) == 0x0000
        uid = watcher.create()[1]
    while reporter.step():
        pass
    assert events.states(uid) == ["SCHEDULED"]
    assert waiting(node) == 0


def test_what_a_watcher_does_not_take_is_kept_and_tried_again_in_order(node: StepNode, events: Events, reporter: Reporter) -> None:
    refusals = [0x0110, 0x0110]
    events.status = lambda: refusals.pop() if refusals else 0
    with client(node.port) as watcher:
        watcher.watch(GLOBAL)
        uid = watcher.create()[1]
        watcher.state(uid, "IN PROGRESS")
        assert reporter.step()
        assert (events.got, waiting(node)) == ([], 2)
        with node.node.database.read() as connection:
            row = connection.execute(select(workitem_reporter)).one()
        assert (row.attempts, row.holder, row.detail) == (1, None, "answered 0110")
        until(lambda: not reporter.step() and waiting(node) == 0)
        assert events.states(uid) == ["SCHEDULED", "IN PROGRESS"]


def test_a_dead_watcher_holds_up_nothing_and_the_unsubscribed_are_told_nothing(node: StepNode, events: Events, reporter: Reporter) -> None:
    with client(node.port, title="OTHER") as watcher:
        assert watcher.watch(GLOBAL, "OTHER") == watcher.watch(GLOBAL, "CLIENT") == 0x0000
        assert watcher.watch(GLOBAL, "CLIENT", action=4) == 0x0000
        uid = watcher.create()[1]
        assert not reporter.step()
        dead = build_reporters(node.node)
        assert dead[0].step()
        assert waiting(node) == 1
        assert watcher.watch(uid, "OTHER", action=4) == 0x0000
        assert waiting(node) == 0
        assert watcher.state(uid, "IN PROGRESS") == 0x0000
        assert waiting(node) == 0
        for each in dead:
            each.close()
    assert events.got == []


def test_a_filtered_subscription_takes_in_what_matches_and_a_suspended_one_nothing_new(node: StepNode) -> None:
    events = Events()
    with client(node.port, events=events) as watcher, client(node.port, title="OTHER") as manager:
        assert watcher.watch(FILTERED, WorklistLabel="brains") == 0x0000
        chest, brain = manager.create(workitem(WorklistLabel="chests"))[1], manager.create()[1]
        events.await_state(brain, "SCHEDULED")
        assert watcher.watch(FILTERED, action=5) == 0x0000
        late = manager.create()[1]
        manager.state(brain, "IN PROGRESS")
        events.await_state(brain, "IN PROGRESS")
        assert (events.states(chest), events.states(late)) == ([], [])


def test_what_is_wrong_with_a_subscription_has_its_status(node: StepNode) -> None:
    with client(node.port) as watcher:
        uid = watcher.create()[1]
        assert watcher.watch("2.25.404") == 0xC307
        assert watcher.watch(uid, "NOBODY") == 0xC308
        assert watcher.watch(uid, action=5) == 0xC314
        assert watcher.act(uid, 3, WATCH, DeletionLock="TRUE") == 0x0115
        assert watcher.watch(uid, DeletionLock="PERHAPS") == 0x0115
        assert watcher.watch(GLOBAL, WorklistLabel="brains") == 0x0115
        assert watcher.watch(FILTERED) == 0x0115


def test_a_deletion_lock_keeps_a_final_workitem(node: StepNode) -> None:
    with client(node.port) as watcher:
        locked, free = watcher.create()[1], watcher.create()[1]
        assert watcher.watch(locked, DeletionLock="TRUE") == 0x0000
        for uid in (locked, free):
            assert watcher.act(uid, 2, WATCH) == 0x0000
        later = node.node.clock() + 10
        with node.node.database.begin() as connection:
            assert workitems.purge(connection, later, locked_before=0) == 1
        assert (watcher.get(locked)[0], watcher.get(free)[0]) == (0x0000, 0xC307)
        assert watcher.watch(locked, action=4) == 0x0000
        with node.node.database.begin() as connection:
            assert workitems.purge(connection, later, locked_before=0) == 1
