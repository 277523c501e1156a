"""Deletion that survives a kill at any step, and that a rebuild from bytes obeys.

The steps, each durable before the next: the tombstone commits and the rows go (from here on nobody is served the instance); the journal
beside the segments says so; the member's tar header becomes ``.deleted/<n>`` of the same size; its data is punched. What a kill
interrupts, `finish_deletions` ends. Bytes named by a tombstone are found by their place, so the same instance stored again lives.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Connection, RowMapping, delete, exists, insert, select, update

from storage import audit, journal
from storage.disk import Disk
from storage.errors import NotFound
from storage.journal import Deletion, MemberSpan
from storage.members import BLOCK, DELETED, BrokenMember, read_member, ustar_header
from storage.schema import ambiguity, emitted, instance, instance_header, location, patient, segment, series, study, study_source, tombstone
from storage.segments import try_lock

if TYPE_CHECKING:
    from storage.archive import Archive
    from storage.database import Database

log = structlog.get_logger()

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DeletionReport:
    """What went: instances, bytes of their files, and the segments that were removed altogether."""

    study_uid: str
    instances: int
    size: int
    segments_removed: int = 0


def delete_instance(archive: Archive, sop_uid: str, *, who: str, reason: str) -> DeletionReport:
    """Delete one instance, every revision of it.

    Raises
    ------
    NotFound
        No such instance.
    """
    return _delete(archive, instance.c.sop_uid == sop_uid, who, reason, f"instance {sop_uid}")


def delete_series(archive: Archive, study_uid: str, series_uid: str, *, who: str, reason: str) -> DeletionReport:
    """Delete a series: its instances as `delete_instance` does.

    Raises
    ------
    NotFound
        No such series in the study.
    """
    pks = select(series.c.pk).join(study, study.c.pk == series.c.study_pk)
    which = instance.c.series_pk.in_(pks.where(study.c.study_uid == study_uid, series.c.series_uid == series_uid))
    return _delete(archive, which, who, reason, f"series {series_uid}")


def delete_study(
    archive: Archive,
    study_uid: str,
    *,
    who: str,
    reason: str,
    progress: Progress | None = None,
    check: Callable[[Connection], None] = lambda connection: None,
) -> DeletionReport:
    """Delete a study: its instances as `delete_instance` does, then its segments.

    `check` runs first in the transaction that deletes: what it raises rolls that back, and nothing is deleted.

    A segment that is being written at this moment stays, with nothing but deleted members, until `finish_deletions` finds it free.

    Raises
    ------
    NotFound
        No such study.
    """
    return _delete(archive, study.c.study_uid == study_uid, who, reason, f"study {study_uid}", progress, check)


def erase(archive: Archive, doomed: Sequence[Deletion], progress: Progress | None = None) -> None:
    """Journal deletions whose tombstones are durable, and take their bytes away."""
    journal.append(archive.disk, archive.root, doomed)
    _remove_bytes(archive, doomed, progress)


def finish_deletions(archive: Archive, *, older_than: float = 0.0) -> int:
    """End the deletions that a kill interrupted, whichever step they had reached; return how many instances that were.

    Segments of deleted studies that somebody was writing at that moment are removed as well. Those that began less than `older_than`
    seconds ago are left alone: whoever began them is at work.
    """
    with archive.database.read() as connection:
        found = [entry for entry in _unfinished(connection) if entry.deleted_at <= archive.clock() - older_than]
    if found:
        known = set(journal.read(archive.root))
        journal.append(archive.disk, archive.root, [entry for entry in found if entry not in known])
        _remove_bytes(archive, found)
        log.info("deletion.finished", instances=len(found))
    _remove_empty_segments(archive)
    return len(found)


def apply_journal(root: Path, database: Database) -> int:
    """Delete from an index that is older than the journal (a restored one) what the journal says went since; return how many instances."""
    removed = 0
    with database.begin() as connection:
        known = {(row.sop_uid, row.deleted_at) for row in connection.execute(select(tombstone.c.sop_uid, tombstone.c.deleted_at))}
        for entry in journal.read(root):
            if (entry.sop_uid, entry.deleted_at) in known:
                continue
            for pk in _standing(connection, entry):
                removed += len(_bury(connection, instance.c.pk == pk, entry.deleted_by, entry.reason, entry.deleted_at))
                _remove_empty_parents(connection, entry.study_uid)
    return removed


def _standing(connection: Connection, entry: Deletion) -> set[int]:
    """The rows of the bytes that `entry` names. The time tells them from later ones at the same place."""
    found: set[int] = set()
    for span in entry.members:
        query = (
            select(instance.c.pk)
            .join(location, location.c.instance_pk == instance.c.pk)
            .join(segment, segment.c.pk == location.c.segment_pk)
            .where(instance.c.sop_uid == entry.sop_uid, instance.c.received_at <= entry.deleted_at)
            .where(segment.c.name == span.segment, location.c.member_offset == span.member_offset)
        )
        found.update(connection.execute(query).scalars())
    return found


def _delete(
    archive: Archive,
    which: Any,
    who: str,
    reason: str,
    what: str,
    progress: Progress | None = None,
    check: Callable[[Connection], None] = lambda connection: None,
) -> DeletionReport:
    with archive.database.begin() as connection:
        check(connection)
        doomed = _bury(connection, which, who, reason, archive.clock())
        if not doomed:
            raise NotFound(f"no {what} in the archive")
        study_uid = doomed[0].study_uid
        emptied = _remove_empty_parents(connection, study_uid)
        audit.record(
            connection,
            "study.deleted" if emptied else "instance.deleted",
            actor=who,
            study_uid=study_uid,
            sop_uid=doomed[0].sop_uid if len(doomed) == 1 else None,
            detail={"instances": len(doomed), "reason": reason},
        )
    erase(archive, doomed, progress)
    removed = _remove_empty_segments(archive, study_uid) if emptied else 0
    size = sum(span.length for entry in doomed for span in entry.members)
    log.info("study.deleted" if emptied else "instance.deleted", study_uid=study_uid, instances=len(doomed), size=size)
    return DeletionReport(study_uid, len(doomed), size, removed)


def _bury(connection: Connection, which: Any, who: str, reason: str, now: float) -> list[Deletion]:
    """Put a tombstone in the place of each instance row that `which` selects."""
    query = (
        select(instance.c.pk, instance.c.sop_uid, instance.c.digest, instance.c.run_key, study.c.study_uid)
        .join(study, study.c.pk == instance.c.study_pk)
        .where(which)
        .order_by(instance.c.pk)
        .with_for_update()
    )
    rows = connection.execute(query).all()
    spans = _spans(connection, [row.pk for row in rows])
    doomed = []
    for row in rows:
        values = {
            "sop_uid": row.sop_uid,
            "study_uid": row.study_uid,
            "digest": row.digest,
            "deleted_by": who,
            "reason": reason,
            "deleted_at": now,
            "members": [list(span) for span in spans[row.pk]],
        }
        pk = connection.execute(insert(tombstone).values(values).returning(tombstone.c.pk)).scalar_one()
        doomed.append(Deletion(**{**values, "tombstone": pk, "members": tuple(spans[row.pk]), "run_key": row.run_key or ""}))
    for some in _batches([row.pk for row in rows]):
        connection.execute(delete(instance_header).where(instance_header.c.instance_pk.in_(some)))
        connection.execute(delete(location).where(location.c.instance_pk.in_(some)))
        connection.execute(delete(instance).where(instance.c.pk.in_(some)))
    return doomed


def _spans(connection: Connection, instance_pks: Sequence[int]) -> dict[int, list[MemberSpan]]:
    spans: dict[int, list[MemberSpan]] = defaultdict(list)
    for some in _batches(instance_pks):
        query = (
            select(location.c.instance_pk, segment.c.name, location.c.member_offset, location.c.offset, location.c.length)
            .join(segment, segment.c.pk == location.c.segment_pk)
            .where(location.c.instance_pk.in_(some))
            .order_by(location.c.instance_revision)
        )
        for pk, *span in connection.execute(query):
            spans[pk].append(MemberSpan(*span))
    return spans


def _remove_empty_parents(connection: Connection, study_uid: str) -> bool:
    """Remove series, study and patient that hold nothing any more; tell whether the study went."""
    study_pk, patient_pk = connection.execute(select(study.c.pk, study.c.patient_pk).where(study.c.study_uid == study_uid)).one()
    held = exists().where(instance.c.series_pk == series.c.pk)
    connection.execute(delete(series).where(series.c.study_pk == study_pk, ~held))
    if connection.execute(select(instance.c.pk).where(instance.c.study_pk == study_pk).limit(1)).first():
        sent = exists().where(instance.c.study_pk == study_source.c.study_pk, instance.c.calling_ae == study_source.c.calling_ae)
        connection.execute(delete(study_source).where(study_source.c.study_pk == study_pk, ~sent))
        return False
    connection.execute(
        delete(ambiguity).where(ambiguity.c.study_uid == select(study.c.study_uid).where(study.c.pk == study_pk).scalar_subquery())
    )
    connection.execute(delete(study).where(study.c.pk == study_pk))
    connection.execute(delete(patient).where(patient.c.pk == patient_pk, ~exists().where(study.c.patient_pk == patient.c.pk)))
    return True


def _unfinished(connection: Connection) -> list[Deletion]:
    query = select(tombstone, emitted.c.run_key).outerjoin(emitted, emitted.c.sop_uid == tombstone.c.sop_uid)
    rows = connection.execute(query.where(tombstone.c.finished_at.is_(None)).order_by(tombstone.c.pk)).mappings()
    return [_deletion(row) for row in rows]


def _deletion(row: RowMapping) -> Deletion:
    columns = ("sop_uid", "study_uid", "digest", "deleted_by", "reason", "deleted_at", "members")
    return Deletion.from_record({"tombstone": row["pk"], "run_key": row["run_key"] or "", **{name: row[name] for name in columns}})


def _remove_bytes(archive: Archive, doomed: Sequence[Deletion], progress: Progress | None = None) -> None:
    spans: dict[str, list[MemberSpan]] = defaultdict(list)
    for entry in doomed:
        for span in entry.members:
            spans[span.segment].append(span)
    for number, (name, members) in enumerate(spans.items(), 1):
        _erase(archive.disk, archive.root / name, members)
        if progress:
            progress(number, len(spans))
    with archive.database.begin() as connection:
        for some in _batches([entry.tombstone for entry in doomed]):
            connection.execute(update(tombstone).where(tombstone.c.pk.in_(some)).values(finished_at=archive.clock()))


def _erase(disk: Disk, path: Path, spans: Sequence[MemberSpan]) -> None:
    """Rename the members in their headers, sync, then give their data back. A segment that is gone has nothing to erase."""
    if not path.exists():
        return
    descriptor = disk.open(path)
    try:
        size = os.fstat(descriptor).st_size
        spans = [span for span in spans if span.offset + span.length <= size and _stands_at(descriptor, span)]
        for span in spans:
            disk.write(descriptor, [deleted_header(span)], span.offset - BLOCK)
        disk.sync(descriptor)
        for span in spans:
            disk.punch(descriptor, span.offset, span.length)
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)


def deleted_header(span: MemberSpan) -> bytes:
    """The ustar header of a deleted member: the size that it had, and no name."""
    return ustar_header(f"{DELETED}{span.member_offset}", span.length)


def _stands_at(descriptor: int, span: MemberSpan) -> bool:
    """Whether the member still is where the tombstone says: a restored segment may end before it."""
    try:
        member = read_member(lambda length, offset: os.pread(descriptor, length, offset), span.member_offset)
    except BrokenMember:
        return True  # a kill inside the header's rewrite
    return member is not None and (member.offset, member.length) == (span.offset, span.length)


def _remove_empty_segments(archive: Archive, study_uid: str | None = None) -> int:
    """Unlink the segments of deleted studies that hold no instance and that nobody writes."""
    query = select(segment.c.pk, segment.c.name, segment.c.study_uid).where(
        ~exists().where(location.c.segment_pk == segment.c.pk), ~exists().where(study.c.study_uid == segment.c.study_uid)
    )
    if study_uid is not None:
        query = query.where(segment.c.study_uid == study_uid)
    with archive.database.read() as connection:
        empty = connection.execute(query).all()
    for held in [held for uid in {row.study_uid for row in empty} for held in archive.pool.take_all(uid)]:
        held.close()
    return sum(_remove_segment(archive, row.pk, row.name) for row in empty)


def _remove_segment(archive: Archive, pk: int, name: str) -> bool:
    path = archive.root / name
    descriptor = try_lock(archive.disk, path)
    if descriptor is None and path.exists():
        return False
    try:
        with archive.database.read() as connection:
            if connection.execute(select(location.c.pk).where(location.c.segment_pk == pk).limit(1)).first():
                return False
        # The file before the row: what a kill leaves between them is a row without instances, which the next start finds.
        if descriptor is not None:
            archive.disk.unlink(path)
            archive.disk.sync_directory(path.parent)
        with archive.database.begin() as connection:
            connection.execute(delete(segment).where(segment.c.pk == pk))
    finally:
        if descriptor is not None:
            archive.disk.close(descriptor)
    return True


def _batches(values: Sequence[int], size: int = 500) -> Iterable[Sequence[int]]:
    return (values[start : start + size] for start in range(0, len(values), size))
