"""How much came and went lately, an hour at a time; and how the runs of each release ended."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Integer, cast, func, select

from storage.schema import completion, delivery, run

HOUR = 3600


@dataclass(frozen=True)
class Hour:
    """What happened in the hour that begins at ``at`` (UTC epoch seconds)."""

    at: float
    instances: int
    studies: int
    runs: int
    deliveries: int


@dataclass(frozen=True)
class Ran:
    """Runs of a release: how they ended, and the median of their seconds (of the newest that completed)."""

    completed: int = 0
    not_applicable: int = 0
    failed: int = 0
    waiting: int = 0
    median: float | None = None


def hours(connection: Connection, now: float, count: int = 24) -> Sequence[Hour]:
    """The last hours, the oldest first; studies and their instances count in the hour in which they became complete."""
    first = (int(now) // HOUR - count + 1) * HOUR

    def by_hour(at: object, counted: object, *where: object) -> dict[int, int]:
        slot = cast(func.floor(at / HOUR), Integer)  # type: ignore[operator]
        query = select(slot.label("hour"), counted.label("number")).where(at >= first, *where).group_by(slot)  # type: ignore[attr-defined, operator, arg-type]
        return {int(row.hour): int(row.number or 0) for row in connection.execute(query)}

    came = by_hour(completion.c.at, func.sum(completion.c.instances))
    complete = by_hour(completion.c.at, func.count())
    ran = by_hour(run.c.finished_at, func.count(), run.c.state == "COMPLETED")
    sent = by_hour(delivery.c.finished_at, func.count(), delivery.c.state == "DELIVERED")
    slots = range(first // HOUR, first // HOUR + count)
    return [Hour(slot * HOUR, *(each.get(slot, 0) for each in (came, complete, ran, sent))) for slot in slots]


def ran(connection: Connection, release_digest: str) -> Ran:
    """How a release's runs ended."""
    query = select(run.c.state, func.count().label("number")).where(run.c.release_digest == release_digest).group_by(run.c.state)
    by_state = {row.state: row.number for row in connection.execute(query)}
    newest = select(run.c.started_at, run.c.finished_at).where(run.c.release_digest == release_digest, run.c.state == "COMPLETED")
    took = [row.finished_at - row.started_at for row in connection.execute(newest.order_by(run.c.pk.desc()).limit(100)) if row.started_at]
    return Ran(
        by_state.get("COMPLETED", 0),
        by_state.get("NOT_APPLICABLE", 0),
        by_state.get("FAILED", 0),
        by_state.get("SCHEDULED", 0) + by_state.get("IN_PROGRESS", 0),
        statistics.median(took) if took else None,
    )
