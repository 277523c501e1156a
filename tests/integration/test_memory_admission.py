"""What a run took of memory decides where the next one begins: after a restart, on another study, and where it will never fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset

from dicom_node.config import Config
from dicom_node.work.executors import InlineExecutor, ProcessExecutor
from dicom_node.work.inference import Answer, Request, Runner
from models.memory import Room
from models.meters import CpuMeter
from storage import memory_uses
from storage.records import RunRecord
from tests.integration.test_memory import GIB, hungry_bundle
from tests.node import StepNode, bright_series, command, rule, running, send, settings, uid_of

MIB = 1 << 20
LIMIT = 6 * GIB


@contextmanager
def limited(config: Config) -> Iterator[StepNode]:
    """A node whose child has a limit of memory; each time another process, which knows nothing of the one before."""
    executor = ProcessExecutor("cpu", threads=1, memory=LIMIT)
    try:
        with running(config, executor=executor) as node:
            yield node
    finally:
        executor.close()


def carried_out(node: StepNode, images: list[Dataset], folder: Path) -> RunRecord:
    send(node, images, folder)
    node.work()
    (story,) = node.story(uid_of(images)).runs
    return story.run


def memory_of(run: RunRecord) -> dict[str, Any]:
    assert run.memory is not None
    return run.memory


def test_what_did_not_fit_is_not_tried_again_after_a_restart(tmp_path: Path) -> None:
    hungry_bundle(tmp_path / "bundles", price=GIB)
    config = settings(tmp_path, more=rule())
    with limited(config) as node:
        first = carried_out(node, bright_series(), tmp_path / "a")
    assert (first.state, memory_of(first)["began"], memory_of(first)["did_not_fit"]) == ("COMPLETED", "as configured", ["as configured"])
    assert "never measured for such a volume" in memory_of(first)["why"]
    assert GIB * 0.9 < memory_of(first)["taken"] < GIB * 1.5
    images = bright_series(description="T1 again")
    with limited(config) as node:
        second = carried_out(node, images, tmp_path / "b")
        told = command(config, "study", "show", uid_of(images)).stdout
        job = json.loads(command(config, "job", "show", str(second.job_pk), "--json").stdout)
        model = command(config, "model", "show", "tiny")
        figures = json.loads(command(config, "model", "show", "tiny", "--json").stdout)["memory"]
    assert (second.state, second.reason) == ("COMPLETED", "too little memory as configured: one window at a time")
    assert (memory_of(second)["began"], memory_of(second)["did_not_fit"]) == ("one window at a time", [])
    assert memory_of(second)["why"].startswith("as configured: did not fit into ")
    assert memory_of(second)["needed"] == memory_of(first)["taken"]
    assert "memory: began one window at a time, 720 voxels on cpu: as configured: did not fit into" in told
    assert "memory: took 1." in told
    assert job["memory"]["began"] == "one window at a time"
    assert "memory it took here" in model.stdout
    assert "720 voxels did not fit into" in model.stdout
    assert [(each["rung"], sum(use["runs"] for use in each["measured"])) for each in figures] == [
        ("as configured", 1), ("one window at a time", 2)
    ]  # fmt: skip


def test_a_run_that_never_fits_ends_once_and_its_study_says_so_until_it_ran(tmp_path: Path) -> None:
    root = hungry_bundle(tmp_path / "bundles", price=16 * GIB)
    config = settings(tmp_path, more=rule())
    images = bright_series()
    uid = uid_of(images)
    with limited(config) as node:
        run = carried_out(node, images, tmp_path / "a")
        assert (run.state, memory_of(run)["did_not_fit"]) == ("FAILED", ["as configured", "one window at a time"])
        story = node.story(uid)
        assert [each.job.attempts for each in story.jobs if each.job.kind == "infer"] == [1], "trying again would not help"
        assert story.study.flag is not None
        assert story.study.flag.startswith("too little memory for model tiny: forward: too little memory (as configured; one window")
        assert f"dicom-node job retry {run.job_pk}" in story.study.flag
        assert f"FLAGGED: {story.study.flag}" in command(config, "study", "show", uid).stdout
        assert node.work() == 0

        other = carried_out(node, bright_series(), tmp_path / "b")
        assert (other.state, memory_of(other)["began"]) == ("FAILED", None), "a second study of that size is not even tried"
        assert "at most" in (other.reason or "")

        # Its images go on though it is flagged: a late one is routed, and its run ends as quickly.
        send(node, bright_series(7, StudyInstanceUID=uid, description="T1 more"), tmp_path / "c")
        node.work()
        story = node.story(uid)
        assert [each.held for each in story.completions] == [None, None]

        assert command(config, "job", "retry", str(run.job_pk)).returncode == 0
        assert node.story(uid).study.flag is None
        node.work()
        assert (node.story(uid).study.flag or "").startswith("too little memory for model tiny:")
    file = root / "configs" / "inference.json"
    file.write_text(file.read_text().replace(str(16 * GIB), "1"))
    with limited(config) as node:
        assert command(config, "study", "rerun", uid, "--reason", "a smaller model").returncode == 0
        node.work()
        assert node.story(uid).study.flag is None


class Crowded(CpuMeter):
    """The process's memory on a machine where somebody else has most of it until ``left``."""

    left = False

    def room(self) -> Room:
        return Room(8 * GIB if self.left else 100 * MIB, 8 * GIB)


