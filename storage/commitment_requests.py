"""Storage commitment asked by us (PS3.4 annex J): a delivery to a peer that commits is final when the peer has committed its instances.

Of an accepted instance ``commitment`` is REQUESTED, COMMITTED or FAILED (with its reason); a failed one is sent again, a few times.
A report may come late, twice, or for a transaction that was given up: what it says of an instance holds whenever it comes, except that
a failure told of an earlier transaction does not undo what was asked since.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, and_, insert, select, update

from storage import audit
from storage.jobs import JobQueue
from storage.records import CommitmentRequestRecord, DeliveryInstanceRecord, from_row
from storage.schema import commitment_request, delivery, delivery_instance

_BATCH = 500


def record_request(
    connection: Connection, transaction_uid: str, delivery_pk: int, peer: str, sop_uids: Sequence[str], *, due_at: float, now: float
) -> None:
    """Record that commitment of some of a delivery's instances is asked for; before the N-ACTION is sent, so that no report is unknown."""
    values = {"transaction_uid": transaction_uid, "delivery_pk": delivery_pk, "peer": peer, "instances": len(sop_uids)}
    connection.execute(insert(commitment_request).values(**values, requested_at=now, due_at=due_at))
    for some in _batches(sop_uids):
        asked = and_(delivery_instance.c.delivery_pk == delivery_pk, delivery_instance.c.sop_uid.in_(some))
        connection.execute(update(delivery_instance).where(asked).values(commitment="REQUESTED"))


def requests_of(connection: Connection, delivery_pk: int) -> list[CommitmentRequestRecord]:
    """The requests of a delivery, oldest first."""
    query = select(commitment_request).where(commitment_request.c.delivery_pk == delivery_pk).order_by(commitment_request.c.pk)
    return [from_row(CommitmentRequestRecord, row) for row in connection.execute(query)]


def state_of(connection: Connection, transaction_uid: str) -> str:
    """REQUESTED, COMMITTED, FAILED or EXPIRED."""
    query = select(commitment_request.c.state).where(commitment_request.c.transaction_uid == transaction_uid)
    return str(connection.execute(query).scalar_one())


def hold(connection: Connection, transaction_uid: str) -> tuple[str, float]:
    """The state of a request, which stays as it is to the end of the caller's transaction, and when it is due."""
    query = select(commitment_request.c.state, commitment_request.c.due_at)
    row = connection.execute(query.where(commitment_request.c.transaction_uid == transaction_uid).with_for_update()).one()
    return str(row.state), float(row.due_at)


def expire(connection: Connection, transaction_uid: str, detail: str) -> None:
    """Give up a request; a report of it that comes after all still counts."""
    waiting = and_(commitment_request.c.transaction_uid == transaction_uid, commitment_request.c.state == "REQUESTED")
    connection.execute(update(commitment_request).where(waiting).values(state="EXPIRED", detail=detail))


def record_report(
    connection: Connection,
    peer: str,
    transaction_uid: str,
    committed: Collection[str],
    failed: Mapping[str, int],
    queue: JobQueue,
    *,
    now: float,
) -> bool:
    """Keep what a peer reported, and make the delivery's job due; False where we asked that peer for no such transaction.

    Instances that were not asked for are passed over; those of which nothing is said are asked for again when the request is due.
    """
    known = and_(commitment_request.c.transaction_uid == transaction_uid, commitment_request.c.peer == peer)
    request = connection.execute(select(commitment_request).where(known).with_for_update()).one_or_none()
    if request is None:
        return False
    if request.reported_at is not None:
        return True
    pk = int(request.delivery_pk)
    asked = _asked(connection, pk)
    good = sorted(uid for uid in committed if uid in asked and uid not in failed)
    bad = {uid: reason for uid, reason in failed.items() if asked.get(uid) == "REQUESTED"} if request.state == "REQUESTED" else {}
    for some in _batches(good):
        these = and_(delivery_instance.c.delivery_pk == pk, delivery_instance.c.sop_uid.in_(some))
        connection.execute(update(delivery_instance).where(these).values(commitment="COMMITTED", failure_reason=None, committed_at=now))
    for uid, reason in bad.items():
        this = and_(delivery_instance.c.delivery_pk == pk, delivery_instance.c.sop_uid == uid)
        connection.execute(update(delivery_instance).where(this).values(commitment="FAILED", failure_reason=reason))
    values = {"state": "FAILED" if failed else "COMMITTED", "reported_at": now, "detail": f"{len(good)} committed, {len(failed)} failed"}
    connection.execute(update(commitment_request).where(commitment_request.c.pk == request.pk).values(**values))
    sent = connection.execute(select(delivery.c.study_uid, delivery.c.job_pk).where(delivery.c.pk == pk)).one()
    detail = {"delivery": pk, "transaction_uid": transaction_uid, "committed": len(good), "failed": len(failed)}
    audit.record(connection, "commitment.reported", actor=peer, study_uid=sent.study_uid, detail=detail, at=now)
    if sent.job_pk is not None:
        queue.hasten(connection, sent.job_pk)
    return True


def _asked(connection: Connection, delivery_pk: int) -> dict[str, str | None]:
    query = select(delivery_instance.c.sop_uid, delivery_instance.c.commitment).where(delivery_instance.c.delivery_pk == delivery_pk)
    return {row.sop_uid: row.commitment for row in connection.execute(query)}


def send_again(connection: Connection, failed: Sequence[DeliveryInstanceRecord]) -> None:
    """Put instances that were not committed back to be sent; the reason stays with them until they are."""
    for each in failed:
        this = and_(delivery_instance.c.delivery_pk == each.delivery_pk, delivery_instance.c.sop_uid == each.sop_uid)
        values = {"state": "SCHEDULED", "commitment": None, "commit_attempts": each.commit_attempts + 1}
        connection.execute(update(delivery_instance).where(this, delivery_instance.c.commitment == "FAILED").values(**values))


def _batches(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + _BATCH] for start in range(0, len(values), _BATCH)]
