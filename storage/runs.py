"""Runs: one model on one frozen input set, an immutable record once finished. The run key is unique over all runs, finished ones too.

    SCHEDULED > IN_PROGRESS > COMPLETED | NOT_APPLICABLE | FAILED | CANCELED
       ^--- an attempt failed and another one follows; ``reason`` says why
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import blake3
from sqlalchemy import Connection, and_, exists, insert, null, select, update

from storage import audit, fair_share, quotas
from storage.errors import NotFound
from storage.fair_share import FREE, Turns
from storage.flags import gives_way, lacks_memory
from storage.jobs import AGEING, JobQueue, JobSpec
from storage.records import RunRecord, from_row
from storage.schema import emitted, instance, job, run, selection, study
from storage.statements import insert_new, is_one_of

WAITING = ("SCHEDULED", "IN_PROGRESS")
INPUTS = "inputs"  # among the parameters of a run of a model of several inputs: input > Series Instance UID


@dataclass(frozen=True)
class RunSpec:
    """What a run is to do. ``input_set`` holds (SOP Instance UID, digest) of the selected series' instances, in any order."""

    study_uid: str
    study_revision: int
    series_uids: Sequence[str]
    input_set: Sequence[tuple[str, str]]
    rule: str
    bundle: str
    bundle_version: str
    release_digest: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    deliver_to: Sequence[str] = ()
    predecessor_pk: int | None = None
    run_key: str = ""  # left empty: derived from the above
    salt: str = ""  # tells a run that a person asked for from those of the same input before it
    release_pk: int | None = None
    outside: bool = False  # left to outside performers: no worker of ours takes it
    asks_prior: bool = False  # it waits until an earlier study was looked for
    after: Sequence[tuple[str, str]] = ()  # (input, model): whose segments that input is; without input the order alone counts
    shadow: bool = False  # it looks on: the same input may be run again by the same release, once that is deployed

    @property
    def key(self) -> str:
        salt = f"shadow {self.salt}" if self.shadow else self.salt
        return self.run_key or run_key(self.input_set, self.release_digest, self.parameters, salt=salt)


@dataclass(frozen=True)
class SelectionSpec:
    """Whether a series goes to a bundle, and why (not)."""

    rule: str
    bundle: str
    series_uid: str
    chosen: bool
    reason: str