class CrowdedExecutor(InlineExecutor):
    """Runs in the calling process, by a meter of ours."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.meter = Crowded()
        self._runner = Runner("cpu", threads=1, meters=lambda device: self.meter)

    def execute(self, request: Request, deadline: float, claim: str = "") -> Answer:
        return self._runner.run(request)


def taught(node: StepNode, digest: str) -> None:
    """Runs of two sizes that took more than is free now."""
    with node.node.database.begin() as connection:
        for rung in ("as configured", "one window at a time"):
            uses = [memory_uses.MemoryUseRecord("cpu", rung, voxels, voxels * MIB, True) for voxels in (400, 800)]
            memory_uses.keep(connection, digest, uses)


def digest_of(root: Path) -> str:
    from models.bundle import load_bundle

    return load_bundle(root).digest


def test_what_fits_later_waits_without_losing_an_attempt(tmp_path: Path) -> None:
    root = hungry_bundle(tmp_path / "bundles")
    config = settings(tmp_path, more=rule())
    executor, images = CrowdedExecutor(), bright_series()
    with running(config, executor=executor) as node:
        taught(node, digest_of(root))
        waiting = carried_out(node, images, tmp_path / "a")
        assert (waiting.state, waiting.memory is not None) == ("SCHEDULED", True)
        assert "too little memory is free now (as configured: about 720.0 MiB by measurements of 2 sizes, 100.0 MiB free" in (
            waiting.reason or ""
        )
        assert "waits for room" in command(config, "study", "show", uid_of(images)).stdout
        (job,) = [each.job for each in node.story(uid_of(images)).jobs if each.job.kind == "infer"]
        assert (job.state, job.attempts) == ("SCHEDULED", 0)
        executor.meter.left = True
        with node.node.database.begin() as connection:
            node.node.queue().hasten(connection, job.pk)
        node.work()
        (story,) = node.story(uid_of(images)).runs
    assert (story.run.state, memory_of(story.run)["began"]) == ("COMPLETED", "as configured")
    assert story.run.reason is None


def test_the_wait_has_an_end(tmp_path: Path) -> None:
    root = hungry_bundle(tmp_path / "bundles")
    config = settings(tmp_path, more=rule() + '\n[executor]\nmemory_wait = "0s"\n')
    with running(config, executor=CrowdedExecutor()) as node:
        taught(node, digest_of(root))
        images = bright_series()
        run = carried_out(node, images, tmp_path / "a")
        flag = node.story(uid_of(images)).study.flag
    assert run.state == "FAILED"
    assert (run.reason or "").startswith("it waited 0 s in vain: ")
    assert (flag or "").startswith("too little memory for model tiny: it waited")


