"""The durable job queue, one table beside the index.

    SCHEDULED --claim--> IN_PROGRESS --complete--> COMPLETED
       ^  \\--cancel--> CANCELED  |\\--fatal or attempts spent--> FAILED --requeue--> SCHEDULED
       \\--- retry, release or lease expired ---/
    SCHEDULED --nobody serves its queue--> FAILED

Work is enqueued in the transaction of the fact that caused it. A claim hands out a new Transaction UID, the fencing token: whatever the
holder of an older one tries to write rolls back with StaleToken. Every transition adds a ``job_event`` row in its own transaction.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, case, exists, func, insert, literal, or_, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from storage.database import Database
from storage.errors import NotFound, StaleToken
from storage.records import JobEventRecord, JobRecord, from_row
from storage.schema import job, job_event
from storage.statements import insert_new, is_one_of


class JobState(Enum):
    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    FAILED = "FAILED"

    @property
    def final(self) -> bool:
        return self not in (JobState.SCHEDULED, JobState.IN_PROGRESS)


# Seconds of waiting that outweigh a point of priority: nothing is starved. The order of two jobs never changes, so it is an index.
AGEING = 60.0

# Kinds of which one that failed goes behind all that was due before its next attempt: a form at which a peer hangs holds up no other.
YIELDING = frozenset({"deliver"})

LIVE = tuple(state.value for state in JobState if not state.final)


@dataclass(frozen=True)
class Backoff:
    """Seconds to wait before an attempt: ``base * factor ** (attempt - 1)`` up to ``cap``, shortened by a random part up to ``jitter``."""

    base: float = 5.0
    factor: float = 2.0
    cap: float = 900.0
    jitter: float = 0.5
    random: Callable[[], float] = random.random

    def delay(self, attempt: int) -> float:
        exponent = max(0, min(attempt - 1, 64))
        return float(min(self.cap, self.base * self.factor**exponent)) * (1.0 - self.jitter * self.random())


@dataclass(frozen=True)
class JobSpec:
    """A job to be queued. While one with the same ``dedupe_key`` is scheduled or running, another is not queued."""

    kind: str
    queue: str
    dedupe_key: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    study_uid: str | None = None
    priority: int = 0
    max_attempts: int = 5
    not_before: float | None = None
    rank: float | None = None  # where it stands; else by when it is due and its priority


@dataclass(frozen=True)
class ClaimedJob:
    """A job in a worker's hands until ``lease_until``; ``transaction_uid`` proves it."""

    pk: int
    kind: str
    queue: str
    payload: dict[str, Any]
    study_uid: str | None
    attempts: int
    max_attempts: int
    transaction_uid: str
    lease_until: float
    worker: str


