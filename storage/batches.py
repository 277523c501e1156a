"""Which runs that wait may be carried out together with one that was claimed."""

from __future__ import annotations

from sqlalchemy import Connection, select

from storage.jobs import ClaimedJob, JobState
from storage.schema import job, run
from storage.statements import is_one_of

LOOK = 64  # jobs at the head of the queue that are looked at


def alike(connection: Connection, claimed: ClaimedJob, most: int, *, now: float) -> list[int]:
    """The due jobs of runs of the same release as a claimed job's, in the queue's order: at most ``most``.

    They come before runs of other releases that stand between them, but before none of greater priority.
    """
    release = select(run.c.release_digest).where(run.c.pk == int(claimed.payload["run_pk"])).scalar_subquery()
    due = (is_one_of(job.c.state, JobState.SCHEDULED.value), job.c.queue == claimed.queue, job.c.not_before <= now)
    waiting = (
        select(job.c.pk, job.c.priority, (run.c.release_digest == release).label("same"))
        .join_from(job, run, run.c.job_pk == job.c.pk)
        .where(*due)
        .order_by(job.c.rank, job.c.pk)
        .limit(LOOK)
    )
    found: list[int] = []
    passed: int | None = None  # the greatest priority of those of other releases so far
    for pk, priority, same in connection.execute(waiting):
        if not same:
            passed = priority if passed is None else max(passed, priority)
        elif passed is None or priority >= passed:
            found.append(pk)
            if len(found) == most:
                break
    return found
