"""The deployed release is evaluated again and again: a row each time, a flag while it is below the gate."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dicom_node.config import Config
from dicom_node.errors import Released
from dicom_node.node import Node, build_io_workers, open_node, prepare
from dicom_node.releases import lifecycle, scheduled
from dicom_node.work.worker import Worker
from storage import release_watch
from storage.database import Database
from storage.jobs import JobState
from storage.records import EvaluationRecord, FlagRecord, ReleaseRecord
from tests.dimse import until
from tests.node import command, settings
from tests.releases import report, version

ASK = '[[scheduled_evaluation]]\nmodel = "tiny"\ndata = "{data}"\nevery = "1h"\n'


def phantoms(folder: Path, *, wrong: bool = False) -> Path:
    """A data set of four volumes whose bright block is the structure; or something else is."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(4):
        values = np.full((10, 12, 6), 100, np.int16)
        values[4:7, 3:6, 2:4] = 1500 + number
        mask = (values < 1000 if wrong else values > 1000).astype(np.uint8)
        for kind, array in (("images", values), ("labels", mask)):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([0.8, 0.7, 1.5, 1.0])), folder / kind / f"p{number}.nii.gz")  # type: ignore[attr-defined]
    return folder


def deployed(config: Config, database: Database, bundle: Path) -> ReleaseRecord:
    lifecycle.add(config, database, bundle, report(bundle), who="ada", reason="x", now=time.time())
    return lifecycle.deploy(config, database, f"tiny@{bundle.parent.name}", who="ada", reason="x", now=time.time()).release


def evaluations(database: Database, release: ReleaseRecord) -> list[EvaluationRecord]:
    with database.read() as connection:
        return [each for each in release_watch.evaluations(connection, release.pk) if each.source == "scheduled"]


def flags(database: Database, release: ReleaseRecord) -> list[FlagRecord]:
    with database.read() as connection:
        return release_watch.flags(connection, release.pk)


@contextlib.contextmanager
def evaluating(node: Node) -> Iterator[Worker]:
    """The worker of evaluations, as the node makes it."""
    workers = build_io_workers(node)
    try:
        yield workers[-1]
    finally:
        for worker in workers:
            worker.close()

def test_it_is_enqueued_carried_out_kept_and_flagged(tmp_path: Path) -> None:
    data = phantoms(tmp_path / "phantoms")
    config = settings(tmp_path / "node", more=ASK.format(data=f"pairs:{data}?classes=Bright"))
    prepare(config)
    with open_node(config, "test") as node, evaluating(node) as worker:
        queue, database, now = node.queue(), node.database, time.time()
        assert scheduled.enqueue_due(config, database, queue, now) == 0, "nothing is deployed"
        release = deployed(config, database, version(tmp_path / "v", "1"))
        assert scheduled.enqueue_due(config, database, queue, now) == 1
        assert scheduled.enqueue_due(config, database, queue, now) == 0, "one at a time"
        assert worker.step()
        (kept,) = evaluations(database, release)
        assert (kept.data, kept.split, kept.items, kept.passed, kept.actor) == ("phantoms", "all", 4, None, "schedule")
        assert kept.metrics["dice.bright"]["value"] == 1.0
        with database.read() as connection:
            assert json.loads(release_watch.report(connection, kept.pk))["bundle"]["digest"] == release.digest
        assert scheduled.enqueue_due(config, database, queue, now + 3000) == 0
        assert scheduled.enqueue_due(config, database, queue, now + 3700) == 1, "an hour later again"
        assert "phantoms, all split, 4 items; scheduled by schedule" in command(config, "release", "show", "tiny").stdout


