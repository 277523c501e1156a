"""Archive: the only class that touches both bytes and index. Its parts stand in files of their own; this is their front."""

from __future__ import annotations

import io
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sqlalchemy import Connection, Row, insert, select, update

from storage.database import Database
from storage.disk import Disk, translated
from storage.errors import ArchiveMismatch, NoSpace, NotFound, ReadOnly
from storage.filepart import FilePart
from storage.ingest import IngestSession, InstanceWriter
from storage.receipt import Outcome, Receipt, Source
from storage.recovery import RecoveryReport, recover, reopen_segment, unheld_segments
from storage.schema import archive_info, instance, location, segment, series, study
from storage.segments import SEGMENTS, SegmentLimits, SegmentPool
from storage.writer import IndexWriter

if TYPE_CHECKING:
    from storage.deletion import DeletionReport

__all__ = [
    "Archive",
    "ArchiveSettings",
    "EmittedObject",
    "IngestSession",
    "InstanceWriter",
    "Outcome",
    "Receipt",
    "Source",
    "StoredInstance",
]

ARCHIVE_ID, SPOOL, QUARANTINE = "archive-id", "spool", "quarantine"
SPACE_CHECK_SECONDS = 1.0


@dataclass(frozen=True)
class ArchiveSettings:
    """`min_free`: bytes of disk below which nothing is taken; `max_segment`: size beyond which a segment takes no further member."""

    min_free: int = 0
    max_segment: int = 1 << 30
    max_idle_segments: int = 256
    idle_seconds: float = 30.0


@dataclass(frozen=True)
class EmittedObject:
    """An object that this node made, encoded: a data set without file meta."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    transfer_syntax_uid: str
    dataset_bytes: bytes
    run_key: str


@dataclass(frozen=True)
class StoredInstance:
    """An instance of the archive: its UIDs, and where its Part 10 file lies (`length` bytes at `offset` of the segment `path`)."""

    sop_uid: str
    sop_class_uid: str
    study_uid: str
    series_uid: str
    transfer_syntax_uid: str
    digest: str
    path: Path
    offset: int
    length: int
    meta_length: int
    instance_number: str = ""
    status: str = "OK"

    @property
    def damaged(self) -> bool:
        return self.status != "OK"

    def read(self) -> bytes:
        """The whole Part 10 file."""
        return self.pread(0, self.length)

    def pread(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset` of the Part 10 file."""
        length = max(0, min(length, self.length - offset))
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, self.offset + offset)

    def file(self) -> BinaryIO:
        """The Part 10 file, to be read as a file of its own and closed."""
        return _MemberFile(self.path.open("rb", buffering=0), self.offset, self.length)


