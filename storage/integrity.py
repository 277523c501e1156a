"""Verification: every byte against its digest, and disk against index in both directions.

Damage is marked on the instance's row and reported; nothing is ever deleted here. Bytes that came back (a restored file) lose the mark.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import select, update

from storage import audit, quarantine_file, scan
from storage.disk import Disk
from storage.errors import Damaged
from storage.members import BrokenMember, Member, read_member
from storage.schema import instance, location, quarantine, segment, study
from storage.segments import SEGMENTS, try_lock

if TYPE_CHECKING:
    from storage.archive import Archive

log = structlog.get_logger()

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Damage:
    """An instance whose bytes are missing or are not those that were received."""

    sop_uid: str
    study_uid: str
    segment: str
    reason: str


@dataclass(frozen=True)
class Stray:
    """Bytes without a row: a member, or a place in a segment that cannot be read."""

    segment: str
    member_offset: int
    what: str


@dataclass
class VerifyReport:
    """What a verification found; `ok` where there is nothing to do.

    Attributes
    ----------
    checked, size : instances read and their bytes
    repaired : instances marked damaged before whose bytes are right now
    strays : bytes without rows, in segments that nobody was writing
    unknown_files : files among the segments that the index does not name
    busy : segments that were being written, whose bytes without rows are therefore not judged
    """

    checked: int = 0
    size: int = 0
    damaged: list[Damage] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    unknown_files: list[str] = field(default_factory=list)
    missing_quarantine: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.damaged or self.strays or self.unknown_files or self.missing_quarantine)


def verify(archive: Archive, *, study_uid: str | None = None, read_data: bool = True, progress: Progress | None = None) -> VerifyReport:
    """Check one study or the whole archive; `read_data` False compares headers and sizes only, without reading the data sets."""
    report = VerifyReport()
    names = _segment_names(archive, study_uid)
    for number, name in enumerate(names, 1):
        _verify_segment(archive, name, read_data, report)
        if progress:
            progress(number, len(names))
    if study_uid is None:
        report.unknown_files = sorted(_files(archive.root) - set(names) - set(_segment_names(archive, None)))
        report.missing_quarantine = _missing_quarantine(archive)
    log.info("archive.verified", checked=report.checked, damaged=len(report.damaged), strays=len(report.strays))
    return report


def _segment_names(archive: Archive, study_uid: str | None) -> list[str]:
    query = select(segment.c.name).order_by(segment.c.study_uid, segment.c.pk)
    if study_uid is not None:
        query = query.where(segment.c.study_uid == study_uid)
    with archive.database.read() as connection:
        return list(connection.execute(query).scalars())


def _verify_segment(archive: Archive, name: str, read_data: bool, report: VerifyReport) -> None:
    path = archive.root / name
    with _held(path) as alone:
        # Members are listed before rows: what is acknowledged in between has a row and is no stray.
        found = _members(path)
        rows = _rows(archive, name)
        judged = list(_judge(path, rows, read_data))
        if alone or all(row.state == "SEALED" for row in rows):
            known = {row.member_offset for row in rows}
            report.strays += [Stray(name, offset, what) for offset, what in _strays(found) if offset not in known]
        else:
            report.busy.append(name)
    report.checked += sum(reason is None for _, reason in judged)
    report.size += sum(row.length for row in rows)
    _mark(archive, name, judged, report)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold the segment's lock, where it can be had, so that its bytes without rows are not just on their way."""
    disk = Disk()
    descriptor = try_lock(disk, path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            disk.close(descriptor)


def _members(path: Path) -> dict[int, Member | scan.Broken]:
    try:
        with path.open("rb") as file:
            return {found.member_offset: found for found in scan.scan(file)}
    except FileNotFoundError:
        return {}


_PLACES = (
    select(
        instance.c.pk,
        instance.c.sop_uid,
        instance.c.sop_class_uid,
        instance.c.digest,
        instance.c.revision,
        instance.c.status,
        study.c.study_uid,
        segment.c.name,
        segment.c.state,
        location.c.member_offset,
        location.c.offset,
        location.c.length,
        location.c.meta_length,
        location.c.instance_revision,
    )
    .join(location, location.c.segment_pk == segment.c.pk)
    .join(instance, instance.c.pk == location.c.instance_pk)
    .join(study, study.c.pk == instance.c.study_pk)
)


def _rows(archive: Archive, name: str) -> list[Any]:
    with archive.database.read() as connection:
        return list(connection.execute(_PLACES.where(segment.c.name == name).order_by(location.c.member_offset)).all())


@dataclass(frozen=True)
class Checked:
    """An instance that was read back: `reason` says why its bytes are not right, None where they are."""

    sop_class_uid: str
    study_uid: str
    reason: str | None


def check_instances(archive: Archive, sop_uids: Sequence[str]) -> dict[str, Checked]:
    """Read instances back from the disk and compare them with their digests; marks damage. UIDs without a row are absent.

    At most some hundred UIDs at a time.
    """
    checked: dict[str, Checked] = {}
    wanted: Sequence[str] = sop_uids
    for last in (False, True):  # a segment may be compacted or an instance replaced between its row and its bytes: look once more
        rows = _current(archive, wanted)
        again = []
        for name, of_segment in rows.items():
            judged = list(_judge(archive.root / name, of_segment, True, fresh=True))
            if last:
                _mark(archive, name, judged, VerifyReport())
            for row, reason in judged:
                checked[row.sop_uid] = Checked(row.sop_class_uid, row.study_uid, reason)
                if reason is not None:
                    again.append(row.sop_uid)
        for uid in set(wanted) - {row.sop_uid for of_segment in rows.values() for row in of_segment}:
            checked.pop(uid, None)
        if not again:
            break
        wanted = again
    return checked


def _current(archive: Archive, sop_uids: Sequence[str]) -> dict[str, list[Any]]:
    """Where the current revisions of instances lie, by segment, in the order of their bytes."""
    query = _PLACES.where(instance.c.sop_uid.in_(sop_uids), location.c.instance_revision == instance.c.revision)
    by_segment: dict[str, list[Any]] = defaultdict(list)
    with archive.database.read() as connection:
        for row in connection.execute(query.order_by(segment.c.name, location.c.member_offset)):
            by_segment[row.name].append(row)
    return by_segment


def _judge(path: Path, rows: Sequence[Any], read_data: bool, *, fresh: bool = False) -> Iterator[tuple[Any, str | None]]:
    """Each row with why its bytes are not right, or None; `fresh` asks the disk, not the page cache, where the system can."""
    try:
        with path.open("rb") as file:
            for row in rows:
                if fresh and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), row.member_offset, row.offset + row.length - row.member_offset, os.POSIX_FADV_DONTNEED)
                yield row, _judge_one(file.fileno(), row, read_data)
    except FileNotFoundError:
        for row in rows:
            yield row, "the segment is missing"


