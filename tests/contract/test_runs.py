"""Runs and deliveries: once per input set, superseded with care, settled when their job died, told as one story."""

from __future__ import annotations

import dataclasses
import json

import pytest
from sqlalchemy import update

from storage import associations, deliveries, release_watch, runs
from storage.completion import CompletionPolicy, complete_quiet
from storage.database import Database
from storage.deliveries import InstanceAnswer
from storage.errors import NotFound
from storage.jobs import JobQueue
from storage.metrics import collect
from storage.runs import RunSpec, SelectionSpec
from storage.schema import job, quarantine
from storage.timeline import timeline
from tests.contract.fill import add_instance, add_study

INPUT = [("1.2.1.1", "d1"), ("1.2.1.2", "d2")]


def spec(revision: int = 1, **changes: object) -> RunSpec:
    given = RunSpec("1.2", revision, ["1.2.1"], INPUT, "heads", "brain", "1.0", "digest", {"threshold": 0.5}, ["pacs"])
    return dataclasses.replace(given, **changes)  # type: ignore[arg-type]


def create(database: Database, queue: JobQueue, what: RunSpec) -> int | None:
    with database.begin() as connection:
        return runs.create_run(connection, what, queue=queue, now=1000.0)


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database, clock=lambda: 1000.0)


def test_the_run_key_depends_on_the_input_set_and_not_its_order() -> None:
    key = runs.run_key(INPUT, "digest", {"a": 1, "b": 2})
    assert key == runs.run_key(INPUT[::-1], "digest", {"b": 2, "a": 1})
    assert key != runs.run_key(INPUT[:1], "digest", {"a": 1, "b": 2})
    assert key != runs.run_key([("1.2.1.1", "d1"), ("1.2.1.2", "other")], "digest", {"a": 1, "b": 2})
    assert key != runs.run_key(INPUT, "other", {"a": 1, "b": 2})
    assert key != runs.run_key(INPUT, "digest", {"a": 1, "b": 3})


def test_a_run_is_made_once_even_after_it_finished(database: Database, queue: JobQueue) -> None:
    pk = create(database, queue, spec())
    assert pk is not None
    assert create(database, queue, spec(revision=2)) is None
    with database.begin() as connection:
        assert runs.start_run(connection, pk, "cpu", now=1001.0) is not None
        done = runs.complete_run(connection, pk, device="cpu", timings={"forward": 1.5}, findings={"volume": 1400}, now=1005.0)
    assert (done.state, done.started_at, done.finished_at, done.delivered) == ("COMPLETED", 1001.0, 1005.0, True)
    assert create(database, queue, spec()) is None
    with database.read() as connection:
        assert runs.find_run(connection, spec().key) == done
        assert runs.predecessor(connection, "1.2", "brain", before=2) == done
        assert runs.predecessor(connection, "1.2", "brain", before=1) is None
        assert runs.predecessor(connection, "1.2", "other") is None
    with pytest.raises(NotFound):
        with database.begin() as connection:
            runs.fail_run(connection, pk, "too late")


def test_every_attempt_has_the_first_ones_start(database: Database, queue: JobQueue) -> None:
    pk = create(database, queue, spec())
    assert pk is not None
    with database.begin() as connection:
        runs.start_run(connection, pk, "cpu", now=1001.0)
        again = runs.start_run(connection, pk, "cpu", now=2001.0)
    assert again is not None
    assert again.started_at == 1001.0


def test_a_newer_revision_cancels_what_waits_and_withholds_what_runs(database: Database, queue: JobQueue) -> None:
    waiting = create(database, queue, spec(1))
    running = create(database, queue, spec(1, input_set=INPUT[:1]))
    other = create(database, queue, spec(1, bundle="lungs", release_digest="lungs"))
    assert waiting is not None
    assert running is not None
    assert other is not None
    with database.begin() as connection:
        connection.execute(update(job).where(job.c.pk == runs.get_run(connection, running).job_pk).values(rank=0))
    claimed = queue.claim(["infer"], "w")
    assert claimed is not None
    assert claimed.payload["run_pk"] == running
    with database.begin() as connection:
        runs.start_run(connection, running, "cpu")
        assert runs.cancel_older(connection, queue, "1.2", 2, "brain", now=1100.0) == [waiting]
    with database.begin() as connection:
        assert runs.start_run(connection, waiting, "cpu") is None
        assert runs.get_run(connection, other).state == "SCHEDULED"
        done = runs.complete_run(connection, running, device="cpu", timings={}, findings=None)
    assert (done.state, done.delivered) == ("COMPLETED", False)
    assert queue.claim(["infer"], "w") is not None
    assert queue.claim(["infer"], "w") is None


