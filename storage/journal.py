"""The deletion journal: one synced JSON line per deletion, beside the segments.

A deletion is a fact that must outlive the index. The journal names the bytes (segment, offsets, length) rather than only the UID, because
the same instance may be stored again after its deletion: those later bytes live.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from storage.disk import Disk, translated
from storage.errors import StorageError

JOURNAL = "deletions.jsonl"


class MemberSpan(NamedTuple):
    """The bytes of one member: segment (relative to the archive root), its pax header's offset, offset and length of its Part 10 file."""

    segment: str
    member_offset: int
    offset: int
    length: int


@dataclass(frozen=True)
class Deletion:
    """One deleted instance: what, who, why, and which bytes go."""

    tombstone: int = field(compare=False)  # its row's key; a rebuilt index gives it another
    sop_uid: str
    study_uid: str
    digest: str
    deleted_by: str
    reason: str
    deleted_at: float
    members: tuple[MemberSpan, ...]
    run_key: str = ""  # of an object this node made: the loop breaker must know it although it is gone

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True).encode() + b"\n"

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Deletion:
        """Parse one line's object; raises KeyError, TypeError or ValueError where it is none."""
        members = tuple(MemberSpan(str(name), int(member), int(offset), int(length)) for name, member, offset, length in record["members"])
        return cls(**{**record, "members": members})


def append(disk: Disk, root: Path, deletions: Sequence[Deletion]) -> None:
    """Append `deletions` and sync; several processes may do so at once."""
    if not deletions:
        return
    path = root / JOURNAL
    descriptor = _open(disk, path)
    try:
        with translated():
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + b"".join(deletion.to_line() for deletion in deletions)
        disk.write(descriptor, [data], size)
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


def read(root: Path) -> list[Deletion]:
    """Every deletion ever journaled; a torn or foreign line is passed over."""
    try:
        lines = (root / JOURNAL).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return list(_parse(lines))


def _parse(lines: Iterable[bytes]) -> Iterable[Deletion]:
    for line in lines:
        try:
            yield Deletion.from_record(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue
