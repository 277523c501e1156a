"""Evaluations made again and again: the deployed release of a model on a data set, as often as ``[[scheduled_evaluation]]`` says.

The clock enqueues a job; a worker of its own carries it out in a child process, since a bundle is code. The report is kept as a row. Below
what the gate asks for on that data set, or where it cannot be carried out, the release is flagged; the next good one clears the flag.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, select

from dicom_node.config import Config, ScheduledEvaluation
from dicom_node.errors import CommandFailed, Released, TryAgain
from dicom_node.releases import gate
from dicom_node.releases.files import read_release
from dicom_node.releases.report import Report, parse_report, plain_metrics
from dicom_node.work.handler import NodeHandler
from models.bundle import Bundle
from models.errors import ModelError
from storage import release_watch, releases
from storage.database import Database
from storage.jobs import ClaimedJob, JobQueue, JobSpec
from storage.records import ReleaseRecord
from storage.schema import job as jobs

log = structlog.get_logger()

QUEUE = "evaluate"
KIND = "evaluation"
ACTOR = "schedule"
ATTEMPTS = 2


def enqueue_due(config: Config, database: Database, queue: JobQueue, now: float) -> int:
    """Enqueue the evaluations whose time has come, or whose model has another release since; how many. Any process may do it."""
    made = 0
    for entry in config.scheduled_evaluation:
        with database.begin() as connection:
            release = releases.deployed(connection, entry.model)
            if release is None:
                continue
            key = key_of(entry, release)
            last = connection.scalar(select(func.max(jobs.c.created_at)).where(jobs.c.kind == QUEUE, jobs.c.dedupe_key == key))
            if last is not None and now - last < entry.every:
                continue
            spec = JobSpec(QUEUE, QUEUE, key, {"model": entry.model, "what": _what(entry)}, max_attempts=ATTEMPTS)
            made += queue.enqueue(connection, spec) is not None
    return made


def key_of(entry: ScheduledEvaluation, release: ReleaseRecord) -> str:
    """What makes an evaluation the same as another one, for the queue."""
    return f"evaluate:{entry.model}:{release.digest[:16]}:{_what(entry)}"


def _what(entry: ScheduledEvaluation) -> str:
    return hashlib.sha256(f"{entry.data}\n{entry.splits}\n{entry.split}".encode()).hexdigest()[:16]


class EvaluateHandler(NodeHandler):
    """Carries out ``evaluate`` jobs."""

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._canceled = ""

    def cancel(self, job: ClaimedJob) -> None:
        """End the job's evaluation, from another thread."""
        with self._lock:
            self._canceled = job.transaction_uid
            _kill(self._child)

    def __call__(self, job: ClaimedJob) -> None:
        entry = self._entry(job)
        with self._database.read() as connection:
            release = releases.deployed(connection, entry.model) if entry is not None else None
        if entry is None or release is None:
            with self._database.begin() as connection:
                self._queue.complete(connection, job, "no longer asked for" if entry is None else "no release is deployed")
            return
        try:
            bundle = read_release(self._config.releases_root, release.digest)
            report, content = self._evaluate(job, entry, bundle)
        except (CommandFailed, ModelError) as error:
            self._failed(job, entry, release, str(error))
            return
        self._keep(job, entry, release, bundle, report, content)

    def _entry(self, job: ClaimedJob) -> ScheduledEvaluation | None:
        asked = (job.payload["model"], job.payload["what"])
        return next((each for each in self._config.scheduled_evaluation if (each.model, _what(each)) == asked), None)

    def _evaluate(self, job: ClaimedJob, entry: ScheduledEvaluation, bundle: Bundle) -> tuple[Report, bytes]:
        log.info("release.evaluating", name=bundle.name, release=bundle.digest[:12])
        with tempfile.TemporaryDirectory(prefix="dicom-node-evaluation-") as folder:
            target = Path(folder, "report.json")
            error = self._run_child(job, entry, pickle.dumps((self._config, entry, bundle.root, bundle.digest, target)))
            if error or not target.is_file():
                raise CommandFailed(error or "it ended without a report")
            content = target.read_bytes()
        report = parse_report(content)
        if report.bundle.digest != bundle.digest:
            raise CommandFailed("the report is of another bundle")
        return report, content

    def _run_child(self, job: ClaimedJob, entry: ScheduledEvaluation, task: bytes) -> str:
        """Run the evaluation in a process of its own; what went wrong, or nothing."""
        command = [sys.executable, "-m", "dicom_node.releases.evaluating"]
        with self._lock:
            if self._canceled == job.transaction_uid:
                raise Released("the evaluation was ended before its time")
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
            )
        try:
            _, said = self._child.communicate(task, timeout=entry.deadline)
        except subprocess.TimeoutExpired:
            _kill(self._child)
            self._child.communicate()
            return f"it was ended at its deadline of {entry.deadline:.0f} s"
        finally:
            child, self._child = self._child, None
        if self._canceled == job.transaction_uid:
            raise Released("the evaluation was ended before its time")
        lines = said.decode(errors="replace").strip().splitlines()
        return "" if child.returncode == 0 else (lines[-1][:500] if lines else f"it ended with exit code {child.returncode}")

    def _failed(self, job: ClaimedJob, entry: ScheduledEvaluation, release: ReleaseRecord, why: str) -> None:
        if job.attempts < job.max_attempts:
            raise TryAgain(f"the evaluation of {release.name} failed: {why}")
        reason = f"the scheduled evaluation on {entry.data} could not be carried out: {why}"
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            release_watch.raise_flag(connection, release.pk, KIND, reason, now=self._clock())
            self._queue.fail(job, reason, connection=connection)
        log.error("release.not_evaluated", name=release.name, release=release.digest[:12], why=why)

    def _keep(
        self, job: ClaimedJob, entry: ScheduledEvaluation, release: ReleaseRecord, bundle: Bundle, report: Report, content: bytes
    ) -> None:
        metrics = plain_metrics(report)
        asked = [each for each in gate.demands(self._config, bundle) if (each.data, each.split) == (report.data.name, report.data.split)]
        judged = [each for demand in asked for each in gate.judge_metrics(demand, metrics)]
        below = "; ".join(str(each) for each in judged if not each.met)
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            release_watch.add_evaluation(
                connection, release.pk, content, source="scheduled", data=report.data.name, split=report.data.split,
                items=report.data.items, data_fingerprint=report.data.fingerprint, metrics=metrics, actor=ACTOR,
                passed=not below if judged else None, now=self._clock(),
            )  # fmt: skip
            if below:
                release_watch.raise_flag(connection, release.pk, KIND, f"scheduled evaluation: {below}", now=self._clock())
            else:
                release_watch.clear_flag(connection, release.pk, KIND, now=self._clock())
            outcome = f"below the gate: {below}" if below else "meets the gate" if judged else "evaluated; the gate asks for nothing here"
            self._queue.complete(connection, job, outcome)
        tell: Callable[..., Any] = log.error if below else log.info
        tell("release.below_gate" if below else "release.evaluated", name=release.name, release=release.digest[:12], outcome=outcome)


def _kill(child: subprocess.Popen[bytes] | None) -> None:
    if child is not None and child.poll() is None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