def new_transaction_uid() -> str:
    """A UID derived from a UUID (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


class JobQueue:
    """The only place where a job changes state. Safe for any number of threads, processes and machines."""

    def __init__(
        self, database: Database, *, clock: Callable[[], float] = time.time, backoff: Backoff | None = None, lease: float = 30.0
    ) -> None:
        self._database = database
        self._clock = clock
        self._backoff = backoff or Backoff()
        self.lease = lease

    # --- enqueue

    def enqueue(self, connection: Connection, spec: JobSpec) -> int | None:
        """Queue a job in the caller's transaction.

        Returns
        -------
        int or None
            The job's key; None when a live job has the same dedupe key.
        """
        now = self._clock()
        values = {
            "kind": spec.kind,
            "queue": spec.queue,
            "dedupe_key": spec.dedupe_key,
            "payload": dict(spec.payload),
            "study_uid": spec.study_uid,
            "priority": spec.priority,
            "rank": (now if spec.not_before is None else spec.not_before) - AGEING * spec.priority if spec.rank is None else spec.rank,
            "max_attempts": spec.max_attempts,
            "not_before": now if spec.not_before is None else spec.not_before,
            "created_at": now,
            "updated_at": now,
        }
        pk: int | None = connection.scalar(insert_new(connection, job).values(**values).returning(job.c.pk))
        if pk is not None:
            self._event(connection, pk, JobState.SCHEDULED, "enqueued")
        return pk

    # --- the worker's side

    def claim(self, queues: Sequence[str], worker: str) -> ClaimedJob | None:
        """Take the most urgent due job of ``queues`` (exact names, or a prefix as ``deliver:*``); None when nothing is due."""
        now = self._clock()
        look, take = _claim_statements(tuple(queues), self._database.dialect)
        if self._database.dialect == "sqlite":
            # A write transaction holds up every other writer: an idle worker only looks.
            with self._database.read() as connection:
                if connection.scalar(look, {"at": now}) is None:
                    return None
        token = {"until": now + self.lease, "token": new_transaction_uid(), "by": worker}
        # A claim that a power cut takes back is as good as an expired lease: what its holder makes durable comes after it.
        with self._database.single(durable=False) as connection:
            row = connection.execute(take, {"at": now, **token}).one_or_none()
            if row is None:
                return None
            if self._database.dialect == "sqlite":
                self._event(connection, row.pk, JobState.IN_PROGRESS, f"attempt {row.attempts} of {row.max_attempts}", worker)
        return from_row(ClaimedJob, row)

    def claim_some(self, pks: Sequence[int], worker: str) -> list[ClaimedJob]:
        """Take those of certain jobs that are due and still wait, each under a Transaction UID of its own."""
        now, dialect = self._clock(), self._database.dialect
        found = []
        with self._database.begin(durable=False) as connection:
            for pk in pks:
                token = {"until": now + self.lease, "token": new_transaction_uid(), "by": worker}
                row = connection.execute(_claim_statement_of_one(dialect), {"only": pk, "at": now, **token}).one_or_none()
                if row is None:
                    continue
                if dialect == "sqlite":
                    self._event(connection, row.pk, JobState.IN_PROGRESS, f"attempt {row.attempts} of {row.max_attempts}", worker)
                found.append(from_row(ClaimedJob, row))
        return found

    def extend(self, claimed: ClaimedJob) -> None:
        """Renew the lease (the heartbeat). Raises StaleToken when the job is no longer the caller's: stop working on it."""
        with self._database.single(durable=False) as connection:
            self._change(connection, claimed, lease_until=self._clock() + self.lease)

    def due(self, claimed: ClaimedJob, at: float) -> None:
        """Say by when a job is ended if it is not done (the deadline of this attempt); StaleToken as for :meth:`extend`."""
        with self._database.single(durable=False) as connection:
            self._change(connection, claimed, due_at=at)

    def fence(self, connection: Connection, claimed: ClaimedJob) -> None:
        """Hold the job's row to the end of the caller's transaction, or raise StaleToken when another worker has it."""
        if connection.scalar(_FENCE, _proof(claimed)) is None:
            raise _stale(claimed)

    def complete(self, connection: Connection, claimed: ClaimedJob, detail: str = "") -> None:
        """Finish the job in the caller's transaction, beside what it brought about; StaleToken rolls both back."""
        self._leave(connection, claimed, JobState.COMPLETED, detail, finished_at=self._clock(), error=None)

    def retry(
        self,
        claimed: ClaimedJob,
        error: str,
        *,
        delay: float | None = None,
        count_attempt: bool = True,
        connection: Connection | None = None,
    ) -> JobState:
        """Put the job back for a later attempt, or fail it when its attempts are spent. The wait is the backoff's unless ``delay`` says."""
        if count_attempt and claimed.attempts >= claimed.max_attempts:
            self.fail(claimed, f"attempts spent: {error}", connection=connection)
            return JobState.FAILED
        wait = self._backoff.delay(claimed.attempts) if delay is None else delay
        attempts = claimed.attempts if count_attempt else claimed.attempts - 1
        with self._transaction(connection) as transaction:
            values = {"not_before": self._clock() + wait, "attempts": attempts, "error": error, "worker": None, "lease_until": None}
            self._leave(transaction, claimed, JobState.SCHEDULED, f"again in {wait:.0f} s: {error}", **values)
            if count_attempt and claimed.kind in YIELDING:
                behind = values["not_before"] - AGEING * job.c.priority
                transaction.execute(update(job).where(job.c.pk == claimed.pk).values(rank=behind))
        return JobState.SCHEDULED

    def fail(self, claimed: ClaimedJob, error: str, *, connection: Connection | None = None) -> None:
        """End the job for good: another attempt could not succeed."""
        with self._transaction(connection) as transaction:
            self._leave(transaction, claimed, JobState.FAILED, error, finished_at=self._clock(), error=error)

    def release(self, claimed: ClaimedJob, why: str) -> None:
        """Give the job back untouched (a worker shuts down): due at once, the attempt not counted."""
        with self._database.begin() as connection:
            values = {"not_before": self._clock(), "attempts": claimed.attempts - 1, "worker": None, "lease_until": None}
            self._leave(connection, claimed, JobState.SCHEDULED, f"released: {why}", **values)

    # --- anybody's side

    def reclaim(self) -> int:
        """Free every job whose lease has expired: scheduled again, or failed when its attempts are spent. Any process may do it."""
        now = self._clock()
        spent = job.c.attempts >= job.c.max_attempts
        dead = and_(is_one_of(job.c.state, JobState.IN_PROGRESS.value), job.c.lease_until < now)
        locked = select(job.c.pk).where(dead).with_for_update(skip_locked=True)
        free = (
            update(job)
            .where(job.c.pk.in_(locked), dead)
            .values(
                state=case((spent, JobState.FAILED.value), else_=JobState.SCHEDULED.value),
                error=case((spent, "attempts spent: the worker's lease expired"), else_="the worker's lease expired"),
                finished_at=case((spent, literal(now)), else_=None),
                not_before=now,
                lease_until=None,
                transaction_uid=None,
                updated_at=now,
            )
            .returning(job.c.pk, job.c.state, job.c.error, job.c.worker)
        )
        if self._database.dialect == "sqlite":
            with self._database.read() as connection:
                if connection.scalar(select(job.c.pk).where(dead).limit(1)) is None:
                    return 0
        with self._database.begin() as connection:
            rows = connection.execute(free).all()
            for row in rows:
                self._event(connection, row.pk, JobState(row.state), row.error, row.worker)
        return len(rows)

    def fail_unserved(self, kind: str, served: Collection[str], why: Callable[[str, int], str]) -> int:
        """End the waiting jobs of a kind that stand in a queue which nobody serves, whenever they would be due.

        Parameters
        ----------
        why
            Makes the reason of a queue's name and a job's key.
        """
        waiting = and_(is_one_of(job.c.state, JobState.SCHEDULED.value), job.c.kind == kind, job.c.queue.not_in(sorted(served)))
        with self._database.read() as connection:
            found = connection.execute(select(job.c.pk, job.c.queue).where(waiting).order_by(job.c.pk)).all()
        failed = 0
        for pk, name in found:
            now, error = self._clock(), why(name, pk)
            end = update(job).where(job.c.pk == pk, waiting)
            with self._database.begin() as connection:
                if connection.execute(end.values(state=JobState.FAILED.value, error=error, finished_at=now, updated_at=now)).rowcount == 1:
                    self._event(connection, pk, JobState.FAILED, error)
                    failed += 1
        return failed

    def cancel(self, pk: int, why: str, *, running: bool = False, connection: Connection | None = None) -> bool:
        """Cancel a job that waits; with ``running`` also one in a worker's hands, whose result is then refused.

        Returns
        -------
        bool
            False when there was nothing to cancel.
        """
        states = LIVE if running else (JobState.SCHEDULED.value,)
        now = self._clock()
        values = {"state": JobState.CANCELED.value, "error": why, "finished_at": now, "updated_at": now, "transaction_uid": None}
        with self._transaction(connection) as transaction:
            statement = update(job).where(job.c.pk == pk, job.c.state.in_(states)).values(**values, lease_until=None)
            if transaction.execute(statement).rowcount != 1:
                return False
            self._event(transaction, pk, JobState.CANCELED, why)
        return True

    def hand_out(self, connection: Connection, pk: int, performer: str) -> bool:
        """Give a waiting job to somebody who is no worker of ours, for as long as it takes; False where it waits no more."""
        values = {"state": JobState.IN_PROGRESS.value, "attempts": job.c.attempts + 1, "worker": performer, "updated_at": self._clock()}
        statement = update(job).where(job.c.pk == pk, job.c.state == JobState.SCHEDULED.value)
        if connection.execute(statement.values(**values, lease_until=None, transaction_uid=None)).rowcount != 1:
            return False
        self._event(connection, pk, JobState.IN_PROGRESS, "handed out", performer)
        return True

    def take_back(self, connection: Connection, pk: int, state: JobState, detail: str) -> None:
        """End a job that was handed out."""
        now = self._clock()
        held = and_(job.c.pk == pk, job.c.state == JobState.IN_PROGRESS.value, job.c.transaction_uid.is_(None))
        error = None if state is JobState.COMPLETED else detail
        values = {"state": state.value, "error": error, "finished_at": now, "updated_at": now}
        if connection.execute(update(job).where(held).values(**values)).rowcount == 1:
            self._event(connection, pk, state, detail)

    def hasten(self, connection: Connection, pk: int) -> None:
        """Make a waiting job due now: what it waits for has come."""
        now = self._clock()
        waiting = and_(job.c.pk == pk, job.c.state == JobState.SCHEDULED.value, job.c.not_before > now)
        connection.execute(update(job).where(waiting).values(not_before=now))

    def requeue(self, pk: int, why: str, *, connection: Connection | None = None) -> bool:
        """Give a failed or canceled job a new set of attempts; False when it is neither, or a live job does the same work already."""
        now = self._clock()
        twin = job.alias("twin")
        live = exists().where(twin.c.dedupe_key == job.c.dedupe_key, is_one_of(twin.c.state, *LIVE))
        again = (
            update(job)
            .where(job.c.pk == pk, job.c.state.in_([JobState.FAILED.value, JobState.CANCELED.value]), ~live)
            .values(
                state=JobState.SCHEDULED.value,
                attempts=0,
                not_before=now,
                lease_until=None,
                transaction_uid=None,
                worker=None,
                finished_at=None,
                updated_at=now,
            )
        )
        with self._transaction(connection) as transaction:
            if transaction.execute(again).rowcount != 1:
                return False
            self._event(transaction, pk, JobState.SCHEDULED, f"requeued: {why}")
        return True

    def get(self, pk: int) -> JobRecord:
        """Read one job; NotFound where there is none."""
        with self._database.read() as connection:
            row = connection.execute(select(job).where(job.c.pk == pk)).one_or_none()
        if row is None:
            raise NotFound(f"no job {pk}")
        return from_row(JobRecord, row)

    def list(
        self, *, state: JobState | None = None, kind: str | None = None, study_uid: str | None = None, limit: int = 100
    ) -> Sequence[JobRecord]:
        """Read the newest jobs, newest first."""
        query = select(job).order_by(job.c.pk.desc()).limit(limit)
        if state is not None:
            query = query.where(job.c.state == state.value)
        if kind is not None:
            query = query.where(job.c.kind == kind)
        if study_uid is not None:
            query = query.where(job.c.study_uid == study_uid)
        with self._database.read() as connection:
            return [from_row(JobRecord, row) for row in connection.execute(query)]

    def events(self, pk: int) -> Sequence[JobEventRecord]:
        """Read what happened to a job, oldest first."""
        with self._database.read() as connection:
            query = select(job_event).where(job_event.c.job_pk == pk).order_by(job_event.c.pk)
            return [from_row(JobEventRecord, row) for row in connection.execute(query)]

    # --- inside

    def _transaction(self, connection: Connection | None) -> AbstractContextManager[Connection]:
        return self._database.begin() if connection is None else nullcontext(connection)

    def _leave(self, connection: Connection, claimed: ClaimedJob, state: JobState, detail: str, **values: Any) -> None:
        values = {**values, "state": state.value, "updated_at": self._clock()}
        if connection.dialect.name == "sqlite":
            self._change(connection, claimed, **values)
            self._event(connection, claimed.pk, state, detail, claimed.worker)
            return
        new = {f"new_{name}": value for name, value in values.items()}
        note = {"at": self._clock(), "by": claimed.worker, "detail": detail}
        if connection.scalar(_leave_statement(tuple(values)), {**_proof(claimed), **new, **note}) is None:
            raise _stale(claimed)

    def _change(self, connection: Connection, claimed: ClaimedJob, **values: Any) -> None:
        if connection.execute(_CHANGE, {**_proof(claimed), **values}).rowcount != 1:
            raise _stale(claimed)

    def _event(self, connection: Connection, pk: int, state: JobState, detail: str | None, worker: str | None = None) -> None:
        connection.execute(_EVENT, {"job_pk": pk, "at": self._clock(), "state": state.value, "worker": worker, "detail": detail})


