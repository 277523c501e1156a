"""Runs that wait for other runs: one model's segments are another's input.

A run that waits is SCHEDULED without a job, and its reason says for which run. When that one is completed, in the same transaction, the
instance that holds its segments joins the input set, the run key is that of the whole input, and its job is queued. When it ends otherwise,
the waiting run ends in the same state, with that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from storage.fair_share import FREE, Turns
from storage.feedback import SEGMENTATIONS
from storage.jobs import JobQueue
from storage.records import RunRecord
from storage.runs import INPUTS, RunSpec, enqueue, run_key
from storage.schema import instance, run, run_wait, series
from storage.statements import is_one_of

Segments = Callable[[str], Sequence[str]]  # run key > the SOP Instance UIDs under which its segments may be, best first
_FINAL = ("COMPLETED", "NOT_APPLICABLE", "FAILED", "CANCELED")


def provisional_key(spec: RunSpec, after: Sequence[RunRecord]) -> str:
    """The key of a run until what it waits for is there: the same wait is no second run."""
    pairs = [*spec.input_set, *(("waits for", first.run_key) for first in after)]
    return run_key(pairs, spec.release_digest, spec.parameters, salt=_salt(spec.shadow, spec.salt))


def wait(connection: Connection, run_pk: int, after: Sequence[tuple[str, RunRecord]], *, priority: int, max_attempts: int) -> None:
    """Let a run that was made without a job wait for others; ``after``: which input the segments of which run are."""
    for name, first in after:
        values = {"run_pk": run_pk, "after_pk": first.pk, "input": name, "priority": priority, "max_attempts": max_attempts}
        connection.execute(run_wait.insert().values(**values))
    connection.execute(update(run).where(run.c.pk == run_pk).values(reason=waits_for(connection, run_pk)))


def waits_for(connection: Connection, run_pk: int) -> str:
    """What a run waits for, in a sentence; empty where it waits for no run."""
    query = select(run.c.pk, run.c.bundle).join(run_wait, run_wait.c.after_pk == run.c.pk).where(run_wait.c.run_pk == run_pk)
    firsts = [f"run {row.pk} of {row.bundle}" for row in connection.execute(query.distinct().order_by(run.c.pk))]
    return "waits for " + " and ".join(firsts) if firsts else ""


def segments_of(connection: Connection, key: str, segments: Segments) -> tuple[str, str, str] | None:
    """Find the instance that holds a run's segments: its series, its UID and digest; None where the run made none.

    Of a run that somebody outside performed, the first of the segmentations that the performer listed.
    """
    query = select(series.c.series_uid, instance.c.sop_uid, instance.c.digest).join(series, series.c.pk == instance.c.series_pk)
    for uid in segments(key):
        row = connection.execute(query.where(instance.c.sop_uid == uid)).one_or_none()
        if row is not None:
            return row.series_uid, row.sop_uid, row.digest
    received = query.where(instance.c.run_key == key, instance.c.origin != "emitted", instance.c.sop_class_uid.in_(SEGMENTATIONS))
    row = connection.execute(received.order_by(instance.c.sop_class_uid, instance.c.pk).limit(1)).one_or_none()
    return None if row is None else (row.series_uid, row.sop_uid, row.digest)


def follow(connection: Connection, queue: JobQueue, segments: Segments, *, turns: Turns = FREE, now: float) -> int:
    """Queue the runs whose wait is over, and end those for which it was in vain; how many were touched.

    In the transaction that ends the run they wait for; once more from time to time, for runs that ended without one.
    ``turns``: when they come among the runs of their own sources and of others; they have waited since they were made.
    """
    touched = 0
    while True:
        rows = _over(connection)
        if not rows:
            return touched
        for pk in dict.fromkeys(row.pk for row in rows):
            touched += 1
            _go_on(connection, queue, pk, segments, turns, now)


def reopen(connection: Connection, after_pk: int) -> None:
    """Let those wait again that ended because a run did, which is tried once more."""
    waiting = select(run_wait.c.run_pk).where(run_wait.c.after_pk == after_pk)
    ended = (run.c.pk.in_(waiting), run.c.job_pk.is_(None), run.c.state.in_(["FAILED", "CANCELED", "NOT_APPLICABLE"]))
    for pk in connection.scalars(select(run.c.pk).where(*ended)).all():
        values = {"state": "SCHEDULED", "reason": f"waits for run {after_pk}", "finished_at": None, "delivered": True}
        connection.execute(update(run).where(run.c.pk == pk).values(**values))
        reopen(connection, pk)


def _over(connection: Connection) -> Sequence[Any]:
    """Runs that wait, and one of those that they wait for has ended in vain, or all are completed."""
    first = run.alias("first")
    waiting = (
        select(run.c.pk, first.c.state.label("of_first"))
        .join(run_wait, run_wait.c.run_pk == run.c.pk)
        .join(first, first.c.pk == run_wait.c.after_pk)
        .where(is_one_of(run.c.state, "SCHEDULED"), run.c.job_pk.is_(None))
    )
    rows = connection.execute(waiting).all()
    held = {row.pk for row in rows if row.of_first not in _FINAL}
    vain = {row.pk for row in rows if row.of_first in _FINAL and row.of_first != "COMPLETED"}
    return [row for row in rows if row.pk in vain or row.pk not in held]


def _go_on(connection: Connection, queue: JobQueue, pk: int, segments: Segments, turns: Turns, now: float) -> None:
    me = connection.execute(select(run).where(run.c.pk == pk).with_for_update()).one()
    query = select(run, run_wait.c.input, run_wait.c.priority, run_wait.c.max_attempts).join(run_wait, run_wait.c.after_pk == run.c.pk)
    pairs, chosen = [(uid, digest) for uid, digest in me.input_set], dict(me.parameters.get(INPUTS, {}))
    work: dict[str, Any] = {}
    for first in connection.execute(query.where(run_wait.c.run_pk == pk).order_by(run.c.pk)).all():
        if first.state != "COMPLETED":
            if first.state in _FINAL:
                why = f"run {first.pk} of {first.bundle} {_ended(first.state)}{f': {first.reason}' if first.reason else ''}"
                _end(connection, pk, first.state, why, now)
                return
            continue
        made = segments_of(connection, first.run_key, segments)
        if made is None and first.input:
            _end(connection, pk, "NOT_APPLICABLE", f"run {first.pk} of {first.bundle} found nothing to segment", now)
            return
        if made is not None:
            pairs.append(made[1:])
            if first.input:
                chosen[first.input] = made[0]
        work = {"priority": first.priority, "max_attempts": first.max_attempts}
    parameters = {**me.parameters, **({INPUTS: chosen} if chosen else {})}
    key = run_key(pairs, me.release_digest, parameters, salt=_salt(me.shadow, ""))
    before = connection.scalar(select(run.c.pk).where(run.c.run_key == key, run.c.pk != pk))
    if before is not None:
        _end(connection, pk, "CANCELED", f"this very input was given to run {before}", now)
        return
    values = {"input_set": [list(pair) for pair in pairs], "parameters": parameters, "run_key": key, "reason": None}
    connection.execute(update(run).where(run.c.pk == pk).values(**values))
    to = "outside" if me.device == "outside" else "infer"
    enqueue(connection, queue, pk, key, me.study_uid, to=to, **work, turns=turns, since=me.created_at, now=now)


def _end(connection: Connection, pk: int, state: str, why: str, now: float) -> None:
    connection.execute(update(run).where(run.c.pk == pk).values(state=state, reason=why, finished_at=now))


def _ended(state: str) -> str:
    return {"FAILED": "failed", "CANCELED": "was canceled", "NOT_APPLICABLE": "was not applicable"}[state]


def _salt(shadow: bool, salt: str) -> str:
    return f"shadow {salt}" if shadow else salt
