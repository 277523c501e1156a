"""Bytes and index brought together, of segments that nobody holds (DESIGN, "At start").

Behind the last row of a segment may stand a whole member whose row a crash prevented: it is indexed if it was received,
discarded if this node made it. What is no whole member there is a torn write and becomes zeros. Rows whose bytes are missing or broken are
damage: marked, never deleted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Connection, func, select, update

from storage.columns import read_columns
from storage.errors import CannotUnderstand, StorageError
from storage.members import BrokenMember, Member, MemberInfo, padded, read_member, safe_name, ustar_header
from storage.rows import Entry, Place, insert_group
from storage.scan import digest_of
from storage.schema import instance, location, segment, tombstone
from storage.segments import SEGMENTS, Segment, try_lock

if TYPE_CHECKING:
    from storage.archive import Archive

log = structlog.get_logger()

OPEN = "OPEN"
CHUNK = 1 << 20


@dataclass
class RecoveryReport:
    """What a recovery did.

    Attributes
    ----------
    indexed : received instances whose row a crash had prevented
    discarded : whole members without a row that were not taken
    torn : segments whose tail was zeroed
    removed : segments without any member
    damaged : instances whose bytes are missing or broken
    busy : segments that somebody holds
    """

    indexed: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)


def recover(archive: Archive) -> RecoveryReport:
    """Recover every unsealed segment that nobody holds, and end the deletions that a crash interrupted."""
    from storage.deletion import finish_deletions
    from storage.quarantine import remove_resolved

    report = RecoveryReport()
    finish_deletions(archive)
    remove_resolved(archive)
    _clear_spool(archive)
    with archive.database.read() as connection:
        rows = {row.name: row for row in connection.execute(select(segment.c.name, segment.c.pk, segment.c.state, segment.c.study_uid))}
    there = set(_names(archive.root))
    for name in sorted(there | rows.keys()):
        row = rows.get(name)
        if row is not None and name not in there:
            _mark(archive, row.pk, None, "segment is missing", report)
        elif row is None or row.state == OPEN:
            _recover_file(archive, name, row.pk if row else None, report)
    log.info("archive.recovered", **{key: len(value) for key, value in vars(report).items()})
    return report


def reopen_segment(archive: Archive, study_uid: str) -> Segment | None:
    """An unsealed segment of the study that nobody holds and that has room, recovered and locked; else None."""
    for found in unheld_segments(archive, study_uid):
        if found.end < archive.settings.max_segment:
            return found
        found.close()
    return None


def unheld_segments(archive: Archive, study_uid: str) -> Iterator[Segment]:
    """Every unsealed segment of the study that nobody holds, recovered and locked; the caller closes it."""
    if not (archive.root / SEGMENTS / safe_name(study_uid)).exists():
        return
    query = select(segment.c.name).where(segment.c.study_uid == study_uid, segment.c.state == OPEN).order_by(segment.c.pk)
    with archive.database.read() as connection:
        names = list(connection.scalars(query))
    for name in names:
        held = _take(archive, name, study_uid, RecoveryReport())
        if held is not None:
            yield held


def _take(archive: Archive, name: str, study_uid: str, report: RecoveryReport) -> Segment | None:
    descriptor = try_lock(archive.disk, archive.root / name)
    if descriptor is None:
        return None
    try:
        with archive.database.read() as connection:
            row = connection.execute(select(segment.c.pk, segment.c.state).where(segment.c.name == name)).first()
        if row is not None and row.state == OPEN:
            return _recover_held(archive, name, study_uid, row.pk, descriptor, report)
    except BaseException:
        archive.disk.close(descriptor)
        raise
    archive.disk.close(descriptor)
    return None


def _recover_file(archive: Archive, name: str, pk: int | None, report: RecoveryReport) -> None:
    descriptor = try_lock(archive.disk, archive.root / name)
    if descriptor is None:
        report.busy.append(name)
        return
    try:
        if pk is None:
            # Its first row may have become durable since the list was made.
            with archive.database.read() as connection:
                pk = connection.scalar(select(segment.c.pk).where(segment.c.name == name))
        if pk is not None:
            _check_rows(archive, name, pk, descriptor, report)
        held = _recover_held(archive, name, "", pk, descriptor, report)
        if held.end == 0 and held.pk is None:
            archive.disk.unlink(archive.root / name)
            report.removed.append(name)
    finally:
        archive.disk.close(descriptor)


def _recover_held(archive: Archive, name: str, study_uid: str, pk: int | None, descriptor: int, report: RecoveryReport) -> Segment:
    """Index or discard what stands behind the last row, zero the rest, and return the segment ready for its next member."""
    start, going = _known(archive, name, pk)
    discarded: list[Member] = []
    end = start
    for member in _whole_members(descriptor, start):
        if member.deleted or member.member_offset in going:
            end = member.end
            continue
        new_pk = _adopt(archive, name, pk, descriptor, member)
        if new_pk is None:
            discarded.append(member)
            report.discarded.append(member.info.sop_uid if member.info else "")
        else:
            pk, end = new_pk, member.end
            report.indexed.append(member.info.sop_uid if member.info else "")
    for member in discarded:
        if member.end <= end:
            header = ustar_header(f".deleted/{member.member_offset}", member.length)
            archive.disk.write(descriptor, [header], member.offset - len(header))
    if _zero_rest(archive, descriptor, end):
        report.torn.append(name)
    archive.disk.sync(descriptor)
    return Segment(archive.disk, archive.root / name, name, study_uid, descriptor, end=end, pk=pk)


def _known(archive: Archive, name: str, pk: int | None) -> tuple[int, set[int]]:
    """Where the last member with a row ends, and the members that an unfinished deletion is taking away."""
    with archive.database.read() as connection:
        end = connection.scalar(select(func.max(location.c.offset + location.c.length)).where(location.c.segment_pk == pk)) if pk else 0
        members = connection.scalars(select(tombstone.c.members).where(tombstone.c.finished_at.is_(None)))
        going = {int(span[1]) for spans in members for span in spans if span[0] == name}
    return padded(end or 0), going


def _whole_members(descriptor: int, start: int) -> Iterator[Member]:
    size = os.fstat(descriptor).st_size
    position = start
    while True:
        try:
            member = read_member(lambda length, offset: os.pread(descriptor, length, offset), position)
        except BrokenMember:
            return
        if member is None or member.offset + member.length > size:
            return
        if member.info is not None:
            data_start = member.offset + member.meta_length
            if digest_of(descriptor, data_start, member.offset + member.length - data_start) != member.info.digest:
                return
        yield member
        position = member.end


def _adopt(archive: Archive, name: str, pk: int | None, descriptor: int, member: Member) -> int | None:
    """Give a whole member its row; return the segment's, or None where the index does not want it."""
    info = member.info
    if info is None or info.origin == "emitted" or info.revision != 1:
        return None
    try:
        header = read_columns(descriptor, member, info).header
    except CannotUnderstand:
        return None
    place = Place(name, pk, member.member_offset, member.offset, member.length, member.meta_length)
    entry = _entry(info, header, member, place)
    with archive.database.begin() as connection:
        insert_group(executor(connection), [entry])
        if entry.pk is None and entry.known is not None:
            # A commit that we had not heard the end of may have happened after all, after its rows were looked for.
            return _standing_here(connection, entry.known.pk, name, member.offset)
    return entry.segment_pk


