"""Rebuild the index from the bytes alone, into an empty database: receipt, source and provenance come from each member's own record.

The deletion journal and ``.deleted`` headers are obeyed; holds and commitments bind again. Nothing is completed, run or delivered:
rebuilt studies stand as complete at the revision they have, so only an instance that arrives later sets anything off. Objects this node
made come back as emitted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, func, insert, select

from storage import audit, journal, promises, quarantine, quarantine_file, scan, worklist_upkeep
from storage.columns import ReadMember, read_columns
from storage.database import Database
from storage.disk import Disk
from storage.errors import ArchiveMismatch, Damaged, StorageError
from storage.journal import Deletion
from storage.members import Member
from storage.schema import archive_info, emitted, instance, location, patient, segment, series, study, tombstone
from storage.segments import SEGMENTS, TAR_END, try_lock
from storage.statements import insert_new

log = structlog.get_logger()

Progress = Callable[[int, int], None]
Sizes = dict[str, tuple[bool, int, float]]  # by segment: is it sealed, its size, when it was changed last
COMPLETE_REASON = "rebuilt from bytes"
MIXED_PATIENTS = "instances disagree on PatientID"


@dataclass
class ReindexReport:
    """What was rebuilt, and what was found on the way.

    Attributes
    ----------
    deleted : members that the journal or their header says are gone
    damaged : instances whose bytes do not have their digest; they are in the index, marked
    passed_over : members that were not taken: (segment, offset, why)
    busy : segments that another process was writing
    """

    archive_id: str = ""
    studies: int = 0
    instances: int = 0
    emitted: int = 0
    deleted: int = 0
    quarantined: int = 0
    damaged: list[str] = field(default_factory=list)
    passed_over: list[tuple[str, int, str]] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Found:
    """A live member and the segment it is in."""

    segment: str
    read: ReadMember


def reindex(root: Path, database: Database, *, clock: Callable[[], float] = time.time, progress: Progress | None = None) -> ReindexReport:
    """Fill `database`, which must be migrated and empty, from the archive at `root`. The node must not be running on it.

    Raises
    ------
    ArchiveMismatch
        `root` is no archive.
    StorageError
        The database is not empty.
    """
    started = time.monotonic()
    report = ReindexReport(archive_id=_archive_id(root))
    deletions = journal.read(root)
    _begin(database, report.archive_id, deletions)
    graves = _Graves(deletions)
    directories = sorted(path for path in (root / SEGMENTS).iterdir() if path.is_dir())
    for number, directory in enumerate(directories, 1):
        _rebuild_directory(root, directory, database, graves, clock(), report)
        if progress:
            progress(number, len(directories))
    with database.begin() as connection:
        _bury(connection, deletions, graves)
        _rebuild_quarantine(connection, root, report)
        promises.restore(connection, root)
        detail = {"instances": report.instances, "deleted": report.deleted, "damaged": len(report.damaged)}
        audit.record(connection, "archive.rebuilt", actor="reindex", detail=detail, at=clock())
    worklist_upkeep.catch_up(database, now=clock())
    report.seconds = time.monotonic() - started
    log.info("archive.rebuilt", studies=report.studies, instances=report.instances, damaged=len(report.damaged))
    return report


class _Graves:
    """Which members the journal names, and which of them still have their bytes."""

    def __init__(self, deletions: Sequence[Deletion]) -> None:
        self._deleted_at: dict[tuple[str, int, str], float] = {}
        self.standing: set[tuple[str, int]] = set()
        for entry in deletions:
            for span in entry.members:
                key = (span.segment, span.member_offset, entry.sop_uid)
                self._deleted_at[key] = max(entry.deleted_at, self._deleted_at.get(key, 0.0))

    def holds(self, name: str, member: Member) -> bool:
        """Whether the member was deleted; the time tells it from a later one at the same place of a restored segment."""
        assert member.info is not None
        deleted_at = self._deleted_at.get((name, member.member_offset, member.info.sop_uid))
        if deleted_at is None or member.info.received_at > deleted_at:
            return False
        self.standing.add((name, member.member_offset))
        return True


def _archive_id(root: Path) -> str:
    try:
        return (root / "archive-id").read_text().strip()
    except OSError as error:
        raise ArchiveMismatch("the archive root has no archive-id: is its disk mounted?") from error


def _begin(database: Database, archive_id: str, deletions: Sequence[Deletion]) -> None:
    with database.begin() as connection:
        for table in (archive_info, study, tombstone):
            if connection.execute(select(func.count()).select_from(table)).scalar_one():
                raise StorageError("the database to rebuild into is not empty: stop the node, move the old index away, and try again")
        connection.execute(insert(archive_info).values(key="archive_id", value=archive_id))
        made = {entry.sop_uid: entry for entry in deletions if entry.run_key}
        for entry in made.values():
            connection.execute(insert(emitted).values(sop_uid=entry.sop_uid, run_key=entry.run_key, emitted_at=entry.deleted_at))


def _rebuild_directory(root: Path, directory: Path, database: Database, graves: _Graves, now: float, report: ReindexReport) -> None:
    """One directory holds the segments of one study; they are read and indexed in one transaction."""
    found: list[_Found] = []
    sizes: Sizes = {}
    for path in sorted(directory.glob("*.tar")):
        name = str(path.relative_to(root))
        live, end = _read_segment(path, name, graves, report)
        found += live
        status = path.stat()
        sizes[name] = (status.st_size == end + TAR_END, status.st_size, status.st_mtime)
    studies: dict[str, list[_Found]] = {}
    for member in found:
        studies.setdefault(member.read.info.study_uid, []).append(member)
    with database.begin() as connection:
        for study_uid, members in studies.items():
            _rebuild_study(connection, study_uid, members, sizes, now, report)


def _read_segment(path: Path, name: str, graves: _Graves, report: ReindexReport) -> tuple[list[_Found], int]:
    """The live members of a segment, and where its members end."""
    disk = Disk()
    descriptor = try_lock(disk, path)
    if descriptor is None:
        report.busy.append(name)
        return [], 0
    live: list[_Found] = []
    end = 0
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            for member in scan.scan(file):
                if isinstance(member, scan.Broken):
                    report.passed_over.append((name, member.member_offset, member.reason))
                    continue
                end = member.end
                if member.info is None or graves.holds(name, member):
                    report.deleted += 1
                    continue
                live.append(_Found(name, read_columns(descriptor, member, member.info)))
        torn = os.fstat(descriptor).st_size != end + TAR_END and live and not live[-1].read.intact and live[-1].read.member.end == end
    finally:
        disk.close(descriptor)
    if torn:
        # Never acknowledged: the headers became durable, the data did not.
        lost = live.pop()
        report.passed_over.append((name, lost.read.member.member_offset, "an interrupted write"))
    return live, end


def _rebuild_study(
    connection: Connection, study_uid: str, found: Sequence[_Found], sizes: Sizes, now: float, report: ReindexReport
) -> None:
    revisions: dict[str, dict[int, _Found]] = {}
    for member in sorted(found, key=lambda member: (member.read.info.received_at, member.segment, member.read.member.member_offset)):
        held = revisions.setdefault(member.read.info.sop_uid, {})
        other = held.setdefault(member.read.info.revision, member)
        if other is not member:
            if member.read.intact and not other.read.intact:
                held[member.read.info.revision] = member
            report.passed_over.append((member.segment, member.read.member.member_offset, "the same revision is there already"))
    current = [held[max(held)] for held in revisions.values()]
    segments = _insert_segments(connection, study_uid, found, sizes)
    study_pk = _insert_study(connection, study_uid, found, current, now)
    series_pks: dict[str, int] = {}
    for held in revisions.values():
        member = held[max(held)]
        series_uid = member.read.info.series_uid
        if series_uid not in series_pks:
            series_pks[series_uid] = _insert(connection, series, series_uid=series_uid, study_pk=study_pk, **member.read.header.series())
        instance_pk = _insert_instance(connection, member, study_pk, series_pks[series_uid], report)
        if instance_pk is None:
            continue
        for revision, one in sorted(held.items()):
            _insert_location(connection, one, instance_pk, segments[one.segment], revision)
    report.studies += 1


def _insert_segments(connection: Connection, study_uid: str, found: Sequence[_Found], sizes: Sizes) -> dict[str, int]:
    pks = {}
    for name in dict.fromkeys(member.segment for member in found):
        sealed, size, changed = sizes[name]
        first = min(member.read.info.received_at for member in found if member.segment == name)
        state = {"state": "SEALED", "size": size, "sealed_at": changed} if sealed else {"state": "OPEN"}
        pks[name] = _insert(connection, segment, name=name, study_uid=study_uid, created_at=first, **state)
    return pks


def _insert_study(connection: Connection, study_uid: str, found: Sequence[_Found], current: Sequence[_Found], now: float) -> int:
    first = found[0].read if len(current) == 0 else current[0].read
    received = [member.read.info.received_at for member in found if member.read.info.origin != "emitted"] or [first.info.received_at]
    revision = sum(member.read.info.origin != "emitted" for member in found)
    patients = {member.read.header.patient_id for member in current if member.read.info.origin != "emitted"}
    return _insert(
        connection,
        study,
        study_uid=study_uid,
        patient_pk=_patient(connection, first, study_uid),
        state="COMPLETE",
        revision=revision,
        completed_revision=revision,
        completed_at=now,
        complete_reason=COMPLETE_REASON,
        first_received_at=min(received),
        last_received_at=max(received),
        flag=MIXED_PATIENTS if len(patients) > 1 else None,
        **first.header.study(),
    )


def _patient(connection: Connection, read: ReadMember, study_uid: str) -> int:
    columns = read.header.patient()
    key = {
        "patient_id": columns["patient_id"],
        "issuer": columns["issuer"],
        "anonymous_study": "" if columns["patient_id"] else study_uid,
    }
    known = select(patient.c.pk).where(*(patient.c[name] == value for name, value in key.items()))
    pk = connection.execute(known).scalar_one_or_none()
    if pk is not None:
        return int(pk)
    return _insert(connection, patient, **{**columns, **key})


def _insert_instance(connection: Connection, found: _Found, study_pk: int, series_pk: int, report: ReindexReport) -> int | None:
    read, info = found.read, found.read.info
    values = {
        "sop_uid": info.sop_uid,
        "sop_class_uid": info.sop_class_uid,
        "study_pk": study_pk,
        "series_pk": series_pk,
        "transfer_syntax_uid": info.transfer_syntax_uid,
        "digest": info.digest,
        "length": read.member.length - read.member.meta_length,
        "revision": info.revision,
        "received_at": info.received_at,
        "association_id": info.association_id or None,
        "calling_ae": info.calling_ae,
        "called_ae": info.called_ae,
        "origin": info.origin,
        "run_key": info.run_key or None,
        "status": "OK" if read.intact else "DAMAGED",
        "damage": None if read.intact else "the data set's bytes have changed",
        **read.instance_columns(),
    }
    pk = connection.execute(insert_new(connection, instance).values(values).returning(instance.c.pk)).scalar_one_or_none()
    if pk is None:
        report.passed_over.append((found.segment, read.member.member_offset, "another study holds the same SOP Instance UID"))
        return None
    report.instances += 1
    if not read.intact:
        report.damaged.append(info.sop_uid)
    if info.origin == "emitted":
        report.emitted += 1
        made = {"sop_uid": info.sop_uid, "run_key": info.run_key, "emitted_at": info.received_at}
        connection.execute(insert_new(connection, emitted).values(made))
    return int(pk)


def _insert_location(connection: Connection, found: _Found, instance_pk: int, segment_pk: int, revision: int) -> None:
    member = found.read.member
    _insert(
        connection,
        location,
        instance_pk=instance_pk,
        segment_pk=segment_pk,
        member_offset=member.member_offset,
        offset=member.offset,
        length=member.length,
        meta_length=member.meta_length,
        instance_revision=revision,
    )


def _bury(connection: Connection, deletions: Sequence[Deletion], graves: _Graves) -> None:
    """The journal's entries are tombstones again; those whose bytes still stand are finished at the next start."""
    for entry in dict.fromkeys(deletions):
        standing = any((span.segment, span.member_offset) in graves.standing for span in entry.members)
        _insert(
            connection,
            tombstone,
            sop_uid=entry.sop_uid,
            study_uid=entry.study_uid,
            digest=entry.digest,
            deleted_by=entry.deleted_by,
            reason=entry.reason,
            deleted_at=entry.deleted_at,
            members=[list(span) for span in entry.members],
            finished_at=None if standing else entry.deleted_at,
        )


def _rebuild_quarantine(connection: Connection, root: Path, report: ReindexReport) -> None:
    # One that was just accepted, its file not yet removed, is held again: accepting it once more finds its bytes there.
    for path in sorted((root / quarantine_file.FOLDER).glob("*.tar")):
        try:
            _, info, why = quarantine_file.read(path)
        except Damaged as error:
            report.passed_over.append((f"{quarantine_file.FOLDER}/{path.name}", 0, str(error)))
            continue
        quarantine.record(connection, info, why, quarantine_file.name_of(info.digest))
        report.quarantined += 1


def _insert(connection: Connection, table: Any, **values: Any) -> int:
    return int(connection.execute(insert(table).values(values).returning(table.c.pk)).scalar_one())
