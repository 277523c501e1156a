"""An instance whose stored bytes are broken gets whole ones when they arrive again: another place, no damage, nothing else.

That holds for what was received, also where the same content comes in another syntax and can be encoded as it was, and for an object of our
own that a PACS sends back. The same bytes were received before, so the
study's revision and completion stay. What is known of the receipt is that of the bytes kept now. The broken ones go as deleted ones do: a
tombstone names their place, so that a rebuild takes the whole ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Connection, Select, delete, insert, select, update

from storage import audit, deletion
from storage.disk import translated
from storage.errors import Damaged, IndexUnavailable, StorageError
from storage.journal import Deletion, MemberSpan
from storage.members import MemberInfo, layout_of
from storage.rows import Entry, Place
from storage.scan import digest_of
from storage.schema import instance, instance_header, location, segment, tombstone
from storage.segments import Segment
from storage.writer import OutcomeUnknown

if TYPE_CHECKING:
    from storage.archive import Archive
    from storage.headers import Header

log = structlog.get_logger()

REASON = "its bytes were broken and came again"
ATTEMPTS = 3
CHUNK = 1 << 20


@dataclass(frozen=True)
class Stored:
    """An instance's row and the place of its bytes."""

    pk: int
    revision: int
    status: str
    damage: str | None
    location_pk: int
    segment_name: str
    member_offset: int
    offset: int
    length: int
    meta_length: int


def repair(archive: Archive, entry: Entry, info: MemberInfo, held: Segment) -> int | None:
    """Give the instance that `entry` met the whole bytes of `entry`, which lie durable in `held`, if its own are broken.

    `info` is what the member says of itself.

    Returns
    -------
    int or None
        The row of `held`; None where the stored bytes are those that were received.

    Raises
    ------
    Damaged
        They are broken, and could not be replaced.
    OutcomeUnknown
        The index did not say whether it committed: the bytes must stay.
    """
    for _ in range(ATTEMPTS):
        with archive.database.read() as connection:
            row = connection.execute(_stored(entry)).one_or_none()
        if row is None:
            return None  # deleted since, or replaced by a person's decision: nothing of it is broken
        stored = Stored(**row._mapping)
        if _is_whole(archive, stored, entry.digest):
            return None
        _name_revision(entry, info, held, stored.revision)
        segment_pk = _replace(archive, entry, stored)
        if segment_pk is not None:
            return segment_pk
    raise Damaged("stored bytes are broken and could not be replaced")


def mend(archive: Archive, header: Header, digest: str, source: int, offset: int, length: int) -> bool:
    """Give an instance whose stored bytes are broken those of `digest`: `length` of them at `offset` of descriptor `source`.

    They stand in no segment yet. What is known of the instance's receipt or emission stays. Tells whether there was something to mend.

    Raises
    ------
    StorageError
        As `repair`; or there is no space for it.
    """
    info = broken_member(archive, header, digest)
    if info is None:
        return False
    held = archive.pool.borrow(header.study_uid)
    try:
        entry = _append(held, header, info, source, offset, length)
        held.sync()
        segment_pk = repair(archive, entry, info, held)
        if segment_pk is None:  # somebody else was quicker
            held.abandon()
            return False
        held.pk = segment_pk
        held.advance(entry.place.offset + entry.place.length)
    except OutcomeUnknown:
        held.close()
        raise
    except BaseException:
        held.abandon()
        raise
    finally:
        archive.pool.give_back(held)
    return True


def broken_member(archive: Archive, header: Header, digest: str) -> MemberInfo | None:
    """What the stored member of an instance says of itself, where its bytes are broken; None where they are whole, or there is none."""
    names = ("sop_class_uid", "transfer_syntax_uid", "received_at", "run_key", "revision", "origin", "calling_ae", "called_ae")
    this = instance.c.sop_uid == header.sop_uid, instance.c.digest == digest
    with archive.database.read() as connection:
        row = connection.execute(select(*(instance.c[name] for name in names), instance.c.association_id).where(*this)).one_or_none()
        place = connection.execute(_places().where(*this)).one_or_none()
    if row is None or place is None or _is_whole(archive, Stored(**place._mapping), digest):
        return None
    return MemberInfo(
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        sop_uid=header.sop_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        digest=digest,
        received_at=row.received_at,
        origin=row.origin,
        calling_ae=row.calling_ae or "",
        called_ae=row.called_ae or "",
        association_id=row.association_id or "",
        run_key=row.run_key or "",
        revision=row.revision,
    )


def _append(held: Segment, header: Header, info: MemberInfo, source: int, offset: int, length: int) -> Entry:
    layout = layout_of(info)
    start, size = held.append_at, len(layout.meta) + length
    at = start + layout.prefix_length
    held.write([layout.meta], at, len(layout.meta))
    for done in range(0, length, CHUNK):
        with translated():
            piece = os.pread(source, min(CHUNK, length - done), offset + done)
        held.write([piece], at + len(layout.meta) + done, len(piece))
    held.write([layout.headers(digest=info.digest, received_at=info.received_at, length=size)], start, layout.prefix_length)
    return Entry(
        header=header,
        sop_class_uid=info.sop_class_uid,
        transfer_syntax_uid=info.transfer_syntax_uid,
        digest=info.digest,
        data_length=length,
        received_at=info.received_at,
        place=Place(held.name, held.pk, start, at, size, len(layout.meta)),
        origin=info.origin,
        association_id=info.association_id or None,
        calling_ae=info.calling_ae,
        called_ae=info.called_ae,
        run_key=info.run_key or None,
    )


