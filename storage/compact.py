"""Compaction: a segment that lost many members is written anew without them.

The live members are copied byte for byte into a new segment, synced, and their rows moved to it in one transaction; then the old file
goes. A kill leaves both files with the same members, which a rebuild reads as one; `remove_leftovers` takes the one without rows away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import delete, func, insert, select, update

from storage import scan
from storage.copying import copy_range
from storage.disk import translated
from storage.errors import Damaged
from storage.maintenance import exclusive_lock
from storage.members import BLOCK, padded
from storage.schema import instance, location, segment
from storage.segments import SEGMENTS, TAR_END, create_segment, try_lock

if TYPE_CHECKING:
    from storage.archive import Archive

log = structlog.get_logger()

Progress = Callable[[int, int], None]


class _Changed(Exception):
    """A member was deleted while its segment was copied."""


@dataclass(frozen=True)
class CompactReport:
    """Segments written anew, and the bytes that the archive is smaller by."""

    segments: int
    freed: int


def compact(archive: Archive, *, share: float = 0.25, progress: Progress | None = None) -> CompactReport:
    """Write every sealed segment anew of which at least `share` is deleted. Waits for a running backup, passes over a segment in use."""
    with exclusive_lock(archive.root):
        remove_leftovers(archive)
        wanted = [row for row in _sealed(archive) if row.live < (1 - share) * row.size]
        freed = []
        for number, row in enumerate(wanted, 1):
            freed.append(_compact(archive, row.pk, row.name, row.study_uid, row.size))
            if progress:
                progress(number, len(wanted))
    report = CompactReport(sum(size is not None for size in freed), sum(size or 0 for size in freed))
    log.info("archive.compacted", segments=report.segments, freed=report.freed)
    return report


def remove_leftovers(archive: Archive) -> int:
    """Unlink files that no row names and all of whose members are in the index elsewhere; return how many."""
    with archive.database.read() as connection:
        known = set(connection.execute(select(segment.c.name)).scalars())
    removed = 0
    for path in (archive.root / SEGMENTS).glob("*/*.tar"):
        if str(path.relative_to(archive.root)) not in known:
            removed += _remove_leftover(archive, path)
    return removed


def _sealed(archive: Archive) -> Sequence[Any]:
    live = (func.sum(location.c.offset + location.c.length - location.c.member_offset + BLOCK // 2) + TAR_END).label("live")
    query = (
        select(segment.c.pk, segment.c.name, segment.c.study_uid, segment.c.size, live)
        .join(location, location.c.segment_pk == segment.c.pk)
        .where(segment.c.state == "SEALED")
        .group_by(segment.c.pk, segment.c.name, segment.c.study_uid, segment.c.size)
    )
    with archive.database.read() as connection:
        return list(connection.execute(query).all())


def _compact(archive: Archive, pk: int, name: str, study_uid: str, size: int) -> int | None:
    descriptor = try_lock(archive.disk, archive.root / name)
    if descriptor is None:
        return None
    try:
        moved, new_name, new_size = _copy_live(archive, descriptor, study_uid, _locations(archive, pk))
        _move_rows(archive, pk, study_uid, new_name, new_size, moved)
        archive.disk.unlink(archive.root / name)
        archive.disk.sync_directory((archive.root / name).parent)
    except _Changed:
        archive.disk.unlink(archive.root / new_name)
        return None
    finally:
        archive.disk.close(descriptor)
    return size - new_size


def _move_rows(archive: Archive, pk: int, study_uid: str, new_name: str, new_size: int, moved: Sequence[tuple[Any, int]]) -> None:
    with archive.database.begin() as connection:
        values = {"name": new_name, "study_uid": study_uid, "state": "SEALED", "size": new_size}
        times = {"created_at": archive.clock(), "sealed_at": archive.clock()}
        new_pk = connection.execute(insert(segment).values(**values, **times).returning(segment.c.pk)).scalar_one()
        for row, by in moved:
            places = {"member_offset": row.member_offset - by, "offset": row.offset - by, "segment_pk": new_pk}
            if not connection.execute(update(location).where(location.c.pk == row.pk).values(places)).rowcount:
                raise _Changed
        connection.execute(delete(segment).where(segment.c.pk == pk))


def _locations(archive: Archive, pk: int) -> Sequence[Any]:
    with archive.database.read() as connection:
        return list(connection.execute(select(location).where(location.c.segment_pk == pk).order_by(location.c.member_offset)).all())


def _copy_live(archive: Archive, source: int, study_uid: str, rows: Sequence[Any]) -> tuple[list[tuple[Any, int]], str, int]:
    """Copy whole members one behind the other; each row with the bytes it moved by, and name and size of the new segment."""
    new = create_segment(archive.disk, archive.root, study_uid)
    moved = []
    try:
        for row in rows:
            length = padded(row.offset + row.length - row.member_offset)
            with translated():
                os.lseek(new.descriptor, new.end, os.SEEK_SET)
                if copy_range(source, row.member_offset, length, new.descriptor) != length:
                    raise Damaged("a segment ends inside a member; verify the archive first")
            moved.append((row, row.member_offset - new.end))
            new.advance(new.end + length)
        size = new.seal()
        new.sync()
    except BaseException:
        archive.disk.unlink(new.path)
        raise
    finally:
        new.close()
    return moved, new.name, size


def _remove_leftover(archive: Archive, path: Path) -> bool:
    descriptor = try_lock(archive.disk, path)
    if descriptor is None:
        return False
    try:
        # Who held it may have given its first member a row since the list of known segments was read.
        with archive.database.read() as connection:
            if connection.scalar(select(segment.c.pk).where(segment.c.name == str(path.relative_to(archive.root)))) is not None:
                return False
        with path.open("rb") as file:
            members = list(scan.scan(file))
        if not all(not isinstance(member, scan.Broken) and (member.info is None or _elsewhere(archive, member.info)) for member in members):
            return False
        archive.disk.unlink(path)
        return True
    finally:
        archive.disk.close(descriptor)


def _elsewhere(archive: Archive, info: Any) -> bool:
    query = (
        select(location.c.pk)
        .join(instance, instance.c.pk == location.c.instance_pk)
        .where(instance.c.sop_uid == info.sop_uid, location.c.instance_revision == info.revision)
    )
    with archive.database.read() as connection:
        return connection.execute(query.limit(1)).first() is not None
