"""The clock of a node: APScheduler with its jobs in memory. It only enqueues, or runs one set-based statement; nothing is lost with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import func, select

from dicom_node.log import Repeated
from dicom_node.node import Node, build_purger
from dicom_node.releases.drift import Monitor
from dicom_node.releases.scheduled import enqueue_due
from dicom_node.work import chaining
from dicom_node.work.turns import turns_of
from storage import (
    associations,
    audit,
    commitments,
    completion,
    deletion,
    deliveries,
    header_json,
    integrity,
    quotas,
    runs,
    workitem_runs,
    workitems,
    worklist_upkeep,
)
from storage.completion import CompletionPolicy
from storage.errors import IndexUnavailable
from storage.header_json import HeaderMaker
from storage.schema import audit as audit_rows
from storage.schema import segment, study

log = structlog.get_logger()

HEADER_BATCH = 200
SEAL_BATCH = 100
DELETION_GRACE = 600.0  # seconds for which a deletion is its own process's to end
COMMITMENTS_KEPT = 30 * 86400.0  # seconds for which a Transaction UID is known as used
WORKITEMS_KEPT, LOCKED_WORKITEMS_KEPT = 2 * 86400.0, 30 * 86400.0  # seconds after the final state
WORKLIST_BATCHES = 20  # at a time: a hundred studies each
SCRUB_STARTED = "archive.scrub_started"
HEADERS_QUIET = 3.0  # seconds without an instance after which header JSON is made
HEADERS_PATIENCE = 30.0  # ... and for how long a stream of instances may put it off


class Duties:
    """What has to be done again and again. Any number of processes may do each of them at once."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._queue = node.queue()
        settings = node.config.study
        self._policy = CompletionPolicy(
            quiet_period=settings.quiet_period,
            max_wait=settings.max_wait,
            required=list[Mapping[str, Any]](settings.required),
            expected_count=settings.expected_count,
        )
        self._headers: HeaderMaker | None = None
        self._headers_wait_since: float | None = None
        self._just_completed: deque[str] = deque()
        self._purger = build_purger(node)
        self._monitor: Monitor | None = None

    def complete_studies(self) -> int:
        """Complete the studies that are quiet, and wake who routes them."""
        completed = completion.complete_quiet(self._node.database, self._node.clock(), self._policy)
        if completed:
            self._node.ring("route")
        self._just_completed.extend(each.study_uid for each in completed)
        for each in completed:
            log.info("study.complete", study_uid=each.study_uid, revision=each.revision, reason=each.reason, instances=each.instances)
        return len(completed)

    def reclaim_jobs(self) -> int:
        """Free the jobs of workers that died, and end what hangs on jobs that ended."""
        freed = self._queue.reclaim()
        if freed:
            log.warning("jobs.reclaimed", count=freed)
        with self._node.database.begin() as connection:
            runs.settle(connection, now=self._node.clock())
            turns = turns_of(self._node.config)
            chaining.follow(connection, self._queue, turns=turns, now=self._node.clock())
            quotas.settle(connection, turns.quotas, now=self._node.clock())
            deliveries.settle(connection, now=self._node.clock())
            commitments.settle(connection, now=self._node.clock())
        return freed

    def end_unserved_deliveries(self) -> int:
        """Fail what waits for a peer that is no longer configured: nobody would ever send it, and nobody would be told."""
        served = [deliveries.queue_of(peer.name) for peer in self._node.config.destinations]
        failed = self._queue.fail_unserved("deliver", served, _not_configured)
        if failed:
            log.error("deliveries.unserved", count=failed)
            with self._node.database.begin() as connection:
                deliveries.settle(connection, now=self._node.clock())
        return failed

    def end_unserved_commitments(self) -> int:
        """Fail what peers asked us to commit that are no longer configured, or may not ask any more: nobody would judge or report it."""
        served = [commitments.queue_of(peer.name) for peer in self._node.config.peer if peer.may_commit]
        failed = self._queue.fail_unserved("commit", served, _may_not_commit)
        if failed:
            log.error("commitments.unserved", count=failed)
            with self._node.database.begin() as connection:
                commitments.settle(connection, now=self._node.clock())
        return failed

    def expire_associations(self) -> int:
        """Close the associations of receivers that died."""
        return associations.expire(self._node.database, now=self._node.clock())

    def write_headers(self) -> int:
        """Make header JSON of what was received: of a complete study at once, beside its routing; else when no instances stream in."""
        total = 0
        while self._just_completed:
            total += header_json.build_study(self._node.archive, self._just_completed.popleft())
        self._headers = self._headers or HeaderMaker(self._node.archive)
        while not self._headers_wait():
            done = self._headers.build(HEADER_BATCH)
            total += done
            if done < HEADER_BATCH:
                break
        return total

    def _headers_wait(self) -> bool:
        now = self._node.clock()
        latest = select(func.max(study.c.last_received_at)).where(study.c.state == "RECEIVING")
        with self._node.database.read() as connection:
            last = connection.scalar(latest)
        if last is None or not 0 <= now - last < HEADERS_QUIET:
            self._headers_wait_since = None
            return False
        if self._headers_wait_since is None:
            self._headers_wait_since = now
        return now - self._headers_wait_since < HEADERS_PATIENCE

    def seal_studies(self) -> int:
        """Seal what a completed study left open because somebody was still holding it."""
        waiting = (
            select(study.c.study_uid)
            .join(segment, segment.c.study_uid == study.c.study_uid)
            .where(segment.c.state == "OPEN", study.c.state == "COMPLETE")
            .distinct()
        )
        with self._node.database.read() as connection:
            uids = connection.scalars(waiting.limit(SEAL_BATCH)).all()
        return sum(self._node.archive.seal_study(uid) for uid in uids)

    def finish_deletions(self) -> int:
        """Take away what a deletion had to leave: it was interrupted, or a segment was being written at that moment."""
        return deletion.finish_deletions(self._node.archive, older_than=DELETION_GRACE)

    def watch_disk(self) -> None:
        """Say so, once a minute, when little space is left."""
        free = self._node.archive.free_bytes()
        if free < 2 * self._node.config.archive.min_free:
            log.warning("disk.low", free_bytes=free, stops_at=self._node.config.archive.min_free)

    def watch_drift(self) -> int:
        """Hold what released models were given lately against what they were trained on."""
        self._monitor = self._monitor or Monitor(self._node.config, self._node.database)
        return len(self._monitor.look(self._node.clock()))

    def evaluate_releases(self) -> int:
        """Enqueue the evaluations of deployed releases whose time has come."""
        made = enqueue_due(self._node.config, self._node.database, self._queue, self._node.clock())
        if made:
            self._node.ring("evaluate")
        return made

    def retain(self) -> int:
        """Delete, a few studies at a time, what the retention rules let go."""
        report = self._purger.batch(most=self._node.config.retention.batch)
        return len(report.gone)

    def forget_commitments(self) -> int:
        """Remove the storage commitment transactions that were reported long ago; what was committed stays in the audit."""
        with self._node.database.begin() as connection:
            return commitments.forget(connection, self._node.clock() - COMMITMENTS_KEPT)

    def tend_workitems(self) -> int:
        """Let the workitems of runs follow them."""
        with self._node.database.begin(durable=False) as connection:
            touched = workitem_runs.catch_up(connection, by=self._node.config.node.ae_title, now=self._node.clock())
        if touched:
            self._node.ring("workitems")
        return touched

    def follow_worklist(self) -> int:
        """Let the worklist show what changed; a web process does so, too, while somebody looks at it."""
        return worklist_upkeep.catch_up(self._node.database, now=self._node.clock(), batches=WORKLIST_BATCHES)

    def forget_workitems(self) -> int:
        """Remove final workitems after some days; one that a subscriber locks after a month."""
        now = self._node.clock()
        with self._node.database.begin() as connection:
            return workitems.purge(connection, now - WORKITEMS_KEPT, locked_before=now - LOCKED_WORKITEMS_KEPT)

    def scrub(self) -> bool:
        """Read every instance and compare it with its digest, once in an interval, whoever of the processes comes first; whether it did."""
        now, interval = self._node.clock(), self._node.config.archive.scrub_interval
        if not interval:
            return False
        with self._node.database.begin() as connection:
            last = connection.scalar(select(func.max(audit_rows.c.at)).where(audit_rows.c.event == SCRUB_STARTED))
            if last is not None and now - last < interval:
                return False
            audit.record(connection, SCRUB_STARTED, actor=self._node.process, at=now)
        report = integrity.verify(self._node.archive)
        detail = {"checked": report.checked, "damaged": len(report.damaged), "strays": len(report.strays), "repaired": len(report.repaired)}
        with self._node.database.begin() as connection:
            audit.record(connection, "archive.scrubbed", actor=self._node.process, detail=detail, at=self._node.clock())
        if not report.ok:
            log.error("archive.damaged", **detail)
        return True


