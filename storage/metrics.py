"""Figures of the index for /metrics: how much there is, and how old the oldest waiting thing is. No patient identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Table, func, literal, select

from storage.database import Database
from storage.schema import commitment, commitment_request, delivery, instance, instance_header, job, quarantine, series, study
from storage.statements import is_one_of


@dataclass(frozen=True)
class IndexMetrics:
    """Ages are seconds; a queue or peer without anything waiting is absent."""

    studies: int
    series: int
    instances: int
    damaged: int
    receiving: int  # studies not complete yet
    jobs: Mapping[str, Mapping[str, int]]  # queue > state > count, live states only
    failed_jobs: Mapping[str, int]  # by queue
    oldest_job: Mapping[str, float]  # by queue: age of the oldest job that is due
    oldest_delivery: Mapping[str, float]  # by peer: age of the oldest delivery not finished
    oldest_commitment: Mapping[str, float]  # by peer: age of the oldest instance set that we asked to be committed and is not
    oldest_unreported: Mapping[str, float]  # by peer: age of the oldest transaction that we have not reported
    quarantine_held: int
    header_backlog: int  # instances without their header JSON


_DAMAGED = instance.c.status != literal("OK", literal_execute=True)


def collect(database: Database, now: float) -> IndexMetrics:
    """Read all figures in one snapshot."""
    with database.read() as connection:
        instances = _count(connection, instance)
        return IndexMetrics(
            studies=_count(connection, study),
            series=_count(connection, series),
            instances=instances,
            damaged=_scalar(connection, select(func.count()).select_from(instance).where(_DAMAGED)),
            receiving=_scalar(connection, select(func.count()).select_from(study).where(study.c.state == "RECEIVING")),
            jobs=_live_jobs(connection),
            failed_jobs=_failed_jobs(connection),
            oldest_job=_oldest_jobs(connection, now),
            oldest_delivery=_oldest_deliveries(connection, now),
            oldest_commitment=_oldest_commitments(connection, now),
            oldest_unreported=_oldest_unreported(connection, now),
            quarantine_held=_scalar(connection, select(func.count()).select_from(quarantine).where(quarantine.c.state == "HELD")),
            header_backlog=max(0, instances - _count(connection, instance_header)),
        )


def _scalar(connection: Connection, query: object) -> int:
    return int(connection.scalar(query) or 0)  # type: ignore[call-overload]


def _count(connection: Connection, table: Table) -> int:
    return _scalar(connection, select(func.count()).select_from(table))


def _live_jobs(connection: Connection) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for state in ("SCHEDULED", "IN_PROGRESS"):  # one at a time: each has an index of its own
        query = select(job.c.queue, func.count().label("number")).where(is_one_of(job.c.state, state)).group_by(job.c.queue)
        for row in connection.execute(query):
            found.setdefault(row.queue, {})[state] = row.number
    return found


def _failed_jobs(connection: Connection) -> dict[str, int]:
    query = select(job.c.queue, func.count().label("number")).where(is_one_of(job.c.state, "FAILED")).group_by(job.c.queue)
    return {row.queue: row.number for row in connection.execute(query)}


def _oldest_jobs(connection: Connection, now: float) -> dict[str, float]:
    due = (is_one_of(job.c.state, "SCHEDULED"), job.c.not_before <= now)
    query = select(job.c.queue, func.min(job.c.not_before).label("since")).where(*due).group_by(job.c.queue)
    return {row.queue: now - row.since for row in connection.execute(query)}


def _oldest_deliveries(connection: Connection, now: float) -> dict[str, float]:
    query = select(delivery.c.peer, func.min(delivery.c.created_at).label("since")).where(is_one_of(delivery.c.state, "SCHEDULED"))
    return {row.peer: now - row.since for row in connection.execute(query.group_by(delivery.c.peer))}


def _oldest_commitments(connection: Connection, now: float) -> dict[str, float]:
    """A request that was given up and asked again has not made its delivery younger: the delivery's first request counts."""
    first = (
        select(commitment_request.c.peer, func.min(commitment_request.c.requested_at).label("since"))
        .join(delivery, delivery.c.pk == commitment_request.c.delivery_pk)
        .where(is_one_of(delivery.c.state, "SCHEDULED"))
        .group_by(commitment_request.c.peer)
    )
    return {row.peer: now - row.since for row in connection.execute(first)}


def _oldest_unreported(connection: Connection, now: float) -> dict[str, float]:
    waiting = is_one_of(commitment.c.state, "REQUESTED", "JUDGED")
    query = select(commitment.c.peer, func.min(commitment.c.requested_at).label("since")).where(waiting).group_by(commitment.c.peer)
    return {row.peer: now - row.since for row in connection.execute(query)}