def test_a_run_whose_job_died_is_settled(database: Database, queue: JobQueue) -> None:
    pk = create(database, queue, spec())
    assert pk is not None
    claimed = queue.claim(["infer"], "w")
    assert claimed is not None
    queue.fail(claimed, "out of memory")
    with database.begin() as connection:
        assert runs.settle(connection) == 1
        assert runs.settle(connection) == 0
        ended = runs.get_run(connection, pk)
    assert (ended.state, ended.reason) == ("FAILED", "out of memory")
    assert queue.requeue(claimed.pk, "more memory")
    with database.begin() as connection:
        runs.reopen_run(connection, pk)
        assert runs.settle(connection) == 0
        assert runs.get_run(connection, pk).state == "SCHEDULED"


def test_a_delivery_keeps_each_instances_answer(database: Database, queue: JobQueue) -> None:
    run_pk = create(database, queue, spec())
    with database.begin() as connection:
        pk = deliveries.create_delivery(connection, run_pk, "1.2", "pacs", ["1.9.1", "1.9.2"], queue, now=1000.0)
        assert deliveries.create_delivery(connection, run_pk, "1.2", "pacs", ["1.9.1"], queue) is None
        assert deliveries.create_delivery(connection, run_pk, "1.2", "other", ["1.9.1"], queue) is not None
        assert pk is not None
        deliveries.record_answers(connection, pk, [InstanceAnswer("1.9.1", "ACCEPTED", 0, at=1001.0)])
        again = [InstanceAnswer("1.9.1", "SCHEDULED", 0xA700), InstanceAnswer("1.9.2", "SCHEDULED", 0xA700, "full", 1001.0)]
        deliveries.record_answers(connection, pk, again)
        (pending,) = deliveries.instances_of(connection, pk, pending=True)
    assert (pending.sop_uid, pending.status, pending.comment, pending.attempts) == ("1.9.2", 0xA700, "full", 1)
    claimed = queue.claim(["deliver:pacs"], "w")
    assert claimed is not None
    assert claimed.payload == {"delivery_pk": pk}
    queue.fail(claimed, "refused for good")
    with database.begin() as connection:
        assert deliveries.settle(connection, now=1002.0) == 1
        ended = deliveries.get_delivery(connection, pk)
        assert (ended.state, ended.detail) == ("FAILED", "refused for good")
        deliveries.reopen_delivery(connection, pk)
        deliveries.finish(connection, pk, "DELIVERED", "2 of 2", now=1003.0)
        assert deliveries.get_delivery(connection, pk).finished_at == 1003.0


