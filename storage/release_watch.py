"""What is known of a release beside its state: evaluations, flags, what its runs were given, and what its shadow runs came to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from storage.errors import NotFound
from storage.records import DriftRecord, EvaluationRecord, FlagRecord, RunRecord, from_row
from storage.schema import drift, drift_input, model_release, release_evaluation, release_flag, run
from storage.statements import insert_new

_EVALUATION = [release_evaluation.c[field.name] for field in fields(EvaluationRecord)]


def add_evaluation(
    connection: Connection,
    release_pk: int,
    report: bytes,
    *,
    source: str,
    data: str,
    split: str,
    items: int,
    data_fingerprint: str,
    metrics: Mapping[str, Mapping[str, Any]],
    actor: str,
    passed: bool | None = None,
    now: float | None = None,
) -> EvaluationRecord:
    """Keep an evaluation of a release, with its report as it was read. The same report again becomes the newest."""
    digest = hashlib.sha256(report).hexdigest()
    values = {
        "release_pk": release_pk, "source": source, "digest": digest, "data": data, "split": split, "items": items,
        "data_fingerprint": data_fingerprint, "metrics": {name: dict(each) for name, each in metrics.items()}, "report": report,
        "passed": passed, "at": time.time() if now is None else now, "actor": actor,
    }  # fmt: skip
    return from_row(EvaluationRecord, connection.execute(insert(release_evaluation).values(**values).returning(*_EVALUATION)).one())


def evaluations(connection: Connection, release_pk: int, data: str | None = None) -> list[EvaluationRecord]:
    """Read the evaluations of a release (on a data set), newest first."""
    query = select(*_EVALUATION).where(release_evaluation.c.release_pk == release_pk).order_by(release_evaluation.c.pk.desc())
    if data is not None:
        query = query.where(release_evaluation.c.data == data)
    return [from_row(EvaluationRecord, row) for row in connection.execute(query)]


def evaluation(connection: Connection, pk: int) -> EvaluationRecord:
    """Read one evaluation; NotFound where there is none."""
    row = connection.execute(select(*_EVALUATION).where(release_evaluation.c.pk == pk)).one_or_none()
    if row is None:
        raise NotFound(f"no evaluation {pk}")
    return from_row(EvaluationRecord, row)


def report(connection: Connection, evaluation_pk: int) -> bytes:
    """Read an evaluation's report as it was handed in."""
    found = connection.scalar(select(release_evaluation.c.report).where(release_evaluation.c.pk == evaluation_pk))
    if found is None:
        raise NotFound(f"no evaluation {evaluation_pk}")
    return bytes(found)


# --- flags


def raise_flag(connection: Connection, release_pk: int, kind: str, reason: str, *, now: float | None = None) -> bool:
    """Mark a release for a person to look at; whether it was not marked so before. A mark that is there takes the newest reason."""
    at = time.time() if now is None else now
    values = {"release_pk": release_pk, "kind": kind, "raised_at": at, "reason": reason}
    if connection.scalar(insert_new(connection, release_flag).values(**values).returning(release_flag.c.pk)) is not None:
        return True
    connection.execute(update(release_flag).where(_open(release_pk, kind)).values(reason=reason))
    return False


def clear_flag(connection: Connection, release_pk: int, kind: str, *, now: float | None = None) -> bool:
    """Take a mark away; whether there was one."""
    at = time.time() if now is None else now
    return connection.execute(update(release_flag).where(_open(release_pk, kind)).values(cleared_at=at)).rowcount > 0


def flags(connection: Connection, release_pk: int | None = None) -> list[FlagRecord]:
    """Read the open flags (of a release), oldest first."""
    query = select(release_flag).where(release_flag.c.cleared_at.is_(None)).order_by(release_flag.c.pk)
    if release_pk is not None:
        query = query.where(release_flag.c.release_pk == release_pk)
    return [from_row(FlagRecord, row) for row in connection.execute(query)]


def _open(release_pk: int, kind: str) -> Any:
    return (release_flag.c.release_pk == release_pk) & (release_flag.c.kind == kind) & release_flag.c.cleared_at.is_(None)


# --- drift of the input


