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

from storage.copying import sync_directory

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


def append(root: Path, deletions: Sequence[Deletion]) -> None:
    """Append `deletions` and sync; several processes may do so at once."""
    if not deletions:
        return
    path = root / JOURNAL
    created = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + b"".join(deletion.to_line() for deletion in deletions)
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if created:
        sync_directory(root)


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


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
