"""When a study is complete (so that it runs), and why.

A study that is being received is complete when

- no open association is sending it, the quiet time has passed since its last instance, and the required series and the expected count
  (where configured) are there; or
- ``max_wait`` has passed since its last instance, and no association has sent for it within the quiet time: an association that is kept
  open but idle, or a series that never came, holds a study up no longer than that. The reason then names what was missing.

Completing is conditional on the study's revision, which every new instance raises in its own transaction, so of any number of
completers one does it, and an instance that slips in between undoes it. The route job is queued in the same transaction.
What is imported or rebuilt from bytes stands as complete at its own revision: nothing here completes, routes or runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import blake3
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, func, insert, or_, select, tuple_, update

from storage import audit
from storage.associations import is_open
from storage.database import Database
from storage.flags import stops
from storage.index import series_clause
from storage.jobs import JobQueue, JobSpec
from storage.matching import Wanted
from storage.schema import association, association_study, completion, instance, series, study

BATCH = 100  # studies per transaction: other writers wait no longer than that takes


@dataclass(frozen=True)
class CompletionPolicy:
    """When to believe that a study has arrived. ``required``: each of these (keyword > matching value) must match one of its series."""

    quiet_period: float = 60.0
    max_wait: float = 3600.0
    required: Sequence[Mapping[str, Wanted]] = ()
    expected_count: int | None = None


@dataclass(frozen=True)
class CompletedStudy:
    """A study that has just become complete. ``held``: why it is not run, else None."""

    study_uid: str
    revision: int
    previous_revision: int | None
    reason: str
    instances: int
    input_digest: str
    held: str | None


FollowUp = Callable[[CompletedStudy], Sequence[JobSpec]]


def route_job(completed: CompletedStudy) -> Sequence[JobSpec]:
    """The job that a completed study gets: routing it."""
    payload = {"study_uid": completed.study_uid, "revision": completed.revision, "previous_revision": completed.previous_revision}
    key = f"route:{completed.study_uid}:{completed.revision}"
    return [JobSpec(kind="route", queue="route", dedupe_key=key, payload=payload, study_uid=completed.study_uid)]


def complete_quiet(
    database: Database, now: float, policy: CompletionPolicy, *, follow_up: FollowUp = route_job, actor: str = "completion"
) -> list[CompletedStudy]:
    """Complete every study that is; any number of processes may call it at once."""
    completed: list[CompletedStudy] = []
    while True:
        batch = _complete_batch(database, now, policy, follow_up, actor)
        completed += batch
        if len(batch) < BATCH:
            return completed


def hold_revision(connection: Connection, study_uid: str, revision: int) -> bool:
    """Tell whether a study is still complete at ``revision``, and keep it so to the end of the transaction: the input set is frozen."""
    query = select(study.c.pk).where(study.c.study_uid == study_uid, study.c.revision == revision, study.c.state == "COMPLETE")
    return connection.scalar(query.with_for_update()) is not None


def route_again(
    connection: Connection, queue: JobQueue, study_uid: str, *, actor: str, why: str, now: float, more: Mapping[str, Any] | None = None
) -> int | None:
    """Route a complete study once more, as it stands, on a person's word; a flag that held it is lifted.

    Parameters
    ----------
    more
        What else the route job is told.

    Returns
    -------
    int or None
        The route job; None when the study is not complete, or is being routed already.
    """
    complete = study.c.study_uid == study_uid, study.c.state == "COMPLETE"
    row = connection.execute(select(study.c.revision, study.c.flag).where(*complete).with_for_update()).one_or_none()
    if row is None:
        return None
    connection.execute(update(study).where(*complete).values(flag=None))
    detail = {"revision": row.revision, "why": why, "flag_lifted": row.flag}
    audit.record(connection, "study.route_again", actor=actor, study_uid=study_uid, detail=detail, at=now)
    (spec,) = route_job(CompletedStudy(study_uid, row.revision, None, why, 0, "", None))
    return queue.enqueue(connection, replace(spec, payload={**spec.payload, **(more or {})}))


def _complete_batch(database: Database, now: float, policy: CompletionPolicy, follow_up: FollowUp, actor: str) -> list[CompletedStudy]:
    complete = _complete(now, policy)
    with database.read() as connection:
        if connection.execute(select(study.c.pk).where(complete).limit(1)).first() is None:
            return []
    # A study whose row is locked is just getting an instance, or another completer has it: not ours now.
    ready = select(study.c.pk, study.c.revision).where(complete).order_by(study.c.last_received_at).limit(BATCH)
    change = (
        update(study)
        .where(tuple_(study.c.pk, study.c.revision).in_(ready.with_for_update(skip_locked=True)), study.c.state == "RECEIVING")
        .values(state="COMPLETE", completed_at=now)
        .returning(study.c.pk, study.c.study_uid, study.c.revision, study.c.completed_revision, study.c.last_received_at, study.c.flag)
    )
    queue = JobQueue(database, clock=lambda: now)
    with database.begin() as connection:
        rows = connection.execute(change).all()
        completed = [_record(connection, row, now, policy, actor) for row in rows]
        for each in completed:
            for spec in () if each.held else follow_up(each):
                queue.enqueue(connection, spec)
    return completed


def _complete(now: float, policy: CompletionPolicy) -> ColumnElement[bool]:
    quiet = study.c.last_received_at <= now - policy.quiet_period
    waited = study.c.last_received_at <= now - max(policy.max_wait, policy.quiet_period)
    return and_(
        study.c.state == "RECEIVING",
        study.c.revision > func.coalesce(study.c.completed_revision, 0),
        or_(and_(quiet, ~_sending(now), *_present(policy)), and_(waited, ~_sending(now, since=now - policy.quiet_period))),
    )


def _sending(now: float, since: float | None = None) -> ColumnElement[bool]:
    """An open association has sent for the study (since a time)."""
    condition = exists().where(
        association_study.c.study_uid == study.c.study_uid, association_study.c.association_id == association.c.id, is_open(now)
    )
    return condition if since is None else condition.where(association_study.c.last_at > since)


def _present(policy: CompletionPolicy) -> list[ColumnElement[bool]]:
    conditions = [_has_series(wanted) for wanted in policy.required]
    if policy.expected_count is not None:
        conditions.append(_received() >= policy.expected_count)
    return conditions


def _has_series(wanted: Mapping[str, Wanted]) -> ColumnElement[bool]:
    return exists().where(series.c.study_pk == study.c.pk, series_clause(wanted, ignore_case=True))


def _received() -> ColumnElement[int]:
    """How many instances of the study came from outside."""
    counted = select(func.count()).select_from(instance).where(instance.c.study_pk == study.c.pk, instance.c.origin != "emitted")
    return counted.scalar_subquery()


def _record(connection: Connection, row: Row[Any], now: float, policy: CompletionPolicy, actor: str) -> CompletedStudy:
    count, digest = _input(connection, row.pk)
    reason = _reason(connection, row, now, policy, count)
    held = f"not run: {row.flag}" if stops(row.flag) else None
    values = {"completed_revision": row.revision, "complete_reason": reason}
    connection.execute(update(study).where(study.c.pk == row.pk).values(**values))
    # A study that was deleted and sent again reaches the same revisions once more; its first life stays told in the audit trail.
    connection.execute(delete(completion).where(completion.c.study_uid == row.study_uid, completion.c.revision >= row.revision))
    values = {"study_uid": row.study_uid, "revision": row.revision, "at": now, "reason": reason, "held": held}
    connection.execute(insert(completion).values(**values, instances=count, input_digest=digest))
    detail = {"revision": row.revision, "reason": reason, "instances": count, "input_digest": digest}
    audit.record(connection, "study.complete", actor=actor, study_uid=row.study_uid, detail=detail, at=now)
    if held:
        audit.record(connection, "study.held", actor=actor, study_uid=row.study_uid, detail={"reason": held}, at=now)
    return CompletedStudy(row.study_uid, row.revision, row.completed_revision, reason, count, digest, held)


def _input(connection: Connection, study_pk: int) -> tuple[int, str]:
    """Count and fingerprint the received instances: the frozen input set's reference."""
    query = select(instance.c.sop_uid, instance.c.digest).where(instance.c.study_pk == study_pk, instance.c.origin != "emitted")
    hasher = blake3.blake3()
    rows = sorted((row.sop_uid, row.digest) for row in connection.execute(query))
    for sop_uid, digest in rows:
        hasher.update(f"{sop_uid} {digest}\n".encode())
    return len(rows), hasher.hexdigest()