# Statements of the busy paths are built once: building one costs more than running it.

# The fencing condition: the row is running under the claim's own Transaction UID.
_HELD = and_(job.c.pk == bindparam("held_pk"), job.c.state == JobState.IN_PROGRESS.value, job.c.transaction_uid == bindparam("held_token"))
_FENCE = select(job.c.pk).where(_HELD).with_for_update()
_CHANGE = update(job).where(_HELD)
_EVENT = insert(job_event)


def _proof(claimed: ClaimedJob) -> dict[str, Any]:
    return {"held_pk": claimed.pk, "held_token": claimed.transaction_uid}


def _stale(claimed: ClaimedJob) -> StaleToken:
    return StaleToken(f"job {claimed.pk} is no longer held by {claimed.worker}")


@lru_cache(maxsize=64)
def _leave_statement(columns: tuple[str, ...]) -> Select[Any]:
    """PostgreSQL: change a held job and note it; parameters ``new_<column>``, ``at``, ``by``, ``detail`` and the proof."""
    change = update(job).where(_HELD).values({name: bindparam(f"new_{name}") for name in columns}).returning(job.c.pk, job.c.state)
    return _noted(change, bindparam("detail", type_=job_event.c.detail.type))


def _noted(change: ReturningUpdate[Any], detail: ColumnElement[Any] | None = None) -> Select[Any]:
    """PostgreSQL: a change of one job and its ``job_event`` row in one statement, where SQLite needs two. Yields what the change returns.

    A round trip to a server costs more than the row.
    """
    changed = change.cte("changed")
    at, by = bindparam("at", type_=job_event.c.at.type), bindparam("by", type_=job_event.c.worker.type)
    if detail is None:
        detail = func.concat("attempt ", changed.c.attempts, " of ", changed.c.max_attempts)
    event = select(changed.c.pk, at, changed.c.state, by, detail)
    noted = insert(job_event).from_select(["job_pk", "at", "state", "worker", "detail"], event).cte("noted")
    return select(changed).add_cte(noted)


