"""Storage commitment asked of us (PS3.4 annex J): transactions, recorded before they are answered, judged by the bytes, reported once.

    REQUESTED --judge--> JUDGED --report taken--> REPORTED
                            \\--attempts spent--> FAILED
    REQUESTED, JUDGED --its job failed or was canceled--> FAILED

The references of a transaction and its failures are kept in one compressed value each: they are read as a whole or not at all.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import blake3
from sqlalchemy import Connection, and_, delete, exists, func, or_, select, update

from storage import integrity, promises
from storage.errors import NotFound, StorageError
from storage.jobs import JobQueue, JobSpec
from storage.records import from_row
from storage.schema import commitment, job
from storage.statements import insert_new, is_one_of

if TYPE_CHECKING:
    from storage.archive import Archive

# Failure Reason (0008,1197), PS3.3 C.14.1.1.
PROCESSING_FAILURE = 0x0110
NO_SUCH_OBJECT_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
DUPLICATE_TRANSACTION_UID = 0x0131
RESOURCE_LIMITATION = 0x0213

OPEN = ("REQUESTED", "JUDGED")
MAX_OPEN = 1000
MAX_OPEN_INSTANCES = 2_000_000
MAX_ATTEMPTS = 1000
_BATCH = 400


class TooMuchOpen(StorageError):
    """A peer has more transactions unanswered than are kept for it."""


Reference = tuple[str, str]
"""An instance as a transaction names it: SOP Class UID, SOP Instance UID."""


@dataclass(frozen=True)
class CommitmentRecord:
    """A transaction without its references."""

    pk: int
    transaction_uid: str
    peer: str
    called_ae: str
    instances: int
    duplicate: bool
    state: str
    failed: int | None
    requested_at: float
    judged_at: float | None
    reported_at: float | None
    association_until: float
    reporter: str | None
    job_pk: int | None
    detail: str | None


@dataclass(frozen=True)
class Report:
    """What a transaction came to."""

    transaction_uid: str
    committed: Sequence[Reference]
    failed: Sequence[tuple[Reference, int]]


@dataclass(frozen=True)
class Verdict:
    """Failure reasons by place in the references, and how many instances of which study were committed."""

    failures: Mapping[int, int]
    studies: Mapping[str, int]


_COLUMNS = [commitment.c[name] for name in CommitmentRecord.__dataclass_fields__]


def queue_of(peer: str) -> str:
    """The name of the queue of a peer's transactions."""
    return f"commit:{peer}"


class Request:
    """A request on its way into the index: packed before any transaction is open."""

    def __init__(self, peer: str, called_ae: str, transaction_uid: str, references: Iterable[Reference]) -> None:
        self.peer = peer
        self.called_ae = called_ae
        self.transaction_uid = transaction_uid
        self.references = list(dict.fromkeys(references))
        lines = ["\t".join(each) for each in self.references]
        self.digest = str(blake3.blake3("\n".join(sorted(lines)).encode()).hexdigest())
        self.packed = _pack(lines)


def record_request(connection: Connection, request: Request, queue: JobQueue, *, association_until: float, now: float) -> int:
    """Record a transaction and its job, in the caller's transaction; return its key.

    The same request again is judged and reported again. Another one under the same Transaction UID is recorded as a duplicate.

    Raises
    ------
    TooMuchOpen
        The peer has too many unanswered ones.
    """
    same = (commitment.c.peer == request.peer, commitment.c.transaction_uid == request.transaction_uid)
    known = connection.execute(select(commitment.c.pk, commitment.c.state, commitment.c.request_digest).where(*same)).all()
    again = next((row for row in known if row.request_digest == request.digest), None)
    if again is None or again.state not in OPEN:
        _refuse_too_much(connection, request)
    if again is not None:
        pk = int(again.pk)
        values: dict[str, Any] = {"association_until": association_until}
        if again.state not in OPEN:
            values |= {"state": "REQUESTED", "requested_at": now, "reported_at": None, "reporter": None, "reporter_until": None}
        connection.execute(update(commitment).where(commitment.c.pk == pk).values(**values))
    else:
        values = {
            "transaction_uid": request.transaction_uid, "peer": request.peer, "request_digest": request.digest,
            "called_ae": request.called_ae, "references": request.packed, "instances": len(request.references),
            "duplicate": bool(known), "requested_at": now, "association_until": association_until,
        }  # fmt: skip
        pk = int(connection.execute(insert_new(connection, commitment).values(**values).returning(commitment.c.pk)).scalar_one())
    work = JobSpec(
        kind="commit", queue=queue_of(request.peer), dedupe_key=f"commit:{pk}", payload={"commitment_pk": pk}, max_attempts=MAX_ATTEMPTS
    )
    job_pk = queue.enqueue(connection, work)
    if job_pk is not None:
        connection.execute(update(commitment).where(commitment.c.pk == pk).values(job_pk=job_pk))
    return pk


