"""Walk the members of a segment by its bytes alone, past what is broken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import blake3

from storage.members import BLOCK, BrokenMember, Member, read_member

CHUNK = 4 * 1024 * 1024
MARK = b"PaxHeader\0"


@dataclass(frozen=True)
class Broken:
    """A place where a member should stand and none can be read."""

    member_offset: int
    reason: str


def scan(file: BinaryIO) -> Iterator[Member | Broken]:
    """Every member of the open segment `file`, deleted ones too; after a broken place the walk goes on at the next member's header."""
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    position: int | None = 0
    while position is not None and position < size:
        try:
            member = read_member(lambda length, offset: os.pread(descriptor, length, offset), position)
        except BrokenMember as error:
            yield Broken(position, str(error))
            position = _next_header(descriptor, position + BLOCK, size)
            continue
        if member is None:
            return  # what an interrupted write left behind is not read: its content is the sender's, and may look like anything
        if member.offset + member.length > size:
            yield Broken(position, "the segment ends inside the member")
            position = _next_header(descriptor, position + BLOCK, size)
            continue
        yield member
        position = member.end


def digest_of(descriptor: int, offset: int, length: int) -> str:
    """BLAKE3 of a range, hex; of what is there, where the file ends before it."""
    hasher = blake3.blake3()
    end = offset + length
    while offset < end and (data := os.pread(descriptor, min(CHUNK, end - offset), offset)):
        hasher.update(data)
        offset += len(data)
    return str(hasher.hexdigest())


def _next_header(descriptor: int, position: int, size: int) -> int | None:
    """The next block that starts like a pax header of ours."""
    while position < size:
        data = os.pread(descriptor, CHUNK, position)
        found = data.find(MARK)
        while found >= 0:
            if found % BLOCK == 0:
                return position + found
            found = data.find(MARK, found + 1)
        position += CHUNK
    return None
