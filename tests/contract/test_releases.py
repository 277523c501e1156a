"""Releases: one deployed per name, a row for every step, the way back, and what is known of each."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest
from sqlalchemy import delete

from storage import release_watch, releases
from storage.database import Database
from storage.errors import NotFound, ReleaseConflict, StorageError
from storage.records import ReleaseRecord
from storage.releases import State
from storage.schema import model_release, release_event


def added(database: Database, digit: str, *, name: str = "lungs") -> ReleaseRecord:
    with database.begin() as connection:
        return releases.add(connection, name=name, version=f"1.{digit}", digest=digit * 64, actor="ada", now=10.0)[0]


def deploy(database: Database, release: ReleaseRecord, *, now: float = 20.0) -> None:
    with database.begin() as connection:
        releases.deploy(connection, release.pk, actor="ada", reason="good", evaluation_pk=7, detail={"dice": 0.9}, now=now)


def states(database: Database, name: str = "lungs") -> dict[str, str]:
    with database.read() as connection:
        return {each.digest[0]: each.state for each in releases.every(connection, name)}


def test_a_release_is_added_once_as_a_candidate(database: Database) -> None:
    first = added(database, "a")
    assert (first.name, first.version, first.state, first.added_at, first.evaluation_pk) == ("lungs", "1.a", "candidate", 10.0, None)
    with database.begin() as connection:
        assert releases.add(connection, name="lungs", version="1.a", digest="a" * 64, actor="bob") == (first, False)
        assert [(e.before, e.after, e.actor, e.reason) for e in releases.events(connection, first.pk)] == [
            (None, "candidate", "ada", "added")
        ]


def test_deploying_retires_the_one_before_and_says_who_and_why(database: Database) -> None:
    first, second = added(database, "a"), added(database, "b")
    other = added(database, "c", name="brain")
    deploy(database, first)
    deploy(database, other)
    with database.begin() as connection:
        now, before = releases.deploy(connection, second.pk, actor="bob", reason="better", evaluation_pk=8, now=30.0)
        assert (now.state, now.state_at, now.evaluation_pk, before and before.pk) == ("deployed", 30.0, 8, first.pk)
        assert releases.deployed(connection, "lungs") == now
        told = [(e.before, e.after, e.actor, e.at) for e in releases.events(connection, first.pk)]
        assert told == [(None, "candidate", "ada", 10.0), ("candidate", "deployed", "ada", 20.0), ("deployed", "retired", "bob", 30.0)]
        assert "better" in releases.events(connection, first.pk)[-1].reason
        assert releases.events(connection, first.pk)[1].detail == {"dice": 0.9, "evaluation": 7}
    assert (states(database), states(database, "brain")) == ({"a": "retired", "b": "deployed"}, {"c": "deployed"})


def test_rollback_leads_back_step_by_step(database: Database) -> None:
    a, b, c = (added(database, digit) for digit in "abc")
    with database.begin() as connection, pytest.raises(ReleaseConflict, match="no release of 'lungs' was deployed before"):
        releases.rollback(connection, "lungs", actor="ada", reason="bad")
    for number, each in enumerate((a, b, c)):
        deploy(database, each, now=20.0 + number)
    for expected in ("b", "a"):
        with database.begin() as connection:
            now, _ = releases.rollback(connection, "lungs", actor="ada", reason="bad", now=40.0)
        assert (now.digest[0], now.state, now.evaluation_pk) == (expected, "deployed", 7)
    assert states(database) == {"a": "deployed", "b": "retired", "c": "retired"}
    with database.begin() as connection, pytest.raises(ReleaseConflict):
        releases.rollback(connection, "lungs", actor="ada", reason="bad")
    deploy(database, c, now=50.0)
    with database.begin() as connection:
        assert releases.rollback(connection, "lungs", actor="ada", reason="bad")[0].pk == a.pk
        with pytest.raises(NotFound):
            releases.rollback(connection, "other", actor="ada", reason="bad")


def test_rollback_after_a_retirement_passes_the_retired_one_over(database: Database) -> None:
    a, b = added(database, "a"), added(database, "b")
    deploy(database, a)
    deploy(database, b)
    with database.begin() as connection:
        releases.retire(connection, b.pk, actor="ada", reason="wrong")
        assert releases.deployed(connection, "lungs") is None
        assert releases.was_ever_deployed(connection, "lungs")
        assert releases.rollback(connection, "lungs", actor="ada", reason="back")[0].pk == a.pk
    assert states(database) == {"a": "deployed", "b": "retired"}


def test_steps_that_lead_nowhere_are_refused(database: Database) -> None:
    a = added(database, "a")
    with database.begin() as connection:
        assert not releases.was_ever_deployed(connection, "lungs")
        assert releases.shadow(connection, a.pk, actor="ada", reason="look").state == State.SHADOW
    deploy(database, a)
    for step in (releases.shadow, lambda connection, pk, **why: releases.deploy(connection, pk, evaluation_pk=1, **why)):
        with database.begin() as connection, pytest.raises(ReleaseConflict, match="is deployed"):
            step(connection, a.pk, actor="ada", reason="x")
    with database.begin() as connection:
        releases.retire(connection, a.pk, actor="ada", reason="x")
    with database.begin() as connection, pytest.raises(ReleaseConflict, match="is retired already"):
        releases.retire(connection, a.pk, actor="ada", reason="x")
    with database.begin() as connection:
        assert releases.shadow(connection, a.pk, actor="ada", reason="compare").state == State.SHADOW
        assert len(releases.events(connection, a.pk)) == 5


def test_a_person_names_a_release_by_name_version_or_digest(database: Database) -> None:
    a = added(database, "a")
    with database.read() as connection:
        assert releases.find(connection, "lungs") == a
    b = added(database, "b")
    with database.read() as connection:
        assert releases.find(connection, "lungs@1.b") == b
        assert releases.find(connection, "lungs@aaaaaa") == a
        assert releases.find(connection, "BBBBBBBB") == b
        with pytest.raises(ReleaseConflict, match=r"lungs@bbbbbbbbbbbb \(1.b, candidate\), lungs@aaaaaaaaaaaa"):
            releases.find(connection, "lungs")
        for unknown in ("brain", "lungs@aaa", "lungs@2", "lungs@%", "a"):
            with pytest.raises(NotFound, match="there are releases of: lungs"):
                releases.find(connection, unknown)


def test_commands_at_once_leave_one_deployed(database: Database) -> None:
    mine = [added(database, digit) for digit in "abcdef"]
    failures: list[Exception] = []

    def command(release: ReleaseRecord) -> None:
        try:
            deploy(database, release)
        except StorageError as error:
            failures.append(error)

    threads = [threading.Thread(target=command, args=(each,)) for each in mine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(states(database).values()) == ["deployed", *["retired"] * 5]
    with database.read() as connection:
        assert len(releases.deployments(connection, "lungs")) == 6


def test_an_evaluation_is_kept_with_its_report(database: Database) -> None:
    a = added(database, "a")
    metrics = {"dice.lung": {"value": 0.96, "low": 0.95, "high": 0.97, "n": 35}}
    with database.begin() as connection:
        kept = [
            release_watch.add_evaluation(
                connection, a.pk, b"{...}", source="report", data=data, split="test", items=35,
                data_fingerprint="f" * 64, metrics=metrics, actor="ada", now=5.0,
            )
            for data in ("montgomery", "shenzhen", "montgomery")
        ]  # fmt: skip
    with database.read() as connection:
        assert release_watch.evaluations(connection, a.pk) == kept[::-1]
        assert release_watch.evaluations(connection, a.pk, "montgomery") == [kept[2], kept[0]]
        assert release_watch.evaluation(connection, kept[0].pk).metrics == metrics
        assert release_watch.report(connection, kept[0].pk) == b"{...}"
        for read in (release_watch.evaluation, release_watch.report):
            with pytest.raises(NotFound):
                read(connection, 99)


def test_a_flag_is_raised_once_and_cleared(database: Database) -> None:
    a = added(database, "a")
    with database.begin() as connection:
        assert release_watch.raise_flag(connection, a.pk, "drift", "spacing", now=1.0)
        assert not release_watch.raise_flag(connection, a.pk, "drift", "spacing and intensity", now=2.0)
        assert release_watch.raise_flag(connection, a.pk, "evaluation", "dice", now=3.0)
        assert [(f.kind, f.raised_at, f.reason) for f in release_watch.flags(connection, a.pk)] == [
            ("drift", 1.0, "spacing and intensity"),
            ("evaluation", 3.0, "dice"),
        ]
        assert release_watch.flagged(connection) == []
    deploy(database, a)
    with database.begin() as connection:
        assert sorted(release_watch.flagged(connection)) == [("lungs", "drift"), ("lungs", "evaluation")]
        assert release_watch.clear_flag(connection, a.pk, "drift", now=9.0)
        assert not release_watch.clear_flag(connection, a.pk, "drift", now=9.0)
        assert [flag.kind for flag in release_watch.flags(connection)] == ["evaluation"]
        assert release_watch.raise_flag(connection, a.pk, "drift", "again", now=11.0)


def test_the_newest_inputs_are_looked_at_and_the_older_ones_forgotten(database: Database) -> None:
    a, b = added(database, "a"), added(database, "b")
    with database.begin() as connection:
        assert release_watch.inputs(connection, a.pk, 3) == (0, [])
        for run in range(1, 6):
            release_watch.record_input(connection, a.pk, run, {"mean": run}, now=1.0)
            release_watch.record_input(connection, a.pk, run, {"mean": "again"}, now=1.0)
        release_watch.record_input(connection, b.pk, 9, {"mean": 9}, now=1.0)
    with database.begin() as connection:
        newest, window = release_watch.inputs(connection, a.pk, 3)
        assert [each["mean"] for each in window] == [5, 4, 3]
        assert release_watch.newest_inputs(connection)[a.pk] == newest
        assert release_watch.latest_drift(connection, a.pk) is None
        distances = {"mean": {"distance": 0.3, "drifted": True}, "spacing": {"distance": 0.1, "drifted": False}}
        seen = release_watch.record_drift(connection, a.pk, newest, 3, distances, now=2.0)
        assert (seen.drifted, seen.runs, seen.distances) == (True, 3, distances)
        assert release_watch.latest_drift(connection, a.pk) == seen
        assert release_watch.forget_inputs(connection, a.pk, 2) == 3
        assert release_watch.forget_inputs(connection, b.pk, 2) == 0
        assert [each["mean"] for each in release_watch.inputs(connection, a.pk, 9)[1]] == [5, 4]


def test_history_makes_the_same_releases_in_an_empty_index(database: Database) -> None:
    a, b, c = (added(database, digit) for digit in "abc")
    for each in (a, b, c):
        deploy(database, each)
    with database.begin() as connection:
        releases.rollback(connection, "lungs", actor="ada", reason="bad")
        newest = releases.newest_event(connection)
        lines = [dataclasses.asdict(each) for each in releases.history(connection)]
        assert releases.history(connection, after=newest) == []
        assert releases.restore(connection, lines) == 0, "this index knows its releases"
        before = [(each.digest, each.state) for each in releases.every(connection)]
        connection.execute(delete(release_event))
        connection.execute(delete(model_release))
    lines = json.loads(json.dumps([*lines[:2], {"name": "half"}, {**lines[0], "after": "nonsense"}, *lines[2:], lines[-1]]))
    with database.begin() as connection:
        assert releases.restore(connection, lines) == 3
        assert [(each.digest, each.state) for each in releases.every(connection)] == before
        present = releases.deployed(connection, "lungs")
        assert present is not None
        assert present.digest == b.digest
        assert releases.rollback(connection, "lungs", actor="ada", reason="worse")[0].digest == a.digest
