"""A member of a segment: an instance as a Part 10 file inside an ordinary tar file, with all that is needed to judge it.

    pax header (512)  name `PaxHeader`, type x
    pax records       `comment={JSON}` padded with spaces to whole blocks; tar reads over it in silence
    ustar header      `<series uid>/<sop uid>.dcm`
    Part 10 file      preamble of zeros, our file meta, the data set's bytes as received; zeros up to a whole block

The size of everything before the data set is known before the data set has ended, so the data goes to its place first and the headers
after it. Nothing here does I/O but `read_member`, which reads one member's headers through a function.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
OCTAL_LIMIT = 8 * 1024**3  # sizes from here on need a pax record
DELETED = ".deleted/"
MAX_RECORDS = 64 * 1024
META_LIMIT = 4096
IMPLEMENTATION_CLASS_UID = "2.25.309477082441411176053179536836556028423"
_SAFE = re.compile(r"[0-9]+(\.[0-9]+)*")
_SLACK = 160  # digest, time and a size record, which are filled in last

Pread = Callable[[int, int], bytes]  # (length, offset)


class BrokenMember(Exception):
    """What stands here is neither a member of ours nor the end; the text says why."""


@dataclass(frozen=True)
class MemberInfo:
    """What a member says about itself. `run_key` is empty but for emitted objects; times are UTC epoch seconds."""

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    digest: str
    received_at: float
    calling_ae: str = ""
    called_ae: str = ""
    address: str = ""
    association_id: str = ""
    origin: str = "received"
    run_key: str = ""
    revision: int = 1


@dataclass(frozen=True)
class Member:
    """A member found in a segment. `offset` and `length` are of the Part 10 file; the data set starts at `offset + meta_length`."""

    name: str
    member_offset: int
    offset: int
    length: int
    meta_length: int
    info: MemberInfo | None  # None: deleted, its records are not looked at

    @property
    def end(self) -> int:
        """Where the next member starts."""
        return self.offset + padded(self.length)

    @property
    def deleted(self) -> bool:
        return self.name.startswith(DELETED)


def padded(length: int) -> int:
    """`length` rounded up to whole tar blocks."""
    return -(-length // BLOCK) * BLOCK


def safe_name(uid: str) -> str:
    """`uid` where it is a safe file name, else a digest of it."""
    if len(uid) <= 64 and _SAFE.fullmatch(uid):
        return uid
    return "x" + hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def member_name(series_uid: str, sop_uid: str, revision: int = 1) -> str:
    """The path a member has for tar; a later revision of an instance does not overwrite an earlier one."""
    return f"{safe_name(series_uid)}/{safe_name(sop_uid)}{'' if revision == 1 else f'.r{revision}'}.dcm"


# -- building -------------------------------------------------------------------------------------------------------------------------


class MemberLayout:
    """The headers of one member, sized before its digest and length are known.

    Attributes
    ----------
    prefix_length : bytes from the member's offset to the Part 10 file
    meta : preamble and file meta, the first bytes of the Part 10 file
    """

    __slots__ = ("_fixed", "_records", "_series", "_sop", "meta", "prefix_length")

    def __init__(
        self, fixed: bytes, series_uid: str, sop_uid: str, sop_class_uid: str, transfer_syntax_uid: str, revision: int = 1
    ) -> None:
        self._series = safe_name(series_uid)
        self._sop = safe_name(sop_uid) if revision == 1 else f"{safe_name(sop_uid)}.r{revision}"
        self._fixed = b'{"sop_uid":"%b","revision":%d,%b' % (_ascii(sop_uid), revision, fixed)
        self._records = padded(len(self._fixed) + _SLACK + len("12345 comment="))
        self.meta = file_meta(sop_class_uid, sop_uid, transfer_syntax_uid)
        self.prefix_length = self._records + 2 * BLOCK

    def widen(self, prefix_length: int) -> None:
        """Take `prefix_length` bytes, where another layout left that much room.

        Raises
        ------
        ValueError
            It is not enough.
        """
        if prefix_length < self.prefix_length:
            raise ValueError("no room for the member's records")
        self._records, self.prefix_length = prefix_length - 2 * BLOCK, prefix_length

    def headers(self, *, digest: str, received_at: float, length: int) -> bytes:
        """All bytes from the member's offset to its Part 10 file, which is `length` bytes long."""
        size_record = b"" if length < OCTAL_LIMIT else _record(b"size=%d" % length)
        text = b'%b"received_at":%.6f,"digest":"%b"}' % (self._fixed, received_at, digest.encode())
        room = self._records - len(size_record)
        comment = b"%d comment=%b" % (room, text)
        records = size_record + comment.ljust(room - 1) + b"\n"
        return b"".join((_pax_header(self._records), records, _ustar(self._sop + ".dcm", self._series, length, int(received_at))))


