"""The deletion journal: one synced JSON line per deletion, beside the segments.

A deletion is a fact that must outlive the index. The journal names the bytes (segment, offsets, length) rather than only the UID, because
the same instance may be stored again after its deletion: those later bytes live.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from storage import appended
from storage.disk import Disk

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

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Deletion:
        """Parse one line's object; raises KeyError, TypeError or ValueError where it is none."""
        members = tuple(MemberSpan(str(name), int(member), int(offset), int(length)) for name, member, offset, length in record["members"])
        return cls(**{**record, "members": members})


def append(disk: Disk, root: Path, deletions: Sequence[Deletion]) -> None:
    """Append `deletions` and sync; several processes may do so at once."""
    appended.append(disk, root, JOURNAL, [asdict(deletion) for deletion in deletions])


def read(root: Path) -> list[Deletion]:
    """Every deletion ever journaled; a torn or foreign line is passed over."""
    return list(_parse(appended.read(root, JOURNAL)))


def _parse(records: Iterable[dict[str, Any]]) -> Iterable[Deletion]:
    for record in records:
        try:
            yield Deletion.from_record(record)
        except (ValueError, KeyError, TypeError):
            continue
