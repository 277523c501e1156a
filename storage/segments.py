"""Segments: ordinary tar files, each of one study, that grow by whole members and are sealed when the study is complete.

A segment that is open for appending is held with an exclusive lock (`flock`), so one process at a time writes it. It is zero-filled
ahead of its end, so it is a valid tar file at every moment. Idle ones wait in the process's pool for the next instance of their study.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from storage.disk import Buffer, Disk
from storage.errors import NoSpace, StorageError
from storage.members import BLOCK, padded, safe_name

SEGMENTS = "segments"
TAR_END = 2 * BLOCK
FIRST_STEP = 1 << 20
MAX_STEP = 64 << 20
SMALL = 64 << 10  # instances below this are written over written zeros, which costs no metadata at their sync
SMALL_STEP = 4 << 20


@dataclass(frozen=True)
class SegmentLimits:
    """`max_size`: a segment beyond it takes no further member; `max_idle`: open files kept; `idle_seconds`: how long."""

    max_size: int = 4 << 30
    max_idle: int = 256
    idle_seconds: float = 30.0


class Segment:
    """One segment, locked by this process and used by one thread at a time.

    Attributes
    ----------
    name : path relative to the archive root
    end : where the next member starts
    append_at : where the next member starts when several are appended before their rows are durable; else `end`
    pk : its row in the index, None until its first member's row is durable
    """

    __slots__ = (
        "_disk",
        "_mark",
        "_size",
        "_step",
        "_unsynced_names",
        "append_at",
        "descriptor",
        "end",
        "idle_since",
        "name",
        "path",
        "pk",
        "study_uid",
    )

    def __init__(self, disk: Disk, path: Path, name: str, study_uid: str, descriptor: int, *, end: int = 0, pk: int | None = None) -> None:
        self._disk = disk
        self.path = path
        self.name = name
        self.study_uid = study_uid
        self.descriptor = descriptor
        self.end = end
        self.append_at = end
        self.pk = pk
        self.idle_since = 0.0
        self._size = os.fstat(descriptor).st_size
        self._step = FIRST_STEP if self._size < 2 * FIRST_STEP else min(self._size, MAX_STEP)
        self._mark = end  # beyond it nothing is written
        self._unsynced_names: list[Path] = []

    @property
    def closed(self) -> bool:
        return self.descriptor < 0

    def write(self, buffers: Sequence[Buffer], offset: int, length: int, *, small: bool = False) -> None:
        """Put `length` bytes at `offset`, which lies at or beyond `end`."""
        stop = offset + length
        if stop + TAR_END > self._size:
            self._extend(stop + TAR_END, small)
        if stop > self._mark:
            self._mark = stop
        self._disk.write(self.descriptor, buffers, offset)

    def sync(self) -> None:
        """Make everything written durable, a new segment's name too."""
        self._disk.sync(self.descriptor)
        if self._unsynced_names:
            for directory in self._unsynced_names:
                self._disk.sync_directory(directory)
            self._unsynced_names = []

    def advance(self, end: int) -> None:
        """The member that ends before `end` stays."""
        self.end = self.append_at = self._mark = padded(end)

    def abandon(self) -> None:
        """Make everything beyond `end` zeros again, durably. A segment that cannot is closed: whoever opens it next recovers it."""
        if self._mark == self.end or self.closed:
            return
        try:
            self._disk.zero(self.descriptor, self.end, self._mark - self.end)
            self._disk.sync(self.descriptor)
        except StorageError:
            self.close()
            return
        self._mark = self.append_at = self.end

    def seal(self) -> int:
        """Cut the zeros ahead off and sync; return the size. The segment is still locked."""
        size = self.end + TAR_END
        self._disk.truncate(self.descriptor, size)
        self._disk.sync(self.descriptor)
        self._size = size
        return size

    def pread(self, length: int, offset: int) -> bytes:
        return os.pread(self.descriptor, length, offset)

    def close(self) -> None:
        """Give the lock up."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            self._disk.close(descriptor)

    def synced_with(self, directories: list[Path]) -> None:
        """Its name is new: `directories` are synced with its first member."""
        self._unsynced_names = directories

    def _extend(self, needed: int, small: bool) -> None:
        step = min(self._step, SMALL_STEP) if small else self._step
        least = padded(needed - self._size)
        length = max(padded(step), least)
        try:
            self._disk.allocate(self.descriptor, self._size, length, written=small)
        except NoSpace:
            if length == least:
                raise
            length = least  # a disk that is nearly full has nothing for later, but perhaps enough for now
            self._disk.allocate(self.descriptor, self._size, length, written=small)
        self._size += length
        self._step = min(2 * self._step, MAX_STEP)


def try_lock(disk: Disk, path: Path) -> int | None:
    """Open and lock a segment that exists; None where another process writes it or it is gone."""
    try:
        descriptor = disk.open(path)
    except StorageError:
        if path.exists():
            raise
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except OSError:
        pass
    disk.close(descriptor)
    return None


def create_segment(disk: Disk, root: Path, study_uid: str) -> Segment:
    """Make an empty segment in the study's directory. Never makes the archive's own directories: a root that lost them is no archive."""
    segments = root / SEGMENTS
    directory = segments / safe_name(study_uid)
    disk.make_directory(directory)
    name = f"{SEGMENTS}/{directory.name}/{secrets.token_hex(6)}.tar"
    descriptor = disk.create(root / name)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    if not os.fstat(descriptor).st_nlink:  # somebody who clears up had its lock first, and took the empty file away
        disk.close(descriptor)
        return create_segment(disk, root, study_uid)
    segment = Segment(disk, root / name, name, study_uid, descriptor)
    segment.synced_with([directory, segments])  # both: whoever else made the directory may not have synced it yet
    return segment


class SegmentPool:
    """The segments that this process holds open, by study.

    Parameters
    ----------
    reopen
        Finds an unsealed segment of a study that nobody holds, recovers and locks it; None where there is none.
    """

    def __init__(
        self, disk: Disk, root: Path, reopen: Callable[[str], Segment | None], clock: Callable[[], float], limits: SegmentLimits
    ) -> None:
        self._disk = disk
        self._root = root
        self._reopen = reopen
        self._clock = clock
        self._limits = limits
        self._lock = threading.Lock()
        self._idle: dict[str, list[Segment]] = {}  # in the order of their last use
        self._count = 0

    def borrow(self, study_uid: str) -> Segment:
        """An idle segment of the study, one that nobody holds, or a new one."""
        with self._lock:
            segments = self._idle.get(study_uid)
            if segments:
                self._count -= 1
                segment = segments.pop()
                if not segments:
                    del self._idle[study_uid]
                return segment
        return self._reopen(study_uid) or create_segment(self._disk, self._root, study_uid)

    def give_back(self, segment: Segment) -> None:
        """The segment may serve another association now."""
        if segment.closed:
            return
        if segment.end >= self._limits.max_size or segment.pk is None:
            retire(self._disk, segment)
            return
        now = segment.idle_since = self._clock()
        with self._lock:
            others = self._idle.pop(segment.study_uid, [])
            others.append(segment)
            self._idle[segment.study_uid] = others
            self._count += 1
            excess = self._oldest(now) if self._count > self._limits.max_idle else []
        for old in excess:
            old.close()

    def take_all(self, study_uid: str) -> list[Segment]:
        """Every idle segment of a study; the caller has them now."""
        with self._lock:
            segments = self._idle.pop(study_uid, [])
            self._count -= len(segments)
        return segments

    def close_idle(self) -> int:
        """Close what has been idle for long, so that other processes may seal, compact or delete it; return how many."""
        limit = self._clock() - self._limits.idle_seconds
        with self._lock:
            old = [segment for segments in self._idle.values() for segment in segments if segment.idle_since <= limit]
            self._forget(old)
        for segment in old:
            segment.close()
        return len(old)

    def close(self) -> None:
        with self._lock:
            idle = [segment for segments in self._idle.values() for segment in segments]
            self._forget(idle)
        for segment in idle:
            segment.close()

    def _oldest(self, now: float) -> list[Segment]:
        oldest = next(iter(self._idle.values()))[:1]
        self._forget(oldest)
        return oldest

    def _forget(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            held = self._idle[segment.study_uid]
            held.remove(segment)
            if not held:
                del self._idle[segment.study_uid]
        self._count -= len(segments)


def retire(disk: Disk, segment: Segment) -> None:
    """Give a segment up; one without a member leaves no file behind."""
    if not segment.closed and segment.end == 0:
        with suppress(StorageError):
            disk.unlink(segment.path)
    segment.close()