def fixed_records(
    *,
    study_uid: str,
    series_uid: str,
    sop_class_uid: str,
    transfer_syntax_uid: str,
    origin: str,
    calling_ae: str = "",
    called_ae: str = "",
    address: str = "",
    association_id: str = "",
    run_key: str = "",
) -> bytes:
    """The part of the records that many members share, for `MemberLayout`."""
    values = {
        "study_uid": study_uid,
        "series_uid": series_uid,
        "sop_class_uid": sop_class_uid,
        "transfer_syntax_uid": transfer_syntax_uid,
        "origin": origin,
        "calling_ae": calling_ae,
        "called_ae": called_ae,
        "address": address,
        "association_id": association_id,
        "run_key": run_key,
    }
    return json.dumps({key: value for key, value in values.items() if value}, separators=(",", ":"))[1:-1].encode() + b","


def layout_of(info: MemberInfo) -> MemberLayout:
    """The layout that `info` needs; `layout.headers` takes the digest and time beside it."""
    return MemberLayout(fixed_of(info), info.series_uid, info.sop_uid, info.sop_class_uid, info.transfer_syntax_uid, info.revision)


def fixed_of(info: MemberInfo) -> bytes:
    """What `fixed_records` makes of `info`."""
    return fixed_records(
        study_uid=info.study_uid,
        series_uid=info.series_uid,
        sop_class_uid=info.sop_class_uid,
        transfer_syntax_uid=info.transfer_syntax_uid,
        origin=info.origin,
        calling_ae=info.calling_ae,
        called_ae=info.called_ae,
        address=info.address,
        association_id=info.association_id,
        run_key=info.run_key,
    )


def ustar_header(name: str, size: int, mtime: int = 0) -> bytes:
    """A ustar header for a regular file of `size` bytes."""
    prefix, _, base = name.rpartition("/")
    return _ustar(base, prefix, size, mtime)