def run_key(input_set: Sequence[tuple[str, str]], release_digest: str, parameters: Mapping[str, Any], *, salt: str = "") -> str:
    """Hash UIDs and digests of the input, the release and its parameters; the order of the instances does not matter."""
    parts = [sorted([uid, digest] for uid, digest in input_set), release_digest, dict(parameters), *([salt] if salt else [])]
    return blake3.blake3(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def create_run(
    connection: Connection,
    spec: RunSpec,
    *,
    queue: JobQueue | None = None,
    job_queue: str = "infer",
    priority: int = 0,
    max_attempts: int = 3,
    turns: Turns = FREE,
    now: float | None = None,
) -> int | None:
    """Record a run, and with ``queue`` enqueue its ``infer`` job (payload ``run_pk``), in the caller's transaction.

    ``turns``: when it comes among the runs of its own source and of others (`storage.fair_share`, `storage.quotas`).

    Returns
    -------
    int or None
        The run's key; None when this model has had this very input set before.
    """
    at = time.time() if now is None else now
    values = {
        "run_key": spec.key,
        "study_uid": spec.study_uid,
        "study_revision": spec.study_revision,
        "series_uids": list(spec.series_uids),
        "input_set": [list(pair) for pair in spec.input_set],
        "rule": spec.rule,
        "bundle": spec.bundle,
        "bundle_version": spec.bundle_version,
        "release_digest": spec.release_digest,
        "parameters": dict(spec.parameters),
        "deliver_to": list(spec.deliver_to),
        "predecessor_pk": spec.predecessor_pk,
        "release_pk": spec.release_pk,
        "shadow": spec.shadow,
        "device": "outside" if spec.outside else None,
        "created_at": at,
    }
    pk: int | None = connection.scalar(insert_new(connection, run).values(**values).returning(run.c.pk))
    if pk is not None and queue is not None:
        enqueue(
            connection, queue, pk, spec.key, spec.study_uid, to="outside" if spec.outside else job_queue,
            priority=priority, max_attempts=max_attempts, turns=turns, since=at, now=at,
        )  # fmt: skip
    return pk


def enqueue(
    connection: Connection,
    queue: JobQueue,
    pk: int,
    key: str,
    study_uid: str,
    *,
    to: str,
    priority: int,
    max_attempts: int,
    turns: Turns,
    since: float,
    now: float,
) -> None:
    """Queue the job of a run where its source's turn is; one that waited for something has waited ``since`` then."""
    payload: dict[str, Any] = {"run_pk": pk, "run_key": key}
    rank, source = since - AGEING * priority, ""
    if turns.share or turns.quotas:
        payload[fair_share.SOURCE] = source = fair_share.source_of(connection, study_uid)
    if turns.share:
        rank = fair_share.rank(connection, to, source, priority=priority, share=turns.share, now=since)
    work = JobSpec(
        kind="infer", queue=to, dedupe_key=f"infer:{key}", payload=payload,
        study_uid=study_uid, priority=priority, max_attempts=max_attempts, rank=rank,
    )  # fmt: skip
    job_pk = queue.enqueue(connection, work)
    connection.execute(update(run).where(run.c.pk == pk).values(job_pk=job_pk))
    if job_pk is not None and to != "outside":  # which uses no device of ours
        quotas.join(connection, turns.quotas, source, pk, now=now)


def record_selection(
    connection: Connection, study_uid: str, study_revision: int, selections: Sequence[SelectionSpec], *, now: float | None = None
) -> None:
    """Keep which series was chosen for which bundle and why the others were not."""
    at = time.time() if now is None else now
    rows = [
        {"study_uid": study_uid, "study_revision": study_revision, "rule": each.rule, "bundle": each.bundle,
         "series_uid": each.series_uid, "chosen": each.chosen, "reason": each.reason, "at": at}
        for each in selections
    ]  # fmt: skip
    if rows:
        connection.execute(insert(selection), rows)


def get_run(connection: Connection, pk: int) -> RunRecord:
    """Read a run by its key; NotFound where there is none."""
    row = connection.execute(select(run).where(run.c.pk == pk)).one_or_none()
    if row is None:
        raise NotFound(f"no run {pk}")
    return from_row(RunRecord, row)


def find_run(connection: Connection, key: str) -> RunRecord | None:
    """Read the run with a run key, finished or not."""
    row = connection.execute(select(run).where(run.c.run_key == key)).one_or_none()
    return None if row is None else from_row(RunRecord, row)


def predecessor(connection: Connection, study_uid: str, bundle: str, *, before: int | None = None) -> RunRecord | None:
    """Find the newest completed run of a bundle on a study (of a revision below ``before``): what a rerun supersedes."""
    query = select(run).where(run.c.study_uid == study_uid, run.c.bundle == bundle, run.c.state == "COMPLETED", ~run.c.shadow)
    if before is not None:
        query = query.where(run.c.study_revision < before)
    row = connection.execute(query.order_by(run.c.study_revision.desc(), run.c.pk.desc()).limit(1)).one_or_none()
    return None if row is None else from_row(RunRecord, row)


def objects_of(connection: Connection, key: str) -> list[str]:
    """List the SOP Instance UIDs of the objects that a run made, whether they are still there or not."""
    return list(connection.scalars(select(emitted.c.sop_uid).where(emitted.c.run_key == key).order_by(emitted.c.sop_uid)))


def results_deleted(connection: Connection, key: str) -> bool:
    """Whether a run made objects and none of them is in the archive any more."""
    made = select(emitted.c.sop_uid).where(emitted.c.run_key == key)
    if connection.scalar(made.limit(1)) is None:
        return False
    return connection.scalar(select(instance.c.pk).where(instance.c.sop_uid.in_(made), instance.c.run_key == key).limit(1)) is None


def start_run(connection: Connection, pk: int, device: str, *, now: float | None = None) -> RunRecord | None:
    """Mark a run as begun. None when it has ended meanwhile (canceled by a newer revision): there is nothing to do.

    ``started_at`` is that of the first attempt, so that every attempt encodes the same times.
    """
    at = time.time() if now is None else now
    row = connection.execute(select(run).where(run.c.pk == pk, is_one_of(run.c.state, *WAITING)).with_for_update()).one_or_none()
    if row is None:
        return None
    started = at if row.started_at is None else row.started_at
    values = {"state": "IN_PROGRESS", "device": device, "started_at": started}
    if row.state == "SCHEDULED":
        values["reason"] = None  # why it waited
    change = update(run).where(run.c.pk == pk).values(values).returning(run)
    return from_row(RunRecord, connection.execute(change).one())


def complete_run(
    connection: Connection,
    pk: int,
    *,
    device: str,
    timings: Mapping[str, float],
    findings: Any,
    reason: str | None = None,
    now: float | None = None,
) -> RunRecord:
    """Finish a run, in the transaction that stores its objects. The returned record says whether it is still to be delivered.

    ``reason`` tells what was otherwise than configured.
    """
    return _finish(connection, pk, "COMPLETED", now, device=device, timings=dict(timings), findings=findings, reason=reason)


def not_applicable(connection: Connection, pk: int, reason: str, *, findings: Any = None, now: float | None = None) -> RunRecord:
    """End a run whose model does not apply to its input."""
    return _finish(connection, pk, "NOT_APPLICABLE", now, reason=reason, findings=findings)


def fail_run(connection: Connection, pk: int, reason: str, *, now: float | None = None) -> RunRecord:
    """End a run that could not be carried out."""
    return _finish(connection, pk, "FAILED", now, reason=reason)


def cancel_run(connection: Connection, pk: int, reason: str, *, now: float | None = None) -> RunRecord:
    """End a run that is no longer wanted."""
    return _finish(connection, pk, "CANCELED", now, reason=reason)


def put_back(connection: Connection, pk: int, reason: str) -> None:
    """Let a run wait for its next attempt; ``reason`` says how the last one failed."""
    connection.execute(update(run).where(run.c.pk == pk, is_one_of(run.c.state, *WAITING)).values(state="SCHEDULED", reason=reason))


def reopen_run(connection: Connection, pk: int) -> None:
    """Put a failed or canceled run back to be tried again (its job was requeued)."""
    ended = and_(run.c.pk == pk, run.c.state.in_(["FAILED", "CANCELED"]))
    connection.execute(update(run).where(ended).values(state="SCHEDULED", reason=None, finished_at=None, delivered=True, memory=null()))
    unflag_too_large(connection, get_run(connection, pk))


def _finish(connection: Connection, pk: int, state: str, now: float | None, **values: Any) -> RunRecord:
    at = time.time() if now is None else now
    change = update(run).where(run.c.pk == pk, is_one_of(run.c.state, *WAITING)).values(state=state, finished_at=at, **values)
    row = connection.execute(change.returning(run)).one_or_none()
    if row is None:
        raise NotFound(f"run {pk} is not waiting or running")
    return from_row(RunRecord, row)


def earlier_runs(
    connection: Connection, study_uid: str, bundle: str, revision: int | None = None, *, shadow: bool = False
) -> list[RunRecord]:
    """Read the runs of a bundle on a study (on revisions below ``revision``), newest first; with ``shadow`` those that look on."""
    query = select(run).where(run.c.study_uid == study_uid, run.c.bundle == bundle, run.c.shadow == shadow)
    if revision is not None:
        query = query.where(run.c.study_revision < revision)
    return [from_row(RunRecord, row) for row in connection.execute(query.order_by(run.c.study_revision.desc(), run.c.pk.desc()))]


def live_beside(connection: Connection, looking_on: RunRecord) -> RunRecord | None:
    """Find the run that one in the shadow looks on: the newest of the same model, rule and series on the same revision of the study."""
    query = select(run).where(
        run.c.study_uid == looking_on.study_uid,
        run.c.bundle == looking_on.bundle,
        run.c.rule == looking_on.rule,
        run.c.study_revision == looking_on.study_revision,
        ~run.c.shadow,
    )
    found = [from_row(RunRecord, row) for row in connection.execute(query.order_by(run.c.pk.desc()))]
    return next((record for record in found if record.series_uids == looking_on.series_uids), None)


def flag_study(connection: Connection, study_uid: str, reason: str) -> None:
    """Mark a study for a person to look at; a flag that is there already stays, unless it gives way."""
    connection.execute(update(study).where(study.c.study_uid == study_uid, gives_way()).values(flag=reason))


def flag_too_large(connection: Connection, record: RunRecord, reason: str) -> None:
    """Mark the study of a run whose model it did not fit, where nothing else is to be said of it."""
    lacks = f"{lacks_memory(record.bundle)} {reason}"
    connection.execute(update(study).where(study.c.study_uid == record.study_uid, study.c.flag.is_(None)).values(flag=lacks))


def unflag_too_large(connection: Connection, record: RunRecord) -> None:
    """Take that mark away: the model is tried again, or ran after all."""
    lacks = study.c.flag.startswith(lacks_memory(record.bundle), autoescape=True)
    connection.execute(update(study).where(study.c.study_uid == record.study_uid, lacks).values(flag=None))


def keep_memory(connection: Connection, pk: int, memory: Mapping[str, Any]) -> None:
    """Note with a run what was known of the memory it takes, what was chosen, and what was measured."""
    connection.execute(update(run).where(run.c.pk == pk).values(memory=dict(memory)))


def cancel_older(
    connection: Connection,
    queue: JobQueue,
    study_uid: str,
    revision: int,
    bundle: str,
    *,
    actor: str = "routing",
    now: float | None = None,
    among: Collection[int] | None = None,
) -> list[int]:
    """Make way for a run on a newer revision of a study: older ones that wait are canceled, running ones finish but are not delivered.

    ``among`` restricts it to some runs.

    Returns
    -------
    list of int
        The runs that were canceled.
    """
    at = time.time() if now is None else now
    why = f"superseded by revision {revision} of the study"
    older = and_(run.c.study_uid == study_uid, run.c.bundle == bundle, run.c.study_revision < revision, is_one_of(run.c.state, *WAITING))
    if among is not None:
        older = and_(older, run.c.pk.in_(list(among)))
    canceled = []
    for row in connection.execute(select(run.c.pk, run.c.job_pk).where(older).order_by(run.c.pk).with_for_update()).all():
        if row.job_pk is None or queue.cancel(row.job_pk, why, connection=connection):
            cancel_run(connection, row.pk, why, now=at)
            canceled.append(row.pk)
        else:
            connection.execute(update(run).where(run.c.pk == row.pk).values(delivered=False, reason=why))
        detail = {"run": row.pk, "bundle": bundle, "by_revision": revision, "canceled": row.pk in canceled}
        audit.record(connection, "run.superseded", actor=actor, study_uid=study_uid, detail=detail, at=at)
    return canceled


def settle(connection: Connection, *, now: float | None = None) -> int:
    """Bring runs in line with jobs that went on without them: ended (its worker died at the last attempt, or a person canceled it), or
    back in the queue after an attempt that failed."""
    at = time.time() if now is None else now
    settled = 0
    waits = exists().where(job.c.pk == run.c.job_pk, job.c.state == "SCHEDULED")
    why = select(job.c.error).where(job.c.pk == run.c.job_pk).scalar_subquery()
    back = update(run).where(is_one_of(run.c.state, "IN_PROGRESS"), waits).values(state="SCHEDULED", reason=why)
    settled += connection.execute(back).rowcount
    for state in ("FAILED", "CANCELED"):
        ended = exists().where(job.c.pk == run.c.job_pk, job.c.state == state)
        error = select(job.c.error).where(job.c.pk == run.c.job_pk).scalar_subquery()
        change = update(run).where(is_one_of(run.c.state, *WAITING), ended).values(state=state, reason=error, finished_at=at)
        settled += connection.execute(change).rowcount
    return settled