def _judge_one(descriptor: int, row: Any, read_data: bool) -> str | None:
    try:
        member = read_member(lambda length, offset: os.pread(descriptor, length, offset), row.member_offset)
    except BrokenMember as error:
        return str(error)
    if member is None:
        return "no member where the index says"
    if member.info is None:
        return "the member is deleted, its row is not"
    if member.info.sop_uid != row.sop_uid or (member.offset, member.length) != (row.offset, row.length):
        return "another member than the index says"
    if row.instance_revision == row.revision and member.info.digest != row.digest:
        return "the member's digest is not the row's"
    if not read_data:
        return None if os.fstat(descriptor).st_size >= row.offset + row.length else "the segment ends inside the member"
    digest = scan.digest_of(descriptor, row.offset + row.meta_length, row.length - row.meta_length)
    return None if digest == member.info.digest else "the data set's bytes have changed"


def _strays(found: dict[int, Member | scan.Broken]) -> Iterable[tuple[int, str]]:
    for offset, member in found.items():
        if isinstance(member, scan.Broken):
            yield offset, member.reason
        elif not member.deleted:
            yield offset, member.name


def _mark(archive: Archive, name: str, judged: list[tuple[Any, str | None]], report: VerifyReport) -> None:
    by_instance: dict[int, list[tuple[Any, str | None]]] = defaultdict(list)
    for row, reason in judged:
        if row.instance_revision == row.revision or reason:
            by_instance[row.pk].append((row, reason))
    changed = [entries for entries in by_instance.values() if entries[0][0].status != "OK" or any(reason for _, reason in entries)]
    if not changed:
        return
    with archive.database.begin() as connection:
        for entries in changed:
            row = entries[0][0]
            reason = next((reason for _, reason in entries if reason), None)
            status = "DAMAGED" if reason else "OK"
            still = (instance.c.pk == row.pk, instance.c.revision == row.revision)
            if not connection.execute(update(instance).where(*still).values(status=status, damage=reason)).rowcount:
                continue  # deleted or replaced meanwhile
            if reason:
                report.damaged.append(Damage(row.sop_uid, row.study_uid, name, reason))
            else:
                report.repaired.append(row.sop_uid)
            if status != row.status:
                event = "instance.damaged" if reason else "instance.repaired"
                detail = {"segment": name, "reason": reason}
                audit.record(connection, event, actor="verify", study_uid=row.study_uid, sop_uid=row.sop_uid, detail=detail)


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in (root / SEGMENTS).rglob("*") if not path.is_dir()}


def _missing_quarantine(archive: Archive) -> list[str]:
    with archive.database.read() as connection:
        names = connection.execute(select(quarantine.c.name).where(quarantine.c.state == "HELD").distinct()).scalars().all()
    return sorted(name for name in names if not _readable(archive.root / name))


def _readable(path: Path) -> bool:
    try:
        member, info, _ = quarantine_file.read(path)
        with path.open("rb") as file:
            digest = scan.digest_of(file.fileno(), member.offset + member.meta_length, member.length - member.meta_length)
    except (OSError, Damaged):
        return False
    return digest == info.digest and path.name == f"{digest}.tar"