def test_the_timeline_tells_everything_and_is_json(database: Database, queue: JobQueue) -> None:
    associations.open_association(database, "a1", "p", "SCANNER", "NODE", "10.0.0.1", now=999.0)
    add_study(database, "1.2")
    for number in range(3):
        add_instance(database, "1.2", f"1.2.1.{number}", at=1000.0 + number, association_id="a1")
    add_instance(database, "1.2", "1.2.2.1", series_uid="1.2.2", origin="emitted", modality="SEG")
    associations.close_all(database, [associations.Ended("a1", "released", 3, 1003.0)])
    complete_quiet(database, 2000.0, CompletionPolicy())
    run_pk = create(database, queue, spec(3))
    assert run_pk is not None
    with database.begin() as connection:
        chosen = SelectionSpec("heads", "brain", "1.2.1", True, "matches")
        other = SelectionSpec("heads", "brain", "1.2.2", False, "Modality is SEG")
        runs.record_selection(connection, "1.2", 3, [chosen, other], now=2001.0)
        runs.start_run(connection, run_pk, "cpu", now=2002.0)
        runs.complete_run(connection, run_pk, device="cpu", timings={"forward": 1.0}, findings=[{"volume": 1.0}], now=2003.0)
        pk = deliveries.create_delivery(connection, run_pk, "1.2", "pacs", ["1.2.2.1"], queue, now=2003.0)
        deliveries.create_delivery(connection, None, "1.2", "archive", ["1.2.1.1"], queue, now=2003.0)
        assert pk is not None
        deliveries.record_answers(connection, pk, [InstanceAnswer("1.2.2.1", "ACCEPTED", 0, at=2004.0)])
        held = {"kind": "conflict", "digest": "x", "reason": "other bytes", "name": "q/1.tar", "received_at": 1.0, "study_uid": "1.2"}
        connection.execute(quarantine.insert().values(**held))
    story = timeline(database, "1.2")
    (reception,) = story.receptions
    assert (reception.calling_ae, reception.address, reception.instances, reception.ended) == ("SCANNER", "10.0.0.1", 3, "released")
    assert (reception.first_at, reception.last_at, reception.bytes) == (1000.0, 1002.0, 3)
    assert [completion.revision for completion in story.completions] == [3]
    assert [(each.series.series_uid, each.selections[0].chosen) for each in story.series] == [("1.2.1", True), ("1.2.2", False)]
    assert story.runs[0].run.release_digest == "digest"
    assert story.runs[0].deliveries[0].instances[0].status == 0
    assert [each.delivery.peer for each in story.deliveries] == ["archive"]
    assert {each.job.kind for each in story.jobs} == {"route", "infer", "deliver"}
    assert story.jobs[0].events[0].state == "SCHEDULED"
    assert story.quarantine[0].reason == "other bytes"
    assert [each.event for each in story.audit] == ["study.complete"]
    assert json.loads(json.dumps(dataclasses.asdict(story)))["study"]["modalities"] == ["MR", "SEG"]
    with pytest.raises(NotFound):
        timeline(database, "9.9")

    figures = collect(database, 3000.0)
    assert (figures.studies, figures.series, figures.instances, figures.receiving, figures.damaged) == (1, 2, 4, 0, 0)
    assert figures.quarantine_held == 1
    assert figures.header_backlog == 4
    assert figures.oldest_delivery == {"pacs": 997.0, "archive": 997.0}
    assert figures.oldest_job["infer"] == 2000.0
    assert figures.jobs["deliver:pacs"] == {"SCHEDULED": 1}
    assert figures.failed_jobs == {}


def test_a_run_in_the_shadow_stands_in_nobodys_way(database: Database, queue: JobQueue) -> None:
    looking = create(database, queue, spec(release_pk=7, shadow=True))
    live = create(database, queue, spec(release_pk=7))
    other = create(database, queue, spec(series_uids=["1.2.9"], input_set=[("1.2.9.1", "d9")]))
    assert None not in (looking, live, other)
    assert create(database, queue, spec(release_pk=7, shadow=True)) is None, "once per input set too"
    with database.begin() as connection:
        assert looking is not None
        assert live is not None
        record = runs.get_run(connection, looking)
        assert (record.shadow, record.release_pk, record.run_key != spec().key) == (True, 7, True)
        beside = runs.live_beside(connection, record)
        assert beside is not None
        assert beside.pk == live
        assert [each.pk for each in runs.earlier_runs(connection, "1.2", "brain")] == [other, live]
        assert [each.pk for each in runs.earlier_runs(connection, "1.2", "brain", shadow=True)] == [looking]
        assert runs.start_run(connection, looking, "cpu", now=1.0) is not None
        runs.complete_run(connection, looking, device="cpu", timings={}, findings={}, now=2.0)
        assert runs.predecessor(connection, "1.2", "brain") is None
        release_watch.keep_agreement(connection, looking, live, {"segments": {}})
        (kept,) = release_watch.shadow_runs(connection, 7)
        assert (kept.pk, kept.compared_with, kept.agreement) == (looking, live, {"segments": {}})
