"""The bytes of a quarantined instance: ``quarantine/<digest>.tar``, a tar file with one member that says all about itself.

The member is one of a segment (`storage.members`); its record has one more key, ``quarantine``, with why it is here.
"""

from __future__ import annotations

import json
import os
import tarfile
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from storage.disk import Disk, translated
from storage.errors import Damaged, StorageError
from storage.members import BLOCK, BrokenMember, Member, MemberInfo, MemberLayout, fixed_of, read_member

FOLDER = "quarantine"
PARTIAL = ".partial-"
TAR_END = bytes(2 * BLOCK)
CHUNK = 1 << 20


@dataclass(frozen=True)
class Why:
    """Why an instance is in quarantine: ``conflict`` or ``malformed``, a sentence, and the digest it collides with."""

    kind: str
    reason: str
    existing_digest: str | None = None


def name_of(digest: str) -> str:
    """Path of the file, relative to the archive root."""
    return f"{FOLDER}/{digest}.tar"


def write(disk: Disk, root: Path, info: MemberInfo, why: Why, source: int, offset: int, length: int) -> str:
    """Copy `length` bytes of data set at `offset` of descriptor `source` into quarantine, durably; return the file's name.

    The same bytes twice are one file. Whatever fails leaves no file.
    """
    name = name_of(info.digest)
    target = root / name
    if target.exists():
        return name
    if disk.make_directory(root / FOLDER):
        disk.sync_directory(root)
    partial = target.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
    descriptor = disk.create(partial)
    try:
        try:
            _fill(disk, descriptor, info, why, source, offset, length)
        finally:
            disk.close(descriptor)
        disk.rename(partial, target)
        disk.sync_directory(target.parent)
    except BaseException:
        with suppress(StorageError):
            disk.unlink(partial)
        raise
    return name


def _fill(disk: Disk, descriptor: int, info: MemberInfo, why: Why, source: int, offset: int, length: int) -> None:
    layout = _layout(info, why)
    size = len(layout.meta) + length
    headers = layout.headers(digest=info.digest, received_at=info.received_at, length=size)
    position = disk.write(descriptor, [headers, layout.meta], 0)
    end = offset + length
    while offset < end:
        with translated():
            data = os.pread(source, min(CHUNK, end - offset), offset)
        if not data:
            raise Damaged("the bytes to quarantine end too early")
        position += disk.write(descriptor, [data], position)
        offset += len(data)
    disk.write(descriptor, [bytes(-size % BLOCK) + TAR_END], position)
    disk.sync(descriptor)


def partial_files(root: Path) -> list[Path]:
    """Files that are being written, or that a crash left half-written."""
    return list((root / FOLDER).glob(f"{PARTIAL}*"))


def read(path: Path) -> tuple[Member, MemberInfo, Why]:
    """What a quarantine file holds.

    Raises
    ------
    Damaged
        It is no such file, or not a whole one.
    """
    try:
        with path.open("rb") as file:
            member = read_member(lambda size, offset: os.pread(file.fileno(), size, offset), 0)
        with tarfile.open(path) as tar:
            comment = json.loads(tar.getmembers()[0].pax_headers["comment"])
        why = Why(**comment["quarantine"])
    except (BrokenMember, tarfile.TarError, KeyError, IndexError, ValueError, TypeError) as error:
        raise Damaged("the quarantine file cannot be read") from error
    if member is None or member.info is None or path.stat().st_size < member.offset + member.length:
        raise Damaged("the quarantine file is not whole")
    return member, member.info, why


def _layout(info: MemberInfo, why: Why) -> MemberLayout:
    # A malformed instance may lack UIDs that every member of a segment has.
    lacking = {name: "" for name in ("study_uid", "series_uid", "sop_class_uid", "transfer_syntax_uid") if not getattr(info, name)}
    reason = json.dumps({**lacking, "quarantine": asdict(why)}, separators=(",", ":"))[1:-1].encode() + b","
    return MemberLayout(fixed_of(info) + reason, info.series_uid, info.sop_uid, info.sop_class_uid, info.transfer_syntax_uid)
