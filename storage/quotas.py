"""Quotas of sources: how many runs each sender may have let go in a span of time. Nothing is dropped: a run beyond it waits for its turn.

A turn is the time from which a run may be taken: at once, or one span after the turn that is ``runs`` before it (a sliding window). It is
kept, and set in the job's ``not_before``, in the transaction that queues the run, so nobody has to look at runs that wait, and each of them
says when it is due. What is more urgent, or has waited longer, takes an earlier turn of its own source, and the others move back.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Connection, func, select, update

from storage.jobs import AGEING
from storage.schema import job, quota_turn, run

_NOT_YET = 1e18  # the turn of a run that has just joined


@dataclass(frozen=True)
class Quota:
    """At most ``runs`` runs in any ``per`` seconds, for each source that one of ``sources`` (AE titles with wildcards) names."""

    sources: tuple[str, ...]
    runs: int
    per: float

    def __str__(self) -> str:
        return f"at most {self.runs} {'run' if self.runs == 1 else 'runs'} in {_span(self.per)}"


@dataclass(frozen=True)
class Standing:
    """How far a source has used its quotas, and the runs that wait: how many, and when the next one is due (seconds since the epoch)."""

    source: str
    quotas: tuple[str, ...]
    used: tuple[int, ...]  # in the span of each quota
    waiting: int
    next_at: float | None


def of_source(quotas: Sequence[Quota], source: str) -> tuple[Quota, ...]:
    """The quotas that a source has; all of them count."""
    return tuple(each for each in quotas if any(fnmatchcase(source, pattern) for pattern in each.sources))


def join(connection: Connection, quotas: Sequence[Quota], source: str, run_pk: int, *, now: float) -> None:
    """Give a run whose job was just queued its turn, in the same transaction. Without a quota for its source nothing is done."""
    if not of_source(quotas, source):
        return
    _one_at_a_time(connection)
    connection.execute(quota_turn.insert().values(run_pk=run_pk, source=source, due_at=_NOT_YET))
    _settle(connection, quotas, source, now)


def settle(connection: Connection, quotas: Sequence[Quota], *, now: float) -> int:
    """Set the turns of all runs that wait for one anew: quotas may have changed, and runs may have been canceled. Returns the sources."""
    waiting = select(quota_turn.c.source).where(quota_turn.c.due_at > now).distinct()
    if not connection.scalars(waiting.limit(1)).all():
        return 0
    _one_at_a_time(connection)
    sources = connection.scalars(waiting).all()
    for source in sources:
        _settle(connection, quotas, source, now)
    return len(sources)


def waiting_for_turn(connection: Connection, run_pks: Sequence[int], *, now: float) -> list[int]:
    """Those of some runs that wait for their source's turn."""
    rows = connection.execute(_turns().where(quota_turn.c.run_pk.in_(run_pks)).order_by(quota_turn.c.run_pk))
    return [row.run_pk for row in rows if _waits(row, now)]


def standings(connection: Connection, quotas: Sequence[Quota], *, now: float) -> list[Standing]:
    """Tell how each source stands that has a quota and has used it lately, or whose runs wait."""
    longest = max((each.per for each in quotas), default=0.0)
    query = _turns().where(quota_turn.c.due_at > now - longest).order_by(quota_turn.c.source, quota_turn.c.due_at)
    found: dict[str, list[Any]] = {}
    for row in connection.execute(query):
        found.setdefault(row.source, []).append(row)
    return [_standing(source, of_source(quotas, source), rows, now) for source, rows in found.items()]


def _standing(source: str, quotas: Sequence[Quota], rows: Sequence[Any], now: float) -> Standing:
    waiting = [row.due_at for row in rows if _waits(row, now)]
    taken = [min(row.due_at, now) for row in rows if _counts(row) and not _waits(row, now)]
    used = tuple(sum(at > now - each.per for at in taken) for each in quotas)
    return Standing(source, tuple(str(each) for each in quotas), used, len(waiting), min(waiting, default=None))


def _turns() -> Any:
    columns = (
        quota_turn.c.source, quota_turn.c.run_pk, quota_turn.c.due_at, run.c.created_at, run.c.started_at, run.c.reason,
        run.c.state.label("run_state"), job.c.pk.label("job_pk"), job.c.priority, job.c.state.label("job_state"),
    )  # fmt: skip
    return select(*columns).join(run, run.c.pk == quota_turn.c.run_pk).join(job, job.c.pk == run.c.job_pk)


def _waits(row: Any, now: float) -> bool:
    return bool(row.due_at > now and row.run_state == "SCHEDULED" and row.job_state == "SCHEDULED")


def _counts(row: Any) -> bool:
    """One that was canceled before it began has used nothing."""
    return bool(row.run_state != "CANCELED" or row.started_at is not None)


def _settle(connection: Connection, quotas: Sequence[Quota], source: str, now: float) -> None:
    own = of_source(quotas, source)
    since = now - max((each.per for each in own), default=0.0)
    rows = _turns().where(quota_turn.c.source == source, quota_turn.c.due_at > since)
    # A run or job that another transaction holds is about to change: it keeps its turn, and nobody waits for anybody in a circle.
    free = connection.execute(rows.where(quota_turn.c.due_at > now).with_for_update(of=(run, job), skip_locked=True)).all()
    waiting = [row for row in free if _waits(row, now)]
    moved = {row.run_pk for row in waiting}
    taken = sorted(min(row.due_at, now) for row in connection.execute(rows) if row.run_pk not in moved and _counts(row))
    for row in sorted(waiting, key=lambda row: (row.created_at - AGEING * row.priority, row.run_pk)):
        due, why = now, None
        for each in own:
            if len(taken) >= each.runs and taken[-each.runs] + each.per > due:
                due, why = taken[-each.runs] + each.per, f"waits for the quota of {source}: {each}"
        insort(taken, due)
        if (due, why) != (row.due_at, row.reason):
            _move(connection, row, due, why)


def _move(connection: Connection, row: Any, due: float, why: str | None) -> None:
    """Set the turn of a run; one that waits stands in the queue as if it came when it is due, so that its wait outweighs no other's."""
    connection.execute(update(quota_turn).where(quota_turn.c.run_pk == row.run_pk).values(due_at=due))
    if why is None and row.due_at == _NOT_YET:
        return
    connection.execute(update(job).where(job.c.pk == row.job_pk).values(not_before=due, rank=due - AGEING * row.priority))
    connection.execute(update(run).where(run.c.pk == row.run_pk).values(reason=why))


def _one_at_a_time(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # elsewhere one transaction writes at a time
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext("quota turns"))))


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"
