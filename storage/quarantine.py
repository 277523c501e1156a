"""Quarantine: instances that were received and kept but not taken into a study, each waiting for a person's decision.

A *conflict* bears the UID of an instance that is here with other content; a *malformed* one cannot be indexed. Accepting a conflict makes a
new revision of the instance and keeps the old bytes; discarding removes the file. Both need a reason and leave an audit row.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Connection, select, update

from storage import audit, quarantine_file
from storage.difference import Difference, compare
from storage.errors import Damaged, NotFound, QuarantineConflict
from storage.filepart import FilePart
from storage.members import MemberInfo
from storage.quarantine_file import Why
from storage.schema import quarantine
from storage.statements import insert_new

if TYPE_CHECKING:
    from storage.archive import Archive

log = structlog.get_logger()

BATCH = 500
PARTIAL_SECONDS = 24 * 3600.0
HELD, ACCEPTED, DISCARDED = "HELD", "ACCEPTED", "DISCARDED"
CONFLICT, MALFORMED = "conflict", "malformed"


@dataclass(frozen=True)
class Quarantined:
    """One quarantined instance, as its row says."""

    pk: int
    kind: str
    state: str
    sop_uid: str
    study_uid: str
    digest: str
    existing_digest: str | None
    reason: str
    name: str
    calling_ae: str
    called_ae: str
    received_at: float
    resolved_at: float | None = None
    resolved_by: str | None = None
    resolution: str | None = None


def row_values(info: MemberInfo, why: Why, name: str) -> dict[str, Any]:
    """The columns of a new HELD row."""
    return {
        "kind": why.kind,
        "state": HELD,
        "sop_uid": info.sop_uid,
        "study_uid": info.study_uid,
        "digest": info.digest,
        "existing_digest": why.existing_digest,
        "reason": why.reason,
        "name": name,
        "calling_ae": info.calling_ae,
        "called_ae": info.called_ae,
        "received_at": info.received_at,
    }


def record(connection: Connection, info: MemberInfo, why: Why, name: str) -> None:
    """Add the row of a quarantine file, in the caller's transaction; one that was discarded earlier is held again."""
    values = row_values(info, why, name)
    again = quarantine.update().where(quarantine.c.sop_uid == info.sop_uid, quarantine.c.digest == info.digest)
    if connection.execute(insert_new(connection, quarantine).values(values).returning(quarantine.c.pk)).first() is None:
        connection.execute(again.values(state=HELD, reason=why.reason, received_at=info.received_at, resolved_at=None, resolution=None))
    detail = {"kind": why.kind, "reason": why.reason, "digest": info.digest, "called_ae": info.called_ae}
    study_uid, sop_uid = info.study_uid or None, info.sop_uid or None
    actor = info.calling_ae or info.origin
    audit.record(connection, "instance.quarantined", actor=actor, study_uid=study_uid, sop_uid=sop_uid, detail=detail)


def list_held(archive: Archive, *, state: str | None = HELD, study_uid: str | None = None, limit: int = 1000) -> list[Quarantined]:
    """Quarantined instances, the newest first; `state` None gives the resolved ones too."""
    query = select(quarantine).order_by(quarantine.c.received_at.desc(), quarantine.c.pk.desc()).limit(limit)
    if state is not None:
        query = query.where(quarantine.c.state == state)
    if study_uid is not None:
        query = query.where(quarantine.c.study_uid == study_uid)
    with archive.database.read() as connection:
        return [_quarantined(row) for row in connection.execute(query).mappings()]


def get(archive: Archive, pk: int) -> Quarantined:
    """One quarantined instance by its number; raises NotFound."""
    with archive.database.read() as connection:
        row = connection.execute(select(quarantine).where(quarantine.c.pk == pk)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"no quarantine entry {pk}")
    return _quarantined(row)


