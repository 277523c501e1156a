"""The index's columns of a member, read from its bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass

import blake3

from storage.errors import CannotUnderstand
from storage.headers import SERIES, SOP_CLASS, SOP_INSTANCE, STUDY, Header, HeaderScanner
from storage.members import Member, MemberInfo

CHUNK = 1 << 20
INSTANCE_COLUMNS = ("instance_number", "image_type", "rows", "columns", "bits_allocated", "number_of_frames")


@dataclass(frozen=True)
class ReadMember:
    """A member with the digest that its bytes have and the attributes that they hold."""

    member: Member
    info: MemberInfo
    digest: str
    header: Header

    @property
    def intact(self) -> bool:
        return self.digest == self.info.digest

    def instance_columns(self) -> dict[str, str | int | None]:
        """Columns of the instance row that the data set's attributes give."""
        return dict(zip(INSTANCE_COLUMNS, self.header.instance()))


def read_columns(descriptor: int, member: Member, info: MemberInfo) -> ReadMember:
    """Read a member's data set once, for its digest and its attributes; its record stands in for UIDs that cannot be read."""
    hasher = blake3.blake3()
    scanner = HeaderScanner(info.transfer_syntax_uid)
    position, end, readable = member.offset + member.meta_length, member.offset + member.length, True
    while position < end and (data := os.pread(descriptor, min(CHUNK, end - position), position)):
        hasher.update(data)
        position += len(data)
        readable = readable and _feed(scanner, data)
    own = {STUDY: info.study_uid, SERIES: info.series_uid, SOP_INSTANCE: info.sop_uid, SOP_CLASS: info.sop_class_uid}
    values = scanner.values | {tag: uid.encode() for tag, uid in own.items() if uid}
    return ReadMember(member, info, str(hasher.hexdigest()), Header(values, info.transfer_syntax_uid))


def _feed(scanner: HeaderScanner, data: bytes) -> bool:
    try:
        scanner.feed(data)
    except CannotUnderstand:
        return False
    return True