def _standing_here(connection: Connection, instance_pk: int, name: str, offset: int) -> int | None:
    query = select(segment.c.pk).join(location, location.c.segment_pk == segment.c.pk)
    return connection.scalar(query.where(location.c.instance_pk == instance_pk, segment.c.name == name, location.c.offset == offset))


def _entry(info: MemberInfo, header: Any, member: Member, place: Place) -> Entry:
    return Entry(
        header=header,
        sop_class_uid=info.sop_class_uid,
        transfer_syntax_uid=info.transfer_syntax_uid,
        digest=info.digest,
        data_length=member.length - member.meta_length,
        received_at=info.received_at,
        place=place,
        origin=info.origin,
        association_id=info.association_id or None,
        calling_ae=info.calling_ae,
        called_ae=info.called_ae,
        may_be_own=True,
    )


def executor(connection: Connection) -> Callable[[str, Sequence[Any]], Sequence[Sequence[Any]]]:
    """Run the statements of `storage.rows` inside a transaction of SQLAlchemy's."""
    mark = "%s" if connection.dialect.name == "postgresql" else "?"

    def execute(sql: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
        result = connection.exec_driver_sql(sql.replace("?", mark), tuple(parameters))
        return [tuple(row) for row in result] if result.returns_rows else ()

    return execute


def _zero_rest(archive: Archive, descriptor: int, start: int) -> bool:
    """Make everything from `start` zeros; tell whether it was not."""
    size = os.fstat(descriptor).st_size
    for position in range(start, size, CHUNK):
        data = os.pread(descriptor, CHUNK, position)
        if data.count(0) != len(data):
            archive.disk.zero(descriptor, position, size - position)
            return True
    return False


# -- damage -----------------------------------------------------------------------------------------------------------------------------


def _check_rows(archive: Archive, name: str, pk: int, descriptor: int, report: RecoveryReport) -> None:
    query = select(location.c.instance_pk, location.c.member_offset, location.c.offset, location.c.length).where(
        location.c.segment_pk == pk
    )
    with archive.database.read() as connection:
        rows = connection.execute(query).all()
    size = os.fstat(descriptor).st_size
    broken = [row.instance_pk for row in rows if not _stands(descriptor, size, row)]
    if broken:
        _mark(archive, pk, broken, "its bytes are missing or broken", report)
        log.error("segment.damaged", segment=name, instances=len(broken))


def _stands(descriptor: int, size: int, row: Any) -> bool:
    try:
        member = read_member(lambda length, offset: os.pread(descriptor, length, offset), row.member_offset)
    except BrokenMember:
        return False
    return member is not None and (member.offset, member.length) == (row.offset, row.length) and row.offset + row.length <= size


def _mark(archive: Archive, pk: int, instances: Sequence[int] | None, why: str, report: RecoveryReport) -> None:
    which = select(location.c.instance_pk).where(location.c.segment_pk == pk)
    statement = update(instance).where(instance.c.pk.in_(which if instances is None else instances))
    with archive.database.begin() as connection:
        marked = connection.execute(statement.values(status="DAMAGED", damage=why).returning(instance.c.sop_uid))
        report.damaged += marked.scalars().all()


def _names(root: Path) -> Iterator[str]:
    try:
        directories = sorted((root / SEGMENTS).iterdir())
    except OSError as error:
        raise StorageError("the archive's segments cannot be listed") from error
    for directory in directories:
        if directory.is_dir():
            yield from (f"{SEGMENTS}/{directory.name}/{path.name}" for path in sorted(directory.glob("*.tar")))


def _clear_spool(archive: Archive) -> None:
    # Spool files have no name on Linux; where they have one, a crash leaves it.
    with suppress(OSError):
        for path in archive.spool.iterdir():
            if archive.clock() - path.stat().st_mtime > 24 * 3600:
                path.unlink()