@lru_cache(maxsize=256)
def _claim_statements(queues: tuple[str, ...], dialect: str) -> tuple[Select[Any], ReturningUpdate[Any] | Select[Any]]:
    """Look for a due job, and take the most urgent one, in a single statement; parameters ``at``, ``until``, ``token`` and ``by``."""
    due = and_(_DUE, _in_queues(queues))
    chosen = select(job.c.pk).where(due).order_by(job.c.rank, job.c.pk).limit(1)
    return select(job.c.pk).where(due).limit(1), _take(chosen, dialect)


@lru_cache(maxsize=2)
def _claim_statement_of_one(dialect: str) -> ReturningUpdate[Any] | Select[Any]:
    """Take the job ``only`` where it is due; parameters ``at``, ``until``, ``token`` and ``by``."""
    return _take(select(job.c.pk).where(_DUE, job.c.pk == bindparam("only")), dialect)


_DUE = and_(is_one_of(job.c.state, JobState.SCHEDULED.value), job.c.not_before <= bindparam("at"))


def _take(chosen: Select[Any], dialect: str) -> ReturningUpdate[Any] | Select[Any]:
    take = (
        update(job)
        .where(job.c.pk == chosen.with_for_update(skip_locked=True).scalar_subquery(), job.c.state == JobState.SCHEDULED.value)
        .values(
            state=JobState.IN_PROGRESS.value,
            attempts=job.c.attempts + 1,
            lease_until=bindparam("until"),
            due_at=None,
            transaction_uid=bindparam("token"),
            worker=bindparam("by"),
            updated_at=bindparam("at"),
        )
        .returning(*(job.c[name] for name in ClaimedJob.__dataclass_fields__), job.c.state)
    )
    return take if dialect == "sqlite" else _noted(take)


def _in_queues(queues: Sequence[str]) -> ColumnElement[bool]:
    exact = [name for name in queues if not name.endswith("*")]
    conditions: list[ColumnElement[bool]] = [job.c.queue.in_(exact)] if exact else []
    for prefix in (name[:-1] for name in queues if name.endswith("*")):
        conditions.append(job.c.queue.startswith(prefix, autoescape=True))
    if not conditions:
        raise ValueError("claim: name at least one queue")
    return or_(*conditions)
