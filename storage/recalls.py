"""Recalled results: what a release that must not be trusted any more has touched, and which peers hold it.

A result that was recalled is kept and marked; nothing of it is sent any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from storage import audit, deliveries, runs
from storage.errors import ReleaseConflict
from storage.jobs import JobQueue
from storage.records import ReleaseRecord, RunRecord, from_row
from storage.schema import delivery, delivery_instance, job, model_release, release_event, run

RETIRED_FOR = "recalled: "  # how the reason begins for which a recalled release was retired
SENDING = "IN_PROGRESS"  # of a delivery's job: an object may be on its way at this moment


def digests_of(connection: Connection, name: str, which: str = "") -> dict[str, str]:
    """The release digests, with versions, that runs of a model name bear; ``which`` is a version or begins a digest."""
    known = select(run.c.release_digest, run.c.bundle_version).where(run.c.bundle == name).distinct()
    rows = connection.execute(known.order_by(run.c.release_digest)).all()
    return {digest: version for digest, version in rows if not which or which == version or (len(which) >= 6 and digest.startswith(which))}


def touched(connection: Connection, digest: str) -> list[RunRecord]:
    """Every run of a release, oldest first."""
    return [from_row(RunRecord, row) for row in connection.execute(select(run).where(run.c.release_digest == digest).order_by(run.c.pk))]


def is_recalled(connection: Connection, digest: str) -> bool:
    """Whether a release was recalled: what it is to be retired for, or, of a folder's bundle, what its runs say."""
    retired = select(release_event.c.pk).join(model_release, model_release.c.pk == release_event.c.release_pk)
    retired = retired.where(model_release.c.digest == digest, release_event.c.reason.startswith(RETIRED_FOR, autoescape=True))
    runs_of = select(run.c.pk).where(run.c.release_digest == digest, run.c.recalled_at.is_not(None))
    return any(connection.scalar(query.limit(1)) is not None for query in (retired, runs_of))


def refuse_recalled(connection: Connection, release: ReleaseRecord) -> None:
    """Raise ReleaseConflict for a release that was recalled: it comes into use no more."""
    if is_recalled(connection, release.digest):
        raise ReleaseConflict(f"{release.name} {release.version} ({release.digest[:12]}) was recalled: nothing is run with it any more")


def is_recalled_run(connection: Connection, run_pk: int) -> bool:
    """Whether a run's result was recalled."""
    return connection.scalar(select(run.c.recalled_at).where(run.c.pk == run_pk)) is not None


def holders(connection: Connection, run_pk: int) -> list[str]:
    """The peers that accepted an object of a run, or are just being sent one."""
    accepted = select(delivery.c.peer).join(delivery_instance, delivery_instance.c.delivery_pk == delivery.c.pk)
    accepted = accepted.where(delivery.c.run_pk == run_pk, delivery_instance.c.state == "ACCEPTED")
    sending = select(delivery.c.peer).join(job, job.c.pk == delivery.c.job_pk).where(delivery.c.run_pk == run_pk, job.c.state == SENDING)
    return sorted(connection.scalars(accepted.union(sending)))


def mark(
    connection: Connection,
    queue: JobQueue,
    record: RunRecord,
    *,
    actor: str,
    reason: str,
    note: str | None = None,
    peers: Sequence[str] = (),
    attempts: int = 20,
    now: float,
) -> bool:
    """Recall a run, in the caller's transaction: canceled if it waits or runs, its unsent objects held back, the note sent to ``peers``.

    Parameters
    ----------
    note
        SOP Instance UID of the rejection note; none where the run made no object.

    Returns
    -------
    bool
        False when it was recalled before: nothing was done.
    """
    first = update(run).where(run.c.pk == record.pk, run.c.recalled_at.is_(None)).values(recalled_at=now, recall_reason=reason)
    if connection.execute(first).rowcount != 1:
        return False
    why = f"recalled by {actor}: {reason}"
    _stop(connection, queue, record.pk, why, now)
    made = [deliveries.create_delivery(connection, None, record.study_uid, peer, [note], queue, max_attempts=attempts, now=now)
            for peer in peers if note is not None]  # fmt: skip
    facts = {"run": record.pk, "release": record.release_digest, "reason": reason, "note": note, "peers": list(peers), "deliveries": made}
    audit.record(connection, "run.recalled", actor=actor, study_uid=record.study_uid, detail=facts, at=now)
    return True


def _stop(connection: Connection, queue: JobQueue, run_pk: int, why: str, now: float) -> None:
    """End what waits of a run: the run itself, and deliveries of its result."""
    row = connection.execute(select(run.c.state, run.c.job_pk).where(run.c.pk == run_pk).with_for_update()).one()
    if row.state in runs.WAITING:
        if row.job_pk is not None:
            queue.cancel(row.job_pk, why, running=True, connection=connection)
        runs.cancel_run(connection, run_pk, why, now=now)
    waiting = select(delivery.c.pk, delivery.c.job_pk).where(delivery.c.run_pk == run_pk, delivery.c.state == "SCHEDULED")
    for unsent in connection.execute(waiting).all():
        if unsent.job_pk is not None:
            queue.cancel(unsent.job_pk, why, running=True, connection=connection)
        deliveries.finish(connection, unsent.pk, "CANCELED", why, now=now)