class Archive:
    """The archive of one process: bytes below `root`, rows in `database`.

    Attributes
    ----------
    own_device_uids : tells the Device UIDs of this node; a derived object that bears one is a result of ours coming back
    """

    def __init__(
        self, root: Path, database: Database, process: str, clock: Callable[[], float], settings: ArchiveSettings, disk: Disk
    ) -> None:
        self.root = root
        self.database = database
        self.process = process
        self.clock = clock
        self.settings = settings
        self.disk = disk
        self.spool = root / SPOOL
        self.own_device_uids: Callable[[], Collection[str]] = tuple
        self.writer = IndexWriter(database)
        limits = SegmentLimits(settings.max_segment, settings.max_idle_segments, settings.idle_seconds)
        self._segment_path = lru_cache(maxsize=256)(root.__truediv__)  # instances of a segment share its path, and what it costs
        self.pool = SegmentPool(disk, root, lambda study_uid: reopen_segment(self, study_uid), clock, limits)
        self._space_checked = -SPACE_CHECK_SECONDS
        self._short_of_space = False

    @classmethod
    def create(cls, root: Path, database: Database, *, disk: Disk | None = None) -> Archive:
        """Make an empty archive: its directories and an id that both sides hold.

        Raises
        ------
        ArchiveMismatch
            One of them holds an id already.
        """
        disk = disk or Disk()
        archive_id = uuid.uuid4().hex
        with translated():
            for path in (root, root / SEGMENTS, root / SPOOL, root / QUARANTINE):
                path.mkdir(parents=True, exist_ok=True, mode=0o750)
        if (root / ARCHIVE_ID).exists():
            raise ArchiveMismatch("the archive root has an id already")
        with database.begin() as connection:
            if connection.scalar(select(archive_info.c.value).where(archive_info.c.key == "archive_id")) is not None:
                raise ArchiveMismatch("the index belongs to another archive")
            descriptor = disk.create(root / ARCHIVE_ID)
            try:
                disk.write(descriptor, [f"{archive_id}\n".encode()], 0)
                disk.sync(descriptor)
            finally:
                disk.close(descriptor)
            disk.sync_directory(root)
            disk.sync_directory(root.parent)
            connection.execute(insert(archive_info).values(key="archive_id", value=archive_id))
        return cls(root, database, "", time.time, ArchiveSettings(), disk)

    @classmethod
    def open(
        cls,
        root: Path,
        database: Database,
        *,
        process: str,
        clock: Callable[[], float] = time.time,
        own_device_uids: Callable[[], Collection[str]] = tuple,
        settings: ArchiveSettings | None = None,
        disk: Disk | None = None,
    ) -> Archive:
        """Open an archive whose root and index belong together.

        Raises
        ------
        ArchiveMismatch
            They do not; or the root is not mounted.
        """
        disk, settings = disk or Disk(), settings or ArchiveSettings()
        disk.reserve = settings.min_free
        archive = cls(root, database, process, clock, settings, disk)
        archive.own_device_uids = own_device_uids
        archive.check_id()
        return archive

    def check_id(self) -> str:
        """Return the archive's id; raises ArchiveMismatch where root and index do not hold the same."""
        try:
            here = (self.root / ARCHIVE_ID).read_text().strip()
        except OSError as error:
            raise ArchiveMismatch(f"{self.root} has no archive-id: is its disk mounted?") from error
        with self.database.read() as connection:
            there = connection.scalar(select(archive_info.c.value).where(archive_info.c.key == "archive_id"))
        if here != there:
            raise ArchiveMismatch(f"{self.root} is archive {here}, the index belongs to {there or 'none'}")
        return here

    # -- in -------------------------------------------------------------------------------------------------------------------------

    def session(self, source: Source) -> IngestSession:
        """A way in for one association, request or import."""
        return IngestSession(self, source)

    def store_emitted(self, objects: Sequence[EmittedObject], *, in_transaction: Callable[[Connection], None]) -> None:
        """Keep the objects of a run: bytes first, durable, then their rows and what `in_transaction` does in one transaction.

        Whatever that raises leaves nothing behind.
        """
        from storage.emission import store_emitted

        store_emitted(self, objects, in_transaction)

    def check_space(self) -> None:
        """Raise NoSpace below the watermark. Looks at the disk once a second."""
        now = time.monotonic()
        if self.settings.min_free and now - self._space_checked >= SPACE_CHECK_SECONDS:
            self._short_of_space = self.free_bytes() < self.settings.min_free
            self._space_checked = now
        if self._short_of_space:
            raise NoSpace("archive is below its free space limit")

    def free_bytes(self) -> int:
        """Bytes that the archive's disk has free."""
        try:
            return shutil.disk_usage(self.root).free
        except OSError as error:
            raise ReadOnly("archive root cannot be reached") from error

    # -- out ------------------------------------------------------------------------------------------------------------------------

    def open_instance(self, sop_uid: str) -> StoredInstance:
        """The instance of a UID; raises NotFound."""
        with self.database.read() as connection:
            row = connection.execute(STORED.where(instance.c.sop_uid == sop_uid)).first()
        if row is None:
            raise NotFound(f"no instance {sop_uid}")
        return self.stored(row)

    def instances(self, study_uid: str, series_uid: str | None = None) -> list[StoredInstance]:
        """Instances of a study, or of one of its series, by series and instance number; damaged ones too."""
        query = STORED.where(study.c.study_uid == study_uid)
        if series_uid is not None:
            query = query.where(series.c.series_uid == series_uid)
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(series.c.pk, instance.c.pk)).all()
        return sorted(map(self.stored, rows), key=lambda each: (each.series_uid, _number(each.instance_number)))

    def stored(self, row: Row[*tuple[Any, ...]]) -> StoredInstance:
        """One row of `STORED` as an instance."""
        name, sop_uid, sop_class, study_uid, series_uid, syntax, digest, offset, length, meta_length, number, status = row
        path = self._segment_path(name)
        return StoredInstance(sop_uid, sop_class, study_uid, series_uid, syntax, digest, path, offset, length, meta_length, number, status)

    # -- upkeep ---------------------------------------------------------------------------------------------------------------------

    def recover(self) -> RecoveryReport:
        """Bring bytes and index together after a crash (DESIGN, "At start"); only segments that nobody holds are touched."""
        return recover(self)

    def tend(self) -> int:
        """Close segments that have been idle for long, so that others may seal or compact them; return how many."""
        return self.pool.close_idle()

    def seal_study(self, study_uid: str) -> int:
        """Cut, sync and mark as sealed the segments of a study that nobody is writing; return how many."""
        self.close_idle_segments(study_uid)
        sealed = 0
        for held in unheld_segments(self, study_uid):
            try:
                size = held.seal()
                with self.database.begin() as connection:
                    values = {"state": "SEALED", "size": size, "sealed_at": self.clock()}
                    connection.execute(update(segment).where(segment.c.name == held.name).values(values))
            finally:
                held.close()
            sealed += 1
        return sealed

    def close_idle_segments(self, study_uid: str) -> None:
        """Give up the locks of a study's segments that this process holds and is not writing."""
        for held in self.pool.take_all(study_uid):
            held.close()

    def delete_study(self, study_uid: str, *, who: str, reason: str) -> DeletionReport:
        """Delete a study; see `storage.deletion`."""
        from storage.deletion import delete_study

        return delete_study(self, study_uid, who=who, reason=reason)

    def delete_instance(self, sop_uid: str, *, who: str, reason: str) -> DeletionReport:
        """Delete an instance; see `storage.deletion`."""
        from storage.deletion import delete_instance

        return delete_instance(self, sop_uid, who=who, reason=reason)

    def close(self) -> None:
        """Give up all segments and the writer's connection."""
        self.pool.close()
        self.writer.close()


class _MemberFile(io.BufferedReader):
    """A member as a file; closing it closes the segment it is read from."""

    def __init__(self, file: io.FileIO, offset: int, length: int) -> None:
        self._segment = file
        super().__init__(FilePart(file, offset, length))

    def close(self) -> None:
        super().close()
        self._segment.close()


STORED = (
    select(
        segment.c.name,
        instance.c.sop_uid,
        instance.c.sop_class_uid,
        study.c.study_uid,
        series.c.series_uid,
        instance.c.transfer_syntax_uid,
        instance.c.digest,
        location.c.offset,
        location.c.length,
        location.c.meta_length,
        instance.c.instance_number,
        instance.c.status,
    )
    .select_from(instance)
    .join(series, series.c.pk == instance.c.series_pk)
    .join(study, study.c.pk == instance.c.study_pk)
    .join(location, (location.c.instance_pk == instance.c.pk) & (location.c.instance_revision == instance.c.revision))
    .join(segment, segment.c.pk == location.c.segment_pk)
)


def _number(text: str) -> tuple[int, str]:
    try:
        return int(text), ""
    except ValueError:
        return 1 << 62, text