def _not_configured(queue: str, job: int) -> str:
    peer = queue.partition(":")[2]
    way_out = f"put its [[peer]] table with host and port back, restart, and: dicom-node job retry {job}"
    return f"peer '{peer}' is not configured any more; {way_out}"


def _may_not_commit(queue: str, job: int) -> str:
    peer = queue.partition(":")[2]
    way_out = f"put its [[peer]] table with may_commit back, restart, and: dicom-node job retry {job}"
    return f"no peer '{peer}' that may ask for storage commitment is configured any more; {way_out}"


def completion_interval(quiet_period: float) -> float:
    """How often to look for quiet studies: often enough not to be noticed beside the quiet period itself."""
    return min(1.0, max(0.1, quiet_period / 10))


def build_scheduler(node: Node) -> BackgroundScheduler:
    """A scheduler with all duties, not started yet."""
    duties = Duties(node)
    scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None})
    lease = node.config.jobs.lease
    every: list[tuple[Callable[[], object], float]] = [
        (duties.complete_studies, completion_interval(node.config.study.quiet_period)),
        (duties.reclaim_jobs, min(5.0, lease / 3)),
        (duties.end_unserved_deliveries, 10.0),
        (duties.end_unserved_commitments, 10.0),
        (duties.expire_associations, 5.0),
        (duties.write_headers, 2.0),
        (duties.seal_studies, 10.0),
        (duties.finish_deletions, 30.0),
        (duties.watch_disk, 60.0),
        (duties.scrub, 3600.0),
        (duties.forget_commitments, 3600.0),
        (duties.retain, 30.0),
        (duties.tend_workitems, 2.0),
        (duties.follow_worklist, 1.0),
        (duties.forget_workitems, 600.0),
        (duties.watch_drift, 30.0),
        (duties.evaluate_releases, 60.0),
    ]
    for duty, seconds in every:
        soon = datetime.now().astimezone() + timedelta(seconds=min(seconds, 0.2))
        scheduler.add_job(_guarded(duty), "interval", seconds=seconds, next_run_time=soon, id=duty.__name__)
    return scheduler


def _guarded(duty: Callable[[], object]) -> Callable[[], None]:
    waiting = Repeated()

    def run() -> None:
        try:
            duty()
        except IndexUnavailable as error:
            if waiting.worth(str(error)):
                log.warning("schedule.waiting", duty=duty.__name__, why=str(error))
        except Exception:  # the outer edge of the clock: one duty's failure must not end the others
            log.error("schedule.failed", duty=duty.__name__, exc_info=True)

    return run