def _refuse_too_much(connection: Connection, request: Request) -> None:
    unanswered = (is_one_of(commitment.c.state, *OPEN), commitment.c.peer == request.peer)
    totals = select(func.count(), func.coalesce(func.sum(commitment.c.instances), 0)).where(*unanswered)
    number, instances = connection.execute(totals).one()
    if number >= MAX_OPEN or instances + len(request.references) > MAX_OPEN_INSTANCES:
        raise TooMuchOpen(f"{number} storage commitment transactions of this peer are unanswered")


def get(connection: Connection, pk: int) -> CommitmentRecord:
    """Read a transaction; NotFound where there is none."""
    row = connection.execute(select(*_COLUMNS).where(commitment.c.pk == pk)).one_or_none()
    if row is None:
        raise NotFound(f"no storage commitment transaction {pk}")
    return from_row(CommitmentRecord, row)


def references_of(connection: Connection, pk: int) -> list[Reference]:
    """The instances of a transaction, in the order in which they were named."""
    packed = connection.scalar(select(commitment.c.references).where(commitment.c.pk == pk))
    pairs = (line.split("\t") for line in _lines(packed))
    return [(sop_class_uid, sop_uid) for sop_class_uid, sop_uid in pairs]


def judge(archive: Archive, references: Sequence[Reference], *, pause: Callable[[], None] = lambda: None) -> Verdict:
    """Read every instance back and compare it with its digest; ``pause`` is called between some hundred of them and may raise."""
    failures: dict[int, int] = {}
    studies: dict[str, int] = {}
    for start in range(0, len(references), _BATCH):
        pause()
        some = references[start : start + _BATCH]
        checked = integrity.check_instances(archive, [sop_uid for _, sop_uid in some])
        for number, (sop_class_uid, sop_uid) in enumerate(some, start):
            found = checked.get(sop_uid)
            reason = _reason(sop_class_uid, found)
            if reason:
                failures[number] = reason
            elif found is not None:
                studies[found.study_uid] = studies.get(found.study_uid, 0) + 1
    return Verdict(failures, studies)


def _reason(sop_class_uid: str, found: integrity.Checked | None) -> int:
    if found is None:
        return NO_SUCH_OBJECT_INSTANCE
    if found.sop_class_uid != sop_class_uid:
        return CLASS_INSTANCE_CONFLICT
    return PROCESSING_FAILURE if found.reason is not None else 0


def record_verdict(connection: Connection, record: CommitmentRecord, verdict: Verdict, *, now: float) -> None:
    """Keep what a transaction came to, with an audit row for each study of which something was committed.

    `promises.commit` goes before.
    """
    packed = _pack(f"{number}\t{reason}" for number, reason in sorted(verdict.failures.items()))
    values = {"state": "JUDGED", "failures": packed, "failed": len(verdict.failures), "judged_at": now}
    connection.execute(update(commitment).where(commitment.c.pk == record.pk).values(**values))
    for study_uid, number in sorted(verdict.studies.items()):
        promises.record_commitment(connection, study_uid, number, peer=record.peer, transaction_uid=record.transaction_uid, at=now)


