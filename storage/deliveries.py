"""Deliveries: which instances go to which peer, and what the peer answered for each. One queue per peer, ``deliver:<peer>``.

Of a run's result each form (SEG, SR, SC, ...) is a delivery of its own: what becomes of one is not what becomes of another.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, exists, func, insert, select, update

from storage.errors import NotFound
from storage.jobs import JobQueue, JobSpec, JobState
from storage.records import DeliveryInstanceRecord, DeliveryRecord, from_row
from storage.schema import commitment_request, delivery, delivery_instance, job
from storage.statements import insert_new, is_one_of

# Of an instance: SCHEDULED (still to be sent), ACCEPTED, REFUSED (for good), NOT_OFFERED (the peer's profile takes no such object).
ANSWERED = frozenset({"ACCEPTED", "REFUSED", "NOT_OFFERED"})


def queue_of(peer: str) -> str:
    """The name of a peer's queue."""
    return f"deliver:{peer}"


def create_delivery(
    connection: Connection,
    run_pk: int | None,
    study_uid: str,
    peer: str,
    sop_uids: Sequence[str],
    queue: JobQueue,
    *,
    form: str = "",
    priority: int = 0,
    max_attempts: int = 20,
    now: float | None = None,
    more: Mapping[str, Any] | None = None,
) -> int | None:
    """Record a delivery and enqueue its job (payload ``delivery_pk`` and ``more``), in the caller's transaction.

    Returns
    -------
    int or None
        The delivery's key; None when this run already has a delivery of this form to this peer.
    """
    at = time.time() if now is None else now
    values = {"run_pk": run_pk, "study_uid": study_uid, "peer": peer, "form": form, "created_at": at}
    pk: int | None = connection.scalar(insert_new(connection, delivery).values(**values).returning(delivery.c.pk))
    if pk is None:
        return None
    if sop_uids:
        connection.execute(insert(delivery_instance), [{"delivery_pk": pk, "sop_uid": uid} for uid in dict.fromkeys(sop_uids)])
    work = JobSpec(
        kind="deliver", queue=queue_of(peer), dedupe_key=f"deliver:{pk}", study_uid=study_uid,
        payload={"delivery_pk": pk, **({"form": form} if form else {}), **(more or {})}, priority=priority, max_attempts=max_attempts,
    )  # fmt: skip
    connection.execute(update(delivery).where(delivery.c.pk == pk).values(job_pk=queue.enqueue(connection, work)))
    return pk


def get_delivery(connection: Connection, pk: int) -> DeliveryRecord:
    """Read a delivery; NotFound where there is none."""
    row = connection.execute(select(delivery).where(delivery.c.pk == pk)).one_or_none()
    if row is None:
        raise NotFound(f"no delivery {pk}")
    return from_row(DeliveryRecord, row)


def instances_of(connection: Connection, pk: int, *, pending: bool = False) -> list[DeliveryInstanceRecord]:
    """Read a delivery's instances; with ``pending`` only those without a final answer."""
    query = select(delivery_instance).where(delivery_instance.c.delivery_pk == pk).order_by(delivery_instance.c.sop_uid)
    if pending:
        query = query.where(delivery_instance.c.state == "SCHEDULED")
    return [from_row(DeliveryInstanceRecord, row) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class InstanceAnswer:
    """A peer's answer for one instance. ``state`` SCHEDULED means: to be sent again."""

    sop_uid: str
    state: str
    status: int | None = None
    comment: str | None = None
    at: float | None = None


_ANSWER = (
    update(delivery_instance)
    .where(
        delivery_instance.c.delivery_pk == bindparam("of_delivery"),
        delivery_instance.c.sop_uid == bindparam("of_instance"),
        delivery_instance.c.state != "ACCEPTED",
    )
    .values(
        state=bindparam("now_state"),
        status=bindparam("now_status"),
        comment=bindparam("now_comment"),
        answered_at=bindparam("now_at"),
        attempts=delivery_instance.c.attempts + 1,
    )
)


def record_answers(connection: Connection, delivery_pk: int, answers: Iterable[InstanceAnswer]) -> None:
    """Keep a peer's answers. An instance that was accepted stays accepted."""
    rows = [
        {
            "of_delivery": delivery_pk,
            "of_instance": each.sop_uid,
            "now_state": each.state,
            "now_status": each.status,
            "now_comment": each.comment,
            "now_at": time.time() if each.at is None else each.at,
        }
        for each in answers
    ]
    if rows:
        connection.execute(_ANSWER, rows)


@dataclass(frozen=True, slots=True)
class Companion:
    """Another form of the same result on its way to the same peer. ``fresh``: its job is due, and was never tried."""

    pk: int
    form: str
    state: str
    fresh: bool


def companions_of(connection: Connection, pk: int, *, now: float) -> list[Companion]:
    """The other deliveries of the run of a delivery to its peer."""
    mine = get_delivery(connection, pk)
    if mine.run_pk is None:
        return []
    fresh = and_(job.c.state == JobState.SCHEDULED.value, job.c.attempts == 0, job.c.not_before <= now)
    query = select(delivery.c.pk, delivery.c.form, delivery.c.state, func.coalesce(fresh, False))
    others = delivery.c.run_pk == mine.run_pk, delivery.c.peer == mine.peer, delivery.c.pk != pk
    query = query.outerjoin(job, job.c.pk == delivery.c.job_pk).where(*others)
    return [Companion(row[0], row[1], row[2], bool(row[3])) for row in connection.execute(query.order_by(delivery.c.pk))]


def finish(connection: Connection, pk: int, state: str, detail: str = "", *, now: float | None = None) -> None:
    """End a delivery.

    DELIVERED: every instance was accepted. NOT_TAKEN: the peer takes no such form, by its profile or for good, and needs none: what else
    it is sent suffices. Else FAILED or CANCELED.
    """
    at = time.time() if now is None else now
    connection.execute(update(delivery).where(delivery.c.pk == pk).values(state=state, detail=detail, finished_at=at))


def reopen_delivery(connection: Connection, pk: int) -> None:
    """Put an ended delivery back to be tried again (its job was requeued); what was refused is offered anew, its commitment asked anew."""
    connection.execute(update(delivery).where(delivery.c.pk == pk).values(state="SCHEDULED", detail=None, finished_at=None))
    refused = update(delivery_instance).where(delivery_instance.c.delivery_pk == pk, delivery_instance.c.state == "REFUSED")
    connection.execute(refused.values(state="SCHEDULED"))
    failed = update(delivery_instance).where(delivery_instance.c.delivery_pk == pk, delivery_instance.c.commitment == "FAILED")
    connection.execute(failed.values(state="SCHEDULED", commitment=None, commit_attempts=0))
    asked = and_(commitment_request.c.delivery_pk == pk, commitment_request.c.state == "REQUESTED")
    connection.execute(update(commitment_request).where(asked).values(state="EXPIRED", detail="the delivery was retried"))


def settle(connection: Connection, *, now: float | None = None) -> int:
    """End the deliveries whose job has ended without them (its attempts are spent, or a person canceled it)."""
    at = time.time() if now is None else now
    settled = 0
    for state in ("FAILED", "CANCELED"):
        ended = exists().where(job.c.pk == delivery.c.job_pk, job.c.state == state)
        error = select(job.c.error).where(job.c.pk == delivery.c.job_pk).scalar_subquery()
        change = update(delivery).where(is_one_of(delivery.c.state, "SCHEDULED"), ended).values(state=state, detail=error, finished_at=at)
        settled += connection.execute(change).rowcount
    return settled