def _reason(connection: Connection, row: Row[Any], now: float, policy: CompletionPolicy, count: int) -> str:
    """Say in words why the study is complete."""
    silence = now - row.last_received_at
    still_open = connection.scalars(
        select(association.c.calling_ae)
        .join(association_study, association_study.c.association_id == association.c.id)
        .where(association_study.c.study_uid == row.study_uid, is_open(now))
    ).all()
    this = study.c.pk == row.pk
    absent = [_words(wanted) for wanted in policy.required if not connection.scalar(select(_has_series(wanted)).where(this))]
    short = policy.expected_count is not None and count < policy.expected_count
    if not (still_open or absent or short):
        parts = [f"no open association is sending it and nothing came for {silence:.0f} s (quiet period {policy.quiet_period:g} s)"]
        parts += [f"required series {_words(wanted)} is there" for wanted in policy.required]
    else:
        parts = [f"nothing came for {silence:.0f} s (max_wait {policy.max_wait:g} s)"]
        parts += [f"the association from {name} is still open but idle" for name in still_open]
        parts += [f"required series {words} did not come" for words in absent]
    expected = "" if policy.expected_count is None else f" of {policy.expected_count} expected"
    return "; ".join([*parts, f"{count}{expected} instance{'s' if count != 1 or expected else ''}"])


def _words(wanted: Mapping[str, Wanted]) -> str:
    return ", ".join(f"{keyword}={value}" for keyword, value in wanted.items())
