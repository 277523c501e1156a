"""The data sets of storage commitment (PS3.4 tables J.3-1 and J.3-2) from and to bytes.

A request may name a hundred thousand instances: they are read in one pass over the bytes, without an object for each element.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from dicom_node.dimse.contexts import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

TRANSACTION_UID: Final = 0x0008_1195
FAILURE_REASON: Final = 0x0008_1197
FAILED_SOP_SEQUENCE: Final = 0x0008_1198
REFERENCED_SOP_SEQUENCE: Final = 0x0008_1199
REFERENCED_SOP_CLASS_UID: Final = 0x0008_1150
REFERENCED_SOP_INSTANCE_UID: Final = 0x0008_1155
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_UNDEFINED: Final = 0xFFFF_FFFF
_LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_DEPTH: Final = 16
_tag = Struct("<HH").unpack_from
_u32 = Struct("<L").unpack_from
_u16 = Struct("<H").unpack_from
_head = Struct("<HHL").pack
_valid_uid = re.compile(r"[0-9.]{1,64}").fullmatch


class Reference(NamedTuple):
    """An instance as a commitment data set names it."""

    sop_class_uid: str
    sop_instance_uid: str


class UnreadableReferences(ValueError):
    """A data set that is none of storage commitment; the text names no value of it."""


class TooManyReferences(UnreadableReferences):
    """More instances than are taken in one transaction."""


@dataclass(frozen=True)
class References:
    """What a request or a report says. ``failed`` has the Failure Reason of each."""

    transaction_uid: str
    instances: Sequence[Reference]
    failed: Sequence[tuple[Reference, int]] = ()


def decode_references(data: bytes, transfer_syntax: str, *, limit: int) -> References:
    """Read a request's or a report's data set.

    Raises
    ------
    UnreadableReferences
        Lengths that do not fit, no Transaction UID, an item without UIDs, or a transfer syntax that is neither Explicit nor Implicit VR
        Little Endian.
    TooManyReferences
        More than ``limit`` items.
    """
    if transfer_syntax in (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN):
        raise UnreadableReferences("use Explicit or Implicit VR Little Endian")
    return _Reader(data, explicit=transfer_syntax != IMPLICIT_VR_LITTLE_ENDIAN, limit=limit).read()


class _Reader:
    def __init__(self, data: bytes, *, explicit: bool, limit: int) -> None:
        self._data = data
        self._explicit = explicit
        self._left = limit

    def read(self) -> References:
        data = self._data
        transaction_uid = ""
        instances: list[Reference] = []
        failed: list[tuple[Reference, int]] = []
        for tag, start, stop in self._elements(0, len(data)):
            if tag == TRANSACTION_UID:
                transaction_uid = self._uid(start, stop)
            elif tag == REFERENCED_SOP_SEQUENCE:
                instances += [reference for reference, _ in self._items(start, stop)]
            elif tag == FAILED_SOP_SEQUENCE:
                failed += self._items(start, stop)
        if not transaction_uid:
            raise UnreadableReferences("no Transaction UID")
        return References(transaction_uid, instances, failed)

    def _items(self, position: int, end: int) -> Iterator[tuple[Reference, int]]:
        """The items of a sequence whose value lies between two places."""
        while position < end:
            tag, start, length = self._header(position, end)
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise UnreadableReferences("a sequence holds something that is no item")
            stop = self._end_of(start, length, end, _ITEM_END, 1)
            self._left -= 1
            if self._left < 0:
                raise TooManyReferences("more instances than are taken in one transaction")
            yield self._item(start, stop)
            position = stop + 8 if length == _UNDEFINED else stop

    def _item(self, start: int, stop: int) -> tuple[Reference, int]:
        sop_class = sop_instance = ""
        reason = 0
        for tag, first, last in self._elements(start, stop):
            if tag == REFERENCED_SOP_CLASS_UID:
                sop_class = self._uid(first, last)
            elif tag == REFERENCED_SOP_INSTANCE_UID:
                sop_instance = self._uid(first, last)
            elif tag == FAILURE_REASON and last - first >= 2:
                reason = _u16(self._data, first)[0]
        if not sop_class or not sop_instance:
            raise UnreadableReferences("an item without SOP Class or Instance UID")
        return Reference(sop_class, sop_instance), reason

    def _elements(self, position: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Tag, start and stop of the value of each element; of a sequence of undefined length without its delimiter."""
        while position < end:
            tag, start, length = self._header(position, end)
            stop = self._end_of(start, length, end, _SEQUENCE_END, 1)
            yield tag, start, stop
            position = stop + 8 if length == _UNDEFINED else stop

    def _header(self, position: int, end: int) -> tuple[int, int, int]:
        """Tag, place of the value and its length; an item has no VR in any syntax."""
        data = self._data
        if end - position < 8:
            raise UnreadableReferences("the data set ends inside an element")
        group, element = _tag(data, position)
        tag = group << 16 | element
        if not self._explicit or group == 0xFFFE:
            return tag, position + 8, _u32(data, position + 4)[0]
        if data[position + 4 : position + 6] in _LONG:
            if end - position < 12:
                raise UnreadableReferences("the data set ends inside an element")
            return tag, position + 12, _u32(data, position + 8)[0]
        return tag, position + 8, _u16(data, position + 6)[0]

    def _end_of(self, start: int, length: int, end: int, delimiter: int, depth: int) -> int:
        """Where a value ends: by its length, or at its delimiter."""
        if length != _UNDEFINED:
            if length > end - start:
                raise UnreadableReferences("an element is longer than what holds it")
            return start + length
        if depth > _DEPTH:
            raise UnreadableReferences("sequences nested too deeply")
        position = start
        while position < end:
            tag, first, size = self._header(position, end)
            if tag == delimiter:
                return position
            inner = _ITEM_END if tag == _ITEM else _SEQUENCE_END
            stop = self._end_of(first, size, end, inner, depth + 1)
            position = stop + 8 if size == _UNDEFINED else stop
        raise UnreadableReferences("a sequence without its end")

    def _uid(self, start: int, stop: int) -> str:
        text = self._data[start:stop].decode("latin-1").strip(" \0") if stop - start <= 66 else ""
        if not _valid_uid(text):
            raise UnreadableReferences("a value that is no UID")
        return text


