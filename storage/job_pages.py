"""Jobs as an administrator looks at them: a page of one state, kind or queue at a time, the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from storage.records import JobRecord, from_row
from storage.schema import job
from storage.statements import is_one_of

LIVE = ("FAILED", "IN_PROGRESS", "SCHEDULED")  # each has an index, so that counting them is quick


@dataclass(frozen=True)
class JobPage:
    """Some jobs; ``older``: the number below which the next page begins, where there is one."""

    jobs: Sequence[JobRecord]
    older: int | None


def page(
    connection: Connection, *, state: str | None = None, kind: str | None = None, queue: str | None = None, before: int | None = None,
    limit: int = 50,
) -> JobPage:  # fmt: skip
    """Read a page of jobs, the newest first."""
    query = select(job).order_by(job.c.pk.desc()).limit(limit + 1)
    if state is not None:
        query = query.where(is_one_of(job.c.state, state))
    if kind is not None:
        query = query.where(job.c.kind == kind)
    if queue is not None:
        query = query.where(job.c.queue == queue)
    if before is not None:
        query = query.where(job.c.pk < before)
    found = [from_row(JobRecord, row) for row in connection.execute(query)]
    return JobPage(found[:limit], found[limit - 1].pk if len(found) > limit else None)


def counts(connection: Connection) -> dict[str, dict[str, int]]:
    """State > queue > how many jobs, for the states that somebody may have to do something about."""
    found: dict[str, dict[str, int]] = {}
    for state in LIVE:
        query = select(job.c.queue, func.count().label("number")).where(is_one_of(job.c.state, state)).group_by(job.c.queue)
        found[state] = {row.queue: row.number for row in connection.execute(query.order_by(job.c.queue))}
    return found