def record_input(connection: Connection, release_pk: int, run_pk: int, statistics: Mapping[str, Any], *, now: float | None = None) -> None:
    """Keep what a run was given, in the transaction that ends it; once per run."""
    at = time.time() if now is None else now
    values = {"release_pk": release_pk, "run_pk": run_pk, "at": at, "statistics": dict(statistics)}
    connection.execute(insert_new(connection, drift_input).values(**values))


def inputs(connection: Connection, release_pk: int, newest: int) -> tuple[int, list[dict[str, Any]]]:
    """Read what the newest runs of a release were given, newest first, and the key of the newest of them (0: there is none)."""
    query = select(drift_input.c.pk, drift_input.c.statistics).where(drift_input.c.release_pk == release_pk)
    rows = connection.execute(query.order_by(drift_input.c.pk.desc()).limit(newest)).all()
    return (rows[0].pk if rows else 0), [dict(row.statistics) for row in rows]


def inputs_since(connection: Connection, release_pk: int, pk: int) -> int:
    """Count the inputs of a release that came after one."""
    query = select(func.count()).select_from(drift_input).where(drift_input.c.release_pk == release_pk, drift_input.c.pk > pk)
    return int(connection.scalar(query) or 0)


def forget_inputs(connection: Connection, release_pk: int, keep: int) -> int:
    """Remove all but the newest of what the runs of a release were given."""
    of_release = drift_input.c.release_pk == release_pk
    oldest = select(drift_input.c.pk).where(of_release).order_by(drift_input.c.pk.desc()).limit(1).offset(keep - 1).scalar_subquery()
    return connection.execute(delete(drift_input).where(of_release, drift_input.c.pk < oldest)).rowcount


def newest_inputs(connection: Connection) -> dict[int, int]:
    """Read the key of the newest input of every release that has one."""
    query = select(drift_input.c.release_pk, func.max(drift_input.c.pk).label("newest")).group_by(drift_input.c.release_pk)
    return {row.release_pk: row.newest for row in connection.execute(query)}


def record_drift(
    connection: Connection,
    release_pk: int,
    newest_input_pk: int,
    runs: int,
    distances: Mapping[str, Mapping[str, Any]],
    *,
    now: float | None = None,
) -> DriftRecord:
    """Keep one look at the newest inputs of a release."""
    values = {
        "release_pk": release_pk, "at": time.time() if now is None else now, "newest_input_pk": newest_input_pk, "runs": runs,
        "drifted": any(each["drifted"] for each in distances.values()),
        "distances": {name: dict(each) for name, each in distances.items()},
    }  # fmt: skip
    return from_row(DriftRecord, connection.execute(insert(drift).values(**values).returning(drift)).one())


def latest_drift(connection: Connection, release_pk: int) -> DriftRecord | None:
    """Read the newest look at the inputs of a release."""
    query = select(drift).where(drift.c.release_pk == release_pk).order_by(drift.c.pk.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else from_row(DriftRecord, row)


# --- shadow runs


def shadow_runs(connection: Connection, release_pk: int, limit: int = 1000) -> list[RunRecord]:
    """Read the newest shadow runs of a release, newest first."""
    query = select(run).where(run.c.release_pk == release_pk, run.c.shadow).order_by(run.c.pk.desc()).limit(limit)
    return [from_row(RunRecord, row) for row in connection.execute(query)]


def keep_agreement(connection: Connection, run_pk: int, with_run: int | None, agreement: Mapping[str, Any]) -> None:
    """Keep how far a shadow run agrees with the run whose result went out."""
    connection.execute(update(run).where(run.c.pk == run_pk).values(compared_with=with_run, agreement=dict(agreement)))


def flagged(connection: Connection) -> Sequence[tuple[str, str]]:
    """Read (name, kind) of every open flag of a release that is deployed, for metrics."""
    joined = release_flag.join(model_release, model_release.c.pk == release_flag.c.release_pk)
    query = select(model_release.c.name, release_flag.c.kind).select_from(joined)
    query = query.where(release_flag.c.cleared_at.is_(None), model_release.c.state == "deployed")
    return [(row.name, row.kind) for row in connection.execute(query)]
