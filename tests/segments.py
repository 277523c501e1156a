"""Archives made by hand, byte by byte, for tests of what reads them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import blake3

from storage.members import BLOCK, MemberInfo, layout_of, padded, safe_name
from tests.datasets import CT, EXPLICIT


def info_of(study_uid: str, series_uid: str, sop_uid: str, data: bytes, **changes: object) -> MemberInfo:
    """What the member of an instance says, with a receipt of its own."""
    info = MemberInfo(
        study_uid=study_uid,
        series_uid=series_uid,
        sop_uid=sop_uid,
        sop_class_uid=CT,
        transfer_syntax_uid=EXPLICIT,
        digest=blake3.blake3(data).hexdigest(),
        received_at=1_760_000_000.5,
        calling_ae="SCANNER",
        called_ae="NODE",
        address="127.0.0.1",
        association_id="a1",
    )
    return replace(info, **changes)  # type: ignore[arg-type]


def member_bytes(info: MemberInfo, data: bytes) -> bytes:
    """A whole member: headers, Part 10 file, padding."""
    layout = layout_of(info)
    length = len(layout.meta) + len(data)
    whole = layout.headers(digest=info.digest, received_at=info.received_at, length=length) + layout.meta + data
    return whole.ljust(padded(len(whole)), b"\0")


def write_segment(root: Path, study_uid: str, name: str, members: list[bytes], zeros: int = 2 * BLOCK) -> Path:
    """A segment of whole members, closed by zeros."""
    path = root / "segments" / safe_name(study_uid) / f"{name}.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(members) + bytes(zeros))
    return path


def listed(path: Path) -> list[str]:
    """The names that tar lists; tar must be content."""
    done = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()
