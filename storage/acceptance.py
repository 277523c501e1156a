"""Accepting a quarantined instance: its bytes become a new revision of the instance, the old ones stay where they are.

The bytes come first, synced, then one transaction moves the instance to them and decides the entry; then the quarantine file goes. A kill
before the transaction leaves the entry held, and accepting again does it anew.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, insert, select, update

from storage import quarantine, quarantine_file
from storage.columns import ReadMember, read_columns
from storage.errors import CannotUnderstand, Damaged, IndexUnavailable, QuarantineConflict, StorageError
from storage.filepart import FilePart
from storage.members import Member, MemberInfo, layout_of
from storage.quarantine import ACCEPTED, Quarantined
from storage.schema import instance, instance_header, location, patient, segment, series, study
from storage.segments import Segment

if TYPE_CHECKING:
    from storage.archive import Archive

CHUNK = 1 << 20
MIXED_PATIENTS = "instances disagree on PatientID"


def accept(archive: Archive, pk: int, *, who: str, reason: str) -> Quarantined:
    """Take a held instance into its study, as a new revision where the archive has other content under its UID.

    The study is received again at a new revision, so what was computed from the old content is computed anew where the rules say so.

    Raises
    ------
    NotFound
        No such entry.
    QuarantineConflict
        It was resolved before, belongs to another study or series than the instance in the archive, or cannot be indexed.
    Damaged
        Its bytes are not those that were received.
    """
    entry = quarantine.get(archive, pk)
    path = archive.root / entry.name
    if entry.state != quarantine.HELD:
        raise QuarantineConflict(f"quarantine entry {pk} was resolved before")
    member, info, _ = quarantine_file.read(path)
    read = _read(path, member, info)
    existing = _existing(archive, info.sop_uid)
    if existing is None or existing.digest == info.digest:
        _store_as_new(archive, path, read)  # the same bytes as those that are here change nothing, but where those are broken
        _resolve(archive, pk, who, reason)
    elif (existing.study_uid, existing.series_uid) != (info.study_uid, info.series_uid):
        raise QuarantineConflict("it belongs to another study or series than the instance that is here; delete that one first")
    else:
        _store_revision(archive, path, read, existing, (pk, who, reason))
    quarantine.remove_resolved(archive, [entry.name])
    return quarantine.get(archive, pk)


def _resolve(archive: Archive, pk: int, who: str, reason: str) -> None:
    with archive.database.begin() as connection:
        quarantine.resolve(connection, pk, ACCEPTED, who, reason, archive.clock())


def _read(path: Path, member: Member, info: MemberInfo) -> ReadMember:
    with path.open("rb") as file:
        try:
            read = read_columns(file.fileno(), member, info)
        except CannotUnderstand as error:
            raise QuarantineConflict(f"it cannot be indexed: {error.comment}") from error
    if not read.intact:
        raise Damaged("the quarantined bytes are not those that were received")
    return read


def _existing(archive: Archive, sop_uid: str) -> Any:
    query = (
        select(instance.c.pk, instance.c.digest, instance.c.revision, instance.c.study_pk, study.c.study_uid, series.c.series_uid)
        .join(study, study.c.pk == instance.c.study_pk)
        .join(series, series.c.pk == instance.c.series_pk)
        .where(instance.c.sop_uid == sop_uid)
    )
    with archive.database.read() as connection:
        return connection.execute(query).one_or_none()


def _store_as_new(archive: Archive, path: Path, read: ReadMember) -> None:
    """The instance it collided with is gone, or it could not be understood when it came: store it like any other."""
    from storage.archive import Outcome, Source

    info = read.info
    source = Source(None, info.calling_ae, info.called_ae, info.address, "imported" if info.origin == "imported" else "received")
    session = archive.session(source)
    try:
        writer = session.begin(
            sop_class_uid=info.sop_class_uid, sop_instance_uid=info.sop_uid, transfer_syntax_uid=info.transfer_syntax_uid
        )
        with path.open("rb") as file:
            part = FilePart(file, read.member.offset + read.member.meta_length, read.member.length - read.member.meta_length)
            while data := part.read(CHUNK):
                writer.write([data])
        receipt = writer.commit()
    except StorageError as error:
        raise QuarantineConflict(f"it still cannot be stored: {error.comment}") from error
    finally:
        session.close()
    if receipt.outcome not in (Outcome.STORED, Outcome.DUPLICATE):
        raise QuarantineConflict(f"it still cannot be stored: {receipt.detail}")


def _store_revision(archive: Archive, path: Path, read: ReadMember, existing: Any, decision: tuple[int, str, str]) -> None:
    info = replace(read.info, revision=existing.revision + 1)
    held = archive.pool.borrow(info.study_uid)
    try:
        member = _append(held, path, read.member, info)
        with archive.database.begin() as connection:
            segment_pk = held.pk or _segment_row(connection, held, archive.clock())
            _revise(connection, replace(read, member=member, info=info), existing, segment_pk, archive.clock())
            quarantine.resolve(connection, decision[0], ACCEPTED, decision[1], decision[2], archive.clock())
        held.pk = segment_pk
        held.advance(member.end)
    except IndexUnavailable:
        held.close()  # the commit may have been: whoever opens the segment next finds out
        raise
    except BaseException:
        held.abandon()
        raise
    finally:
        archive.pool.give_back(held)


def _append(held: Segment, path: Path, old: Member, info: MemberInfo) -> Member:
    """Write the member at the segment's end: its data, then its headers, then sync."""
    layout = layout_of(info)
    start = held.end
    offset = start + layout.prefix_length
    position = offset
    with path.open("rb") as file:
        part = FilePart(file, old.offset + old.meta_length, old.length - old.meta_length)
        data = layout.meta
        while data:
            held.write([data], position, len(data))
            position += len(data)
            data = part.read(CHUNK)
    length = position - offset
    headers = layout.headers(digest=info.digest, received_at=info.received_at, length=length)
    held.write([headers], start, len(headers))
    held.sync()
    return Member(os.fspath(path), start, offset, length, len(layout.meta), info)