def report_of(connection: Connection, pk: int) -> Report:
    """What is to be reported of a judged transaction."""
    row = connection.execute(select(commitment.c.transaction_uid, commitment.c.failures).where(commitment.c.pk == pk)).one()
    failures = {int(number): int(reason) for number, reason in (line.split("\t") for line in _lines(row.failures))}
    references = references_of(connection, pk)
    committed = [each for number, each in enumerate(references) if number not in failures]
    return Report(row.transaction_uid, committed, [(references[number], reason) for number, reason in failures.items()])


# --- one reporter at a time


def claim_report(connection: Connection, pk: int, who: str, *, until: float, now: float) -> bool:
    """Become the one that reports a judged transaction; False where it is not judged, reported already or in other hands."""
    free = or_(commitment.c.reporter.is_(None), commitment.c.reporter_until < now)
    mine = and_(commitment.c.pk == pk, commitment.c.state == "JUDGED", free)
    return connection.execute(update(commitment).where(mine).values(reporter=who, reporter_until=until)).rowcount == 1


def give_back(connection: Connection, pk: int, who: str, detail: str) -> None:
    """Let another report, the peer not having taken this one."""
    mine = and_(commitment.c.pk == pk, commitment.c.reporter == who)
    connection.execute(update(commitment).where(mine).values(reporter=None, reporter_until=None, detail=detail))


def leave_association(connection: Connection, pks: Sequence[int], queue: JobQueue) -> set[str]:
    """The association that asked is closed: whoever carries out the jobs may report at once, on one of its own. Returns whose they are."""
    change = update(commitment).where(commitment.c.pk.in_(list(pks)), is_one_of(commitment.c.state, *OPEN))
    left = connection.execute(change.values(association_until=0.0).returning(commitment.c.job_pk, commitment.c.peer)).all()
    for row in left:
        if row.job_pk is not None:
            queue.hasten(connection, row.job_pk)
    return {row.peer for row in left}


def record_reported(connection: Connection, pk: int, who: str, detail: str, *, now: float) -> bool:
    """The peer has taken the report; False where somebody else is the reporter by now (it was sent twice, which does no harm)."""
    mine = and_(commitment.c.pk == pk, commitment.c.state == "JUDGED", commitment.c.reporter == who)
    values = {"state": "REPORTED", "reported_at": now, "reporter": None, "reporter_until": None, "detail": detail}
    return connection.execute(update(commitment).where(mine).values(**values)).rowcount == 1


def fail(connection: Connection, pk: int, detail: str) -> None:
    """End a transaction whose report nobody takes; the same request again, or its job retried, revives it."""
    change = update(commitment).where(commitment.c.pk == pk, is_one_of(commitment.c.state, *OPEN))
    connection.execute(change.values(state="FAILED", detail=detail))


def reopen(connection: Connection, pk: int) -> None:
    """Put a failed transaction back to be judged and reported (its job was requeued)."""
    failed = and_(commitment.c.pk == pk, commitment.c.state == "FAILED")
    connection.execute(update(commitment).where(failed).values(state="REQUESTED", reporter=None, reporter_until=None, detail=None))


def settle(connection: Connection, *, now: float) -> int:
    """End the transactions whose job has ended without them (nobody serves its queue, or a person canceled it); return how many.

    One whose report is under way on the association that asked is left to it.
    """
    error = select(job.c.error).where(job.c.pk == commitment.c.job_pk).scalar_subquery()
    ended = exists().where(job.c.pk == commitment.c.job_pk, is_one_of(job.c.state, "FAILED", "CANCELED"))
    free = or_(commitment.c.reporter.is_(None), commitment.c.reporter_until < now)
    change = update(commitment).where(is_one_of(commitment.c.state, *OPEN), ended, free)
    return connection.execute(change.values(state="FAILED", detail=error)).rowcount


def forget(connection: Connection, before: float) -> int:
    """Remove transactions that ended before a time; return how many."""
    ended = and_(commitment.c.state.in_(["REPORTED", "FAILED"]), commitment.c.requested_at < before)
    return connection.execute(delete(commitment).where(ended)).rowcount


def _pack(lines: Iterable[str]) -> bytes:
    return zlib.compress("\n".join(lines).encode(), 1)


def _lines(packed: bytes | None) -> list[str]:
    return zlib.decompress(packed).decode().split("\n") if packed and packed != _NOTHING else []


_NOTHING = _pack([])