def _stored(entry: Entry) -> Select[Any]:
    ours = instance.c.origin == "emitted" if entry.origin == "emitted" else instance.c.origin != "emitted"
    return _places().where(instance.c.sop_uid == entry.header.sop_uid, instance.c.digest == entry.digest, ours)


def _places() -> Select[Any]:
    return (
        select(
            instance.c.pk,
            instance.c.revision,
            instance.c.status,
            instance.c.damage,
            location.c.pk.label("location_pk"),
            segment.c.name.label("segment_name"),
            location.c.member_offset,
            location.c.offset,
            location.c.length,
            location.c.meta_length,
        )
        .join(location, (location.c.instance_pk == instance.c.pk) & (location.c.instance_revision == instance.c.revision))
        .join(segment, segment.c.pk == location.c.segment_pk)
    )


def _is_whole(archive: Archive, stored: Stored, digest: str) -> bool:
    if stored.status != "OK":
        return False
    try:
        with (archive.root / stored.segment_name).open("rb") as file:
            return digest_of(file.fileno(), stored.offset + stored.meta_length, stored.length - stored.meta_length) == digest
    except OSError:
        return False


def _name_revision(entry: Entry, info: MemberInfo, held: Segment, revision: int) -> None:
    """Let the member say which revision of the instance it is; what is received says the first."""
    if revision == 1:
        return
    place = entry.place
    layout = layout_of(replace(info, revision=revision))
    try:
        layout.widen(place.offset - place.member_offset)
    except ValueError:
        raise Damaged("stored bytes are broken and could not be replaced") from None
    headers = layout.headers(digest=entry.digest, received_at=entry.received_at, length=place.length)
    held.write([headers], place.member_offset, len(headers))
    held.sync()


def _replace(archive: Archive, entry: Entry, stored: Stored) -> int | None:
    """Move the instance to its new bytes; None where another one did so meanwhile."""
    now = archive.clock()
    try:
        with archive.database.begin() as connection:
            # The lock first and the look after it: the place may have changed while the lock was waited for.
            connection.execute(select(instance.c.pk).where(instance.c.pk == stored.pk).with_for_update())
            current = connection.execute(_stored(entry)).one_or_none()
            if current is None or Stored(**current._mapping) != stored:
                return None
            segment_pk = entry.place.segment_pk or _segment_row(connection, entry)
            _move(connection, entry, stored, segment_pk)
            broken = _bury(connection, entry, stored, now)
    except IndexUnavailable as error:
        raise OutcomeUnknown("index did not say whether it committed") from error
    log.warning("instance.repaired", sop_uid=broken.sop_uid, study_uid=broken.study_uid, segment=stored.segment_name)
    try:
        deletion.erase(archive, [broken])
    except (StorageError, OSError):
        log.warning("instance.broken_bytes_stay", sop_uid=broken.sop_uid)  # the next start takes them away
    return segment_pk


def _segment_row(connection: Connection, entry: Entry) -> int:
    values = {"name": entry.place.segment_name, "study_uid": entry.header.study_uid, "created_at": entry.received_at}
    return int(connection.execute(insert(segment).values(values).returning(segment.c.pk)).scalar_one())


def _move(connection: Connection, entry: Entry, stored: Stored, segment_pk: int) -> None:
    place = {name: getattr(entry.place, name) for name in ("member_offset", "offset", "length", "meta_length")}
    connection.execute(update(location).where(location.c.pk == stored.location_pk).values(segment_pk=segment_pk, **place))
    receipt = {name: getattr(entry, name) for name in ("received_at", "association_id", "calling_ae", "called_ae", "origin")}
    values = {**receipt, "transfer_syntax_uid": entry.transfer_syntax_uid, "status": "OK", "damage": None}
    connection.execute(update(instance).where(instance.c.pk == stored.pk).values(values))
    connection.execute(delete(instance_header).where(instance_header.c.instance_pk == stored.pk))


def _bury(connection: Connection, entry: Entry, stored: Stored, now: float) -> Deletion:
    """The tombstone of the broken bytes, and the audit row."""
    uids = {"study_uid": entry.header.study_uid, "sop_uid": entry.header.sop_uid}
    detail = {"damage": stored.damage or "the data set's bytes have changed", "segment": stored.segment_name, "called_ae": entry.called_ae}
    audit.record(connection, "instance.repaired", actor=entry.calling_ae or entry.origin, **uids, detail=detail, at=now)
    span = MemberSpan(stored.segment_name, stored.member_offset, stored.offset, stored.length)
    values: dict[str, Any] = {**uids, "digest": entry.digest, "deleted_by": "ingest", "reason": REASON, "deleted_at": now}
    grave = insert(tombstone).values(**values, members=[list(span)]).returning(tombstone.c.pk)
    return Deletion(tombstone=connection.execute(grave).scalar_one(), members=(span,), **values)