def _segment_row(connection: Connection, held: Segment, now: float) -> int:
    values = {"name": held.name, "study_uid": held.study_uid, "created_at": now}
    return int(connection.execute(insert(segment).values(values).returning(segment.c.pk)).scalar_one())


def _revise(connection: Connection, read: ReadMember, existing: Any, segment_pk: int, now: float) -> None:
    """Point the instance to its new bytes, and let the study be received at a new revision."""
    info, member = read.info, read.member
    values = {
        "digest": info.digest,
        "length": member.length - member.meta_length,
        "revision": info.revision,
        "sop_class_uid": info.sop_class_uid,
        "transfer_syntax_uid": info.transfer_syntax_uid,
        "received_at": info.received_at,
        "association_id": info.association_id or None,
        "calling_ae": info.calling_ae,
        "called_ae": info.called_ae,
        "origin": info.origin,
        "status": "OK",
        "damage": None,
        **read.instance_columns(),
    }
    same = (instance.c.pk == existing.pk, instance.c.revision == existing.revision)
    if not connection.execute(update(instance).where(*same).values(values)).rowcount:
        raise QuarantineConflict("the instance changed meanwhile; look at it again")
    connection.execute(delete(instance_header).where(instance_header.c.instance_pk == existing.pk))
    place = {"member_offset": member.member_offset, "offset": member.offset, "length": member.length, "meta_length": member.meta_length}
    connection.execute(
        insert(location).values(instance_pk=existing.pk, segment_pk=segment_pk, instance_revision=info.revision, **place)
    )
    change: dict[str, Any] = {"revision": study.c.revision + 1, "last_received_at": now, "state": "RECEIVING"}
    known = select(patient.c.patient_id).join(study, study.c.patient_pk == patient.c.pk).where(study.c.pk == existing.study_pk)
    if connection.execute(known).scalar_one() != read.header.patient_id:
        change["flag"] = MIXED_PATIENTS
    connection.execute(update(study).where(study.c.pk == existing.study_pk).values(change))