def test_below_the_gate_it_is_flagged_until_it_is_not(tmp_path: Path) -> None:
    gate = '\n[gate]\ndata = "phantoms"\nsplit = "all"\nminima = { "dice.bright" = 0.9 }\n'
    data = phantoms(tmp_path / "phantoms", wrong=True)
    config = settings(tmp_path / "node", more=ASK.format(data=f"pairs:{data}?classes=Bright"))
    prepare(config)
    with open_node(config, "test") as node, evaluating(node) as worker:
        queue, database, now = node.queue(), node.database, time.time()
        bundle = version(tmp_path / "v", "1", gate=gate)
        path = report(bundle, split="all", metrics={"dice.bright": {"value": 0.99}})
        release = lifecycle.add(config, database, bundle, path, who="ada", reason="x", now=now).release
        lifecycle.deploy(config, database, "tiny", who="ada", reason="x", now=now)
        assert scheduled.enqueue_due(config, database, queue, now) == 1
        assert worker.step()
        assert [each.passed for each in evaluations(database, release)] == [False]
        (flag,) = flags(database, release)
        assert (flag.kind, "dice.bright on phantoms: 0, at least 0.9 asked for" in flag.reason) == ("evaluation", True)
        assert "BELOW THE GATE" in command(config, "release", "show", "tiny").stdout
        data.rename(tmp_path / "aside")
        phantoms(tmp_path / "phantoms")
        assert scheduled.enqueue_due(config, database, queue, now + 4000) == 1
        assert worker.step()
        assert [each.passed for each in evaluations(database, release)] == [True, False]
        assert flags(database, release) == []


def test_one_that_cannot_be_carried_out_is_told(tmp_path: Path) -> None:
    config = settings(tmp_path / "node", more=ASK.format(data=f"pairs:{tmp_path}/absent"))
    prepare(config)
    with open_node(config, "test") as node, evaluating(node) as worker:
        queue, database = node.queue(), node.database
        release = deployed(config, database, version(tmp_path / "v", "1"))
        assert scheduled.enqueue_due(config, database, queue, time.time()) == 1
        for _ in range(scheduled.ATTEMPTS):
            assert worker.step()
        (job,) = queue.list(kind="evaluate")
        assert job.state == JobState.FAILED.value
        (flag,) = flags(database, release)
        assert "could not be carried out" in flag.reason
        assert "there is no such folder" in flag.reason


def test_a_model_that_hangs_is_ended_at_the_deadline_and_with_the_node(tmp_path: Path) -> None:
    data = phantoms(tmp_path / "phantoms")
    more = ASK.format(data=f"pairs:{data}?classes=Bright")
    config = settings(tmp_path / "node", more=more)
    prepare(config)
    with open_node(config, "test") as node, evaluating(node) as worker:
        database, queue = node.database, node.queue()
        deployed(config, database, version(tmp_path / "v", "1", fault="hang"))
        assert scheduled.enqueue_due(config, database, queue, time.time()) == 1
        thread = threading.Thread(target=worker.step)
        thread.start()
        handler: scheduled.EvaluateHandler = worker._handlers["evaluate"]  # type: ignore[assignment]
        until(lambda: handler._child is not None, 30)
        worker.stop()
        thread.join()
        (job,) = queue.list(kind="evaluate")
        assert (job.state, job.attempts) == (JobState.SCHEDULED.value, 0), "given back, and the attempt not counted"
    impatient = settings(tmp_path / "node", more=more + 'deadline = "1s"\n')
    with open_node(impatient, "test") as node, evaluating(node) as worker:
        assert worker.step()
        assert "ended at its deadline of 1 s" in str(node.queue().list(kind="evaluate")[0].error)


def test_an_evaluation_canceled_before_it_began_is_given_back(tmp_path: Path) -> None:
    config = settings(tmp_path / "node", more=ASK.format(data="pairs:/absent"))
    prepare(config)
    with open_node(config, "test") as node:
        handler = scheduled.EvaluateHandler(config, node.database, node.archive, node.queue(), clock=node.clock)
        deployed(config, node.database, version(tmp_path / "v", "1"))
        assert scheduled.enqueue_due(config, node.database, node.queue(), time.time()) == 1
        job = node.queue().claim(["evaluate"], "test")
        assert job is not None
        handler.cancel(job)
        with pytest.raises(Released):
            handler(job)


def test_what_is_no_longer_asked_for_ends(tmp_path: Path) -> None:
    config = settings(tmp_path / "node", more=ASK.format(data="pairs:/absent"))
    prepare(config)
    with open_node(config, "test") as node:
        queue = node.queue()
        deployed(config, node.database, version(tmp_path / "v", "1"))
        assert scheduled.enqueue_due(config, node.database, queue, time.time()) == 1
        lifecycle.retire(config, node.database, "tiny", who="ada", reason="x", now=time.time())
        with evaluating(node) as worker:
            assert worker.step()
        assert queue.list(kind="evaluate")[0].state == JobState.COMPLETED.value