def encode_references(references: References, transfer_syntax: str, *, report: bool) -> bytes:
    """Write a request's data set, or a report's: there the Referenced SOP Sequence is left out where nothing was committed."""
    explicit = transfer_syntax != IMPLICIT_VR_LITTLE_ENDIAN
    parts = [_element(TRANSACTION_UID, b"UI", _padded(references.transaction_uid), explicit)]
    if references.failed:
        items = (
            _element(FAILURE_REASON, b"US", reason.to_bytes(2, "little"), explicit, _reference(reference, explicit))
            for reference, reason in references.failed
        )
        parts.append(_sequence(FAILED_SOP_SEQUENCE, items, explicit))
    if references.instances or not report:
        parts.append(_sequence(REFERENCED_SOP_SEQUENCE, (_reference(each, explicit) for each in references.instances), explicit))
    return b"".join(parts)


def _reference(reference: Reference, explicit: bool) -> bytes:
    return _element(REFERENCED_SOP_CLASS_UID, b"UI", _padded(reference.sop_class_uid), explicit) + _element(
        REFERENCED_SOP_INSTANCE_UID, b"UI", _padded(reference.sop_instance_uid), explicit
    )


def _sequence(tag: int, items: Iterable[bytes], explicit: bool) -> bytes:
    body = b"".join(_head(0xFFFE, 0xE000, len(item)) + item for item in items)
    return _element(tag, b"SQ", body, explicit)


def _element(tag: int, vr: bytes, value: bytes, explicit: bool, before: bytes = b"") -> bytes:
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    if not explicit:
        return before + head + len(value).to_bytes(4, "little") + value
    if vr == b"SQ":
        return before + head + b"SQ\0\0" + len(value).to_bytes(4, "little") + value
    return before + head + vr + len(value).to_bytes(2, "little") + value


def _padded(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" if len(value) & 1 else value