def difference(archive: Archive, pk: int) -> list[Difference]:
    """What a held instance has otherwise than the one in the archive, attribute by attribute.

    Raises
    ------
    NotFound
        No such entry, or the archive holds no instance of that UID.
    """
    entry = get(archive, pk)
    existing = archive.open_instance(entry.sop_uid)
    with (archive.root / entry.name).open("rb") as file:
        member, _, _ = quarantine_file.read(archive.root / entry.name)
        return compare(io.BytesIO(existing.read()), io.BufferedReader(FilePart(file, member.offset, member.length)))


def accept(archive: Archive, pk: int, *, who: str, reason: str) -> Quarantined:
    """Take a held instance into its study; see `storage.acceptance`."""
    from storage import acceptance

    return acceptance.accept(archive, pk, who=who, reason=reason)


def discard(archive: Archive, pk: int, *, who: str, reason: str) -> Quarantined:
    """Decide against a held instance and remove its bytes.

    Raises
    ------
    NotFound, QuarantineConflict
        No such entry, or it was resolved before.
    """
    with archive.database.begin() as connection:
        resolve(connection, pk, DISCARDED, who, reason, archive.clock())
    entry = get(archive, pk)
    remove_resolved(archive, [entry.name])
    return entry


def resolve(connection: Connection, pk: int, state: str, who: str, reason: str, now: float) -> None:
    """Write a decision and its audit row in the caller's transaction; raises where there is nothing to decide."""
    if not reason.strip():
        raise QuarantineConflict("a decision on a quarantined instance needs a reason")
    values = {"state": state, "resolved_at": now, "resolved_by": who, "resolution": reason}
    statement = update(quarantine).where(quarantine.c.pk == pk, quarantine.c.state == HELD).values(values)
    row = connection.execute(statement.returning(quarantine.c.sop_uid, quarantine.c.study_uid, quarantine.c.digest)).one_or_none()
    if row is None:
        raise QuarantineConflict(f"quarantine entry {pk} does not exist or was resolved before")
    detail = {"digest": row.digest, "reason": reason, "entry": pk}
    audit.record(connection, f"quarantine.{state.lower()}", actor=who, study_uid=row.study_uid, sop_uid=row.sop_uid, detail=detail)


def remove_resolved(archive: Archive, names: Sequence[str] | None = None) -> int:
    """Remove files whose entries are all resolved; return how many. Without `names`, after a crash: look at every file there is.

    A kill may have come between the decision and the removal, or between a new file and its row: such a file is held.
    """
    if names is None:
        names = [f"{quarantine_file.FOLDER}/{path.name}" for path in (archive.root / quarantine_file.FOLDER).glob("*.tar")]
        _hold_unknown(archive, names)
        _remove_partial(archive)
    removed = 0
    for start in range(0, len(names), BATCH):
        states = _states(archive, names[start : start + BATCH])
        held = {name for name, state in states if state == HELD}
        for name in {name for name, _ in states} - held:
            if (archive.root / name).exists():
                archive.disk.unlink(archive.root / name)
                removed += 1
    return removed


def _remove_partial(archive: Archive) -> None:
    for path in quarantine_file.partial_files(archive.root):
        with suppress(FileNotFoundError):
            if archive.clock() - path.stat().st_mtime > PARTIAL_SECONDS:  # another process may be writing a younger one
                archive.disk.unlink(path)


def _states(archive: Archive, names: Sequence[str]) -> list[tuple[str, str]]:
    query = select(quarantine.c.name, quarantine.c.state).where(quarantine.c.name.in_(names))
    with archive.database.read() as connection:
        return [(name, state) for name, state in connection.execute(query)]


def _hold_unknown(archive: Archive, names: Sequence[str]) -> None:
    for start in range(0, len(names), BATCH):
        some = names[start : start + BATCH]
        for name in set(some) - {name for name, _ in _states(archive, some)}:
            with suppress(Damaged, FileNotFoundError):  # verification reports it
                _, info, why = quarantine_file.read(archive.root / name)
                with archive.database.begin() as connection:
                    record(connection, info, why, name)


def _quarantined(row: Any) -> Quarantined:
    return Quarantined(**{field.name: row[field.name] for field in fields(Quarantined)})
