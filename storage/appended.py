"""Files of one synced JSON line per fact, beside the segments: what must outlive the index. Several processes may append at once."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from storage.disk import Disk, translated
from storage.errors import StorageError


def append(disk: Disk, root: Path, name: str, records: Sequence[dict[str, Any]]) -> None:
    """Append `records` to a file of the archive root and sync; a line that a crash tore is ended first."""
    if not records:
        return
    descriptor = _open(disk, root / name)
    try:
        with translated():
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        lines = (json.dumps(record, separators=(",", ":"), sort_keys=True).encode() + b"\n" for record in records)
        disk.write(descriptor, [(b"\n" if torn else b"") + b"".join(lines)], size)
        disk.sync(descriptor)
        if size == 0:  # before the lock goes: whoever appends next relies on the file's name
            disk.sync_directory(root)
    finally:
        disk.close(descriptor)


def _open(disk: Disk, path: Path) -> int:
    if not path.exists():
        try:
            return disk.create(path)
        except StorageError:
            if not path.exists():
                raise
    return disk.open(path)


def read(root: Path, name: str) -> Iterator[dict[str, Any]]:
    """Every record ever appended; a torn or foreign line is passed over."""
    try:
        lines = (root / name).read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record
