"""Copying byte ranges between files inside the kernel where it can, synced at the end."""

from __future__ import annotations

import errno
import os
from pathlib import Path

CHUNK = 8 * 1024 * 1024
NOT_HERE = frozenset({errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})


def copy_range(source: int, offset: int, length: int, target: int) -> int:
    """Copy `length` bytes from `offset` of descriptor `source` to the current end of `target`; return how many there were."""
    copied = 0
    while copied < length:
        count = _step(source, offset + copied, min(CHUNK, length - copied), target)
        if not count:
            break
        copied += count
    return copied


def copy_file(source: Path, target: Path, length: int | None = None, padding: int = 0) -> int:
    """Copy the first `length` bytes (or all) of `source` to the new file `target`, append `padding` zeros and sync; return its size."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reading, target.open("xb") as writing:
        size = os.fstat(reading.fileno()).st_size
        copied = copy_range(reading.fileno(), 0, size if length is None else min(length, size), writing.fileno())
        os.write(writing.fileno(), bytes(padding))
        os.fsync(writing.fileno())
    return copied + padding


def sync_directory(path: Path) -> None:
    """Make the names in the directory `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _step(source: int, offset: int, count: int, target: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, count, offset)
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
    data = os.pread(source, count, offset)
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return len(data)
