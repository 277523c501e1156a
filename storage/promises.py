"""What binds us to keep a study: a person's hold, and our word to a peer (storage commitment). Both must outlive the index.

Each is one synced line beside the segments, written before its row commits; a hold's release is written after. So a crash between the
two, and an index rebuilt or restored later, keep rather too much than too little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, delete, insert, select

from storage import appended, audit
from storage.errors import NotFound
from storage.schema import audit as audit_rows
from storage.schema import retention_hold, study

if TYPE_CHECKING:
    from storage.archive import Archive

PROMISES = "promises.jsonl"
COMMITTED = "storage.committed"  # the audit's event: we said that we keep it


@dataclass(frozen=True)
class Promise:
    """One line. ``who`` is a person or the peer that was told, ``reason`` theirs or the Transaction UID."""

    kind: Literal["hold", "release", "commitment"]
    study_uid: str
    who: str
    reason: str
    at: float
    instances: int = 0


def hold(archive: Archive, study_uid: str, *, who: str, reason: str) -> None:
    """Keep a study from retention until it is released; NotFound where there is none."""
    now = archive.clock()
    with archive.database.begin() as connection:
        if connection.scalar(select(study.c.pk).where(study.c.study_uid == study_uid).with_for_update()) is None:
            raise NotFound(f"no study {study_uid}")
        promise = Promise("hold", study_uid, who, reason, now)
        appended.append(archive.disk, archive.root, PROMISES, [asdict(promise)])
        _hold(connection, promise)
        audit.record(connection, "retention.held", actor=who, study_uid=study_uid, detail={"reason": reason}, at=now)


def release(archive: Archive, study_uid: str, *, who: str, reason: str) -> None:
    """Let a held study go by its rule again; NotFound where nobody holds it."""
    now = archive.clock()
    with archive.database.begin() as connection:
        if connection.execute(delete(retention_hold).where(retention_hold.c.study_uid == study_uid)).rowcount != 1:
            raise NotFound(f"nobody holds study {study_uid}")
        audit.record(connection, "retention.released", actor=who, study_uid=study_uid, detail={"reason": reason}, at=now)
    appended.append(archive.disk, archive.root, PROMISES, [asdict(Promise("release", study_uid, who, reason, now))])


def commit(archive: Archive, studies: Mapping[str, int], *, peer: str, transaction_uid: str) -> None:
    """Write down, before it is said, that so many instances of these studies are kept for `peer`."""
    now = archive.clock()
    promised = [asdict(Promise("commitment", uid, peer, transaction_uid, now, number)) for uid, number in sorted(studies.items())]
    appended.append(archive.disk, archive.root, PROMISES, promised)


def restore(connection: Connection, root: Path) -> None:
    """Put into a rebuilt or restored index what its archive's promises say and it does not know; studies that are gone are passed over."""
    there = set(connection.scalars(select(study.c.study_uid)))
    promises = [promise for promise in _read(root) if promise.study_uid in there]
    for promise in {each.study_uid: each for each in promises if each.kind != "commitment"}.values():
        connection.execute(delete(retention_hold).where(retention_hold.c.study_uid == promise.study_uid))
        if promise.kind == "hold":
            _hold(connection, promise)
    told = select(audit_rows.c.study_uid, audit_rows.c.detail).where(audit_rows.c.event == COMMITTED)
    known = {(row.study_uid, row.detail.get("transaction_uid")) for row in connection.execute(told)}
    for promise in promises:
        if promise.kind == "commitment" and (promise.study_uid, promise.reason) not in known:
            record_commitment(
                connection, promise.study_uid, promise.instances, peer=promise.who, transaction_uid=promise.reason, at=promise.at
            )


def record_commitment(connection: Connection, study_uid: str, instances: int, *, peer: str, transaction_uid: str, at: float) -> None:
    """Add the audit row of a commitment, by which retention knows that we gave our word."""
    detail = {"transaction_uid": transaction_uid, "instances": instances}
    audit.record(connection, COMMITTED, actor=peer, study_uid=study_uid, detail=detail, at=at)


def _hold(connection: Connection, promise: Promise) -> None:
    connection.execute(delete(retention_hold).where(retention_hold.c.study_uid == promise.study_uid))
    row = {"study_uid": promise.study_uid, "held_by": promise.who, "reason": promise.reason, "held_at": promise.at}
    connection.execute(insert(retention_hold).values(**row))


def _read(root: Path) -> Iterable[Promise]:
    for record in appended.read(root, PROMISES):
        try:
            yield _parse(record)
        except (KeyError, TypeError, ValueError):
            continue


def _parse(record: Mapping[str, Any]) -> Promise:
    kind = record["kind"]
    if kind not in ("hold", "release", "commitment"):
        raise ValueError(kind)
    return Promise(kind, str(record["study_uid"]), str(record["who"]), str(record["reason"]), float(record["at"]), int(record["instances"]))
