"""Every write, sync and removal that the archive's bytes need, in one small class.

A subclass that records its calls gives a trace that can be replayed at every prefix; nothing else in the ingest path touches the disk.
What only Linux has is used where it is there. Errors of the operating system leave here as `NoSpace`, `ReadOnly` or `StorageError`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.errors import NoSpace, ReadOnly, StorageError
from storage.punch import punch

Buffer = bytes | memoryview
IOV_MAX = 1024
ZEROS = bytes(1 << 20)
PUNCH_FROM = 1 << 20
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ESTALE})
_DATASYNC = getattr(os, "fdatasync", os.fsync)


@contextmanager
def translated() -> Iterator[None]:
    """Let errors of the operating system leave as errors of the storage."""
    try:
        yield
    except OSError as error:
        raise translate(error) from error


def translate(error: OSError) -> StorageError:
    """The storage error that says what `error` means for the archive; its text names no path."""
    if error.errno in _NO_SPACE:
        return NoSpace("no space left in the archive")
    if error.errno in _READ_ONLY:
        return ReadOnly("archive cannot be written")
    return StorageError(f"archive: {errno.errorcode.get(error.errno or 0, 'I/O error')}", comment="archive cannot be written")


def _free(descriptor: int) -> int:
    with translated():
        found = os.fstatvfs(descriptor)
    return found.f_bavail * found.f_frsize


class Disk:
    """The real disk. Offsets and lengths are bytes; every method raises a `StorageError`."""

    reserve = 0
    """Bytes that an allocation leaves free: the index, which may lie beside the archive, has to be written as well."""

    def create(self, path: Path) -> int:
        """Create a file that must not exist; return its descriptor."""
        with translated():
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def open(self, path: Path) -> int:
        """Open an existing file for reading and writing."""
        with translated():
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def make_directory(self, path: Path) -> bool:
        """Create a directory below an existing one; tell whether it was new."""
        try:
            path.mkdir(mode=0o750)
        except FileExistsError:
            return False
        except OSError as error:
            raise translate(error) from error
        return True

    def write(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write all of `buffers` at `offset`; return how many bytes that were."""
        try:
            wanted = sum(map(len, buffers))
            if len(buffers) <= IOV_MAX and _pwritev(descriptor, buffers, offset) == wanted:
                return wanted
            # A short write (a full disk, a signal) or too many pieces: one after the other, from the start.
            for buffer in buffers:
                offset = self._write_whole(descriptor, memoryview(buffer), offset)
        except OSError as error:
            raise translate(error) from error
        return wanted

    @staticmethod
    def _write_whole(descriptor: int, view: memoryview, offset: int) -> int:
        while view:
            count = os.pwrite(descriptor, view, offset)
            view, offset = view[count:], offset + count
        return offset

    def allocate(self, descriptor: int, start: int, length: int, *, written: bool) -> None:
        """Extend a file of size `start` by `length` zeros, or not at all; `written` ones make the syncs of what overwrites them cheaper."""
        if self.reserve and _free(descriptor) - length < self.reserve:
            raise NoSpace("archive is below its free space limit")
        try:
            if written:
                for offset in range(start, start + length, len(ZEROS)):
                    self._write_whole(descriptor, memoryview(ZEROS)[: start + length - offset], offset)
            elif hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, start, length)
            else:
                os.ftruncate(descriptor, start + length)
        except OSError as error:
            with suppress(OSError):  # what was had before the disk was full would stay had, and nobody could write any more
                os.ftruncate(descriptor, start)
            raise translate(error) from error

    def zero(self, descriptor: int, start: int, length: int) -> None:
        """Make `length` bytes at `start` zeros; a long range gives its space back."""
        with translated():
            if length >= PUNCH_FROM:
                punch(descriptor, start, length)
            elif length > 0:
                self._write_whole(descriptor, memoryview(ZEROS)[:length], start)

    def punch(self, descriptor: int, start: int, length: int) -> None:
        """Make `length` bytes at `start` zeros and give their space back."""
        with translated():
            punch(descriptor, start, length)

    def truncate(self, descriptor: int, size: int) -> None:
        with translated():
            os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Make a file's bytes and size durable."""
        try:
            _DATASYNC(descriptor)
        except OSError as error:
            raise translate(error) from error

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        with translated():
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name in its directory, over whatever bears it; durable once the directory is synced."""
        with translated():
            source.replace(target)

    def unlink(self, path: Path) -> None:
        with translated():
            path.unlink(missing_ok=True)


def _pwritev(descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
    if len(buffers) == 1:
        return os.pwrite(descriptor, buffers[0], offset)
    if hasattr(os, "pwritev"):
        return os.pwritev(descriptor, buffers, offset)
    return os.pwrite(descriptor, b"".join(buffers), offset)