def file_meta(sop_class_uid: str, sop_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and file meta group (PS3.10 section 7.1)."""
    before, after = _meta_parts(sop_class_uid, transfer_syntax_uid)
    uid = _ui(3, sop_uid)
    return b"".join((_META_START, struct.pack("<I", len(before) + len(uid) + len(after)), before, uid, after))


_META_START = bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0, b"UL", 4)


@lru_cache(maxsize=1024)
def _meta_parts(sop_class_uid: str, transfer_syntax_uid: str) -> tuple[bytes, bytes]:
    version = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    implementation = _ui(0x12, IMPLEMENTATION_CLASS_UID)
    return version + _ui(2, sop_class_uid), _ui(0x10, transfer_syntax_uid) + implementation


def _ui(element: int, uid: str) -> bytes:
    value = uid.encode("ascii", "replace")
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value


def _ascii(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()


def _record(content: bytes) -> bytes:
    length = len(content) + 3
    while len(record := b"%d %b\n" % (length, content)) != length:
        length = len(record)
    return record


@lru_cache(maxsize=16)
def _pax_header(size: int) -> bytes:
    return _block("PaxHeader", "", size, 0, b"x")


def _ustar(name: str, prefix: str, size: int, mtime: int) -> bytes:
    # Beyond octal's reach the field holds the binary form that GNU tar and others read; the pax record before it says the same.
    block, total = _template(prefix)
    encoded = name.encode()
    numbers = (b"%011o\0" % size if size < OCTAL_LIMIT else b"\x80" + size.to_bytes(11, "big")) + b"%011o\0" % (mtime if mtime > 0 else 0)
    checksum = b"%06o\0 " % (total + sum(encoded) + sum(numbers))
    return b"".join((encoded.ljust(100, b"\0"), block[100:124], numbers, checksum, block[156:]))


@lru_cache(maxsize=4096)
def _template(prefix: str) -> tuple[bytes, int]:
    """A header without name, size, time and checksum, and the sum of its bytes with blanks in the checksum's place."""
    block = _block("", prefix, 0, 0, b"0")
    blank = block[:124] + bytes(24) + b" " * 8 + block[156:]
    return blank, sum(blank)


def _block(name: str, prefix: str, size: int, mtime: int, kind: bytes) -> bytes:
    block = struct.pack(
        "100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x",
        name.encode(),
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size,
        b"%011o\0" % mtime,
        b" " * 8,
        kind,
        b"",
        b"ustar\0",
        b"00",
        b"",
        b"",
        b"0000000\0",
        b"0000000\0",
        prefix.encode(),
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


# -- reading --------------------------------------------------------------------------------------------------------------------------


def read_member(pread: Pread, member_offset: int) -> Member | None:
    """Read the member at `member_offset`; None where the segment's members end (a block of zeros, or the end of the file).

    Raises
    ------
    BrokenMember
        Neither a member nor the end stands there, or its headers contradict themselves.
    """
    head = pread(BLOCK + 2048, member_offset)
    if len(head) < BLOCK or head[:BLOCK] == ZERO_BLOCK:
        return None
    _, size, kind = _parse(head[:BLOCK])
    if kind != b"x" or not 0 < size <= MAX_RECORDS or size % BLOCK:
        raise BrokenMember(f"no pax header at {member_offset}")
    if len(head) < size + 2 * BLOCK:
        head = pread(size + 2 * BLOCK, member_offset)
    name, length, kind = _parse(head[BLOCK + size : 2 * BLOCK + size])
    if kind != b"0":
        raise BrokenMember(f"no file header after the records at {member_offset}")
    offset = member_offset + 2 * BLOCK + size
    if name.startswith(DELETED):
        return Member(name, member_offset, offset, length, 0, None)
    records = _records(head[BLOCK : BLOCK + size])
    length = int(records.get("size", length))
    info = _info(records.get("comment", ""))
    meta_length = len(file_meta(info.sop_class_uid, info.sop_uid, info.transfer_syntax_uid))
    if length < meta_length:
        raise BrokenMember(f"member at {member_offset} is shorter than its file meta")
    return Member(name, member_offset, offset, length, meta_length, info)


def _parse(block: bytes) -> tuple[str, int, bytes]:
    if len(block) < BLOCK:
        raise BrokenMember("the segment ends inside a header")
    try:
        expected = int(block[148:156].strip(b"\0 ") or b"-1", 8)
        size = int.from_bytes(block[125:136], "big") if block[124] == 0x80 else int(block[124:136].strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise BrokenMember("a header that is no tar header") from None
    if sum(block) - sum(block[148:156]) + 256 != expected or block[257:262] != b"ustar":
        raise BrokenMember("a header whose checksum is wrong")
    name, prefix = (block[start:end].split(b"\0")[0].decode("ascii", "replace") for start, end in ((0, 100), (345, 500)))
    return f"{prefix}/{name}" if prefix else name, size, block[156:157]


def _records(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    position = 0
    while position < len(data) and data[position] != 0:
        digits, _, _ = data[position : position + 8].partition(b" ")
        if not digits.isdigit() or not 0 < int(digits) <= len(data) - position:
            raise BrokenMember("pax records that cannot be read")
        key, _, value = data[position + len(digits) + 1 : position + int(digits) - 1].partition(b"=")
        records[key.decode("ascii", "replace")] = value.decode("utf-8", "replace")
        position += int(digits)
    if not records.get("size", "0").isdigit():
        raise BrokenMember("a size that is no number")
    return records


def _info(comment: str) -> MemberInfo:
    try:
        values: dict[str, Any] = json.loads(comment)
        return MemberInfo(**{key: value for key, value in values.items() if key in MemberInfo.__dataclass_fields__})
    except (ValueError, TypeError, AttributeError):
        raise BrokenMember("a member without the record that describes it") from None
