"""A data set as a tree of elements whose values stay the bytes they are (PS3.5 7): read in one transfer syntax, written in another.

Texts are never decoded and numbers never formatted, so what is changed is the encoding and nothing else. Group lengths are left out,
as they would no longer be right.
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass
from struct import Struct
from typing import Final

from pydicom.datadict import dictionary_VR, private_dictionary_VR

from dicom_node.dimse.contexts import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

UNDEFINED: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
PIXEL_DATA: Final = 0x7FE00010
PIXEL_REPRESENTATION: Final = 0x00280103
BITS_ALLOCATED: Final = 0x00280100
MAX_DEPTH: Final = 64
"""Deepest nesting of sequences that is read."""

LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_KNOWN: Final = LONG | {
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO",
    b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US",
}  # fmt: skip
_WORD: Final = {
    b"AT": 2, b"OW": 2, b"SS": 2, b"US": 2, b"FL": 4, b"OF": 4, b"OL": 4, b"SL": 4, b"UL": 4,
    b"FD": 8, b"OD": 8, b"OV": 8, b"SV": 8, b"UV": 8,
}  # fmt: skip


class NotReadable(ValueError):
    """Bytes that are no data set in the transfer syntax they are said to have."""


@dataclass(slots=True)
class Element:
    """One element: `value` is its bytes in little endian, the items of a sequence, or the fragments of encapsulated pixel data."""

    tag: int
    vr: bytes
    value: bytes | memoryview | list[list[Element]] | Fragments


class Fragments(tuple[memoryview, ...]):
    """The items of an encapsulated pixel data element; the first is its Basic Offset Table."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written: with their VR or without, and in which byte order."""

    implicit: bool
    little: bool = True


IMPLICIT: Final = Encoding(True)
EXPLICIT: Final = Encoding(False)
BIG: Final = Encoding(False, False)


def encoding_of(transfer_syntax: str) -> Encoding:
    """The encoding that a transfer syntax has; every one that is not native is explicit little endian."""
    return {IMPLICIT_VR_LITTLE_ENDIAN: IMPLICIT, EXPLICIT_VR_BIG_ENDIAN: BIG}.get(transfer_syntax, EXPLICIT)


# ------------------------------------------------------------------------- reading


def read(data: bytes | memoryview, transfer_syntax: str, limit: int, *, most: int = sys.maxsize) -> list[Element]:
    """Read a data set.

    Parameters
    ----------
    limit
        Most bytes that a deflated data set may inflate to.
    most
        Most elements, those of items included.

    Raises
    ------
    NotReadable
    """
    if transfer_syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data = inflate(data, limit)
    view = memoryview(data)
    reader = _Reader(view, encoding_of(transfer_syntax), [most])
    elements, position = reader.elements(0, len(view), 0, _Context())
    if position != len(view):
        raise NotReadable("the data set ends before its bytes do")
    return elements


def inflate(data: bytes | memoryview, limit: int) -> bytes:
    """Inflate raw deflated bytes, up to a limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise NotReadable("not deflated") from error
    if len(inflated) > limit:
        raise NotReadable("inflates beyond the limit")
    if not inflater.eof:
        raise NotReadable("a deflated stream without its end")
    return inflated


@dataclass(frozen=True, slots=True)
class _Context:
    """What the VR of an element may depend on (PS3.5 annex A, PS3.3 C.11)."""

    signed: bool = False
    bits: int = 16


class _Reader:
    """Reads elements of one encoding."""

    def __init__(self, view: memoryview, encoding: Encoding, left: list[int]) -> None:
        self._view = view
        self._left = left
        self._encoding = encoding
        order = "<" if encoding.little else ">"
        self._tag = Struct(order + "HH").unpack_from
        self._short = Struct(order + "H").unpack_from
        self._long = Struct(order + "L").unpack_from

    def elements(self, position: int, end: int, depth: int, context: _Context) -> tuple[list[Element], int]:
        """Elements up to ``end``, or up to an item's delimiter; and the position behind them."""
        if depth > MAX_DEPTH:
            raise NotReadable("sequences nested too deep")
        found: list[Element] = []
        creators: dict[int, str] = {}
        while position < end:
            tag, vr, length, position = self._header(position, end)
            if tag == ITEM_END:
                return found, position
            if vr == b"":
                vr = _implied(tag, creators, context, length)
            value, position = self._value(tag, vr, length, position, end, depth, context)
            if tag & 0xFFFF == 0:
                continue
            self._left[0] -= 1
            if self._left[0] < 0:
                raise NotReadable("too many elements")
            found.append(Element(tag, vr, value))
            if isinstance(value, bytes | memoryview):
                if tag & 0x1FF00 == 0x10000 and tag & 0xFFFF >= 0x10:
                    creators[tag & 0xFFFF0000 | (tag & 0xFF) << 8] = bytes(value).decode("ascii", "replace").strip(" \0")
                elif tag in (PIXEL_REPRESENTATION, BITS_ALLOCATED) and len(value) >= 2:
                    number = int.from_bytes(value[:2], "little")
                    signed, bits = (bool(number), context.bits) if tag == PIXEL_REPRESENTATION else (context.signed, number)
                    context = _Context(signed, bits)
        return found, position

    def _header(self, position: int, end: int) -> tuple[int, bytes, int, int]:
        if end - position < 8:
            raise NotReadable("the data set ends inside an element")
        group, number = self._tag(self._view, position)
        tag = group << 16 | number
        if self._encoding.implicit or group == 0xFFFE:
            return tag, b"", self._long(self._view, position + 4)[0], position + 8
        vr = bytes(self._view[position + 4 : position + 6])
        if vr not in LONG:
            if vr not in _KNOWN:
                raise NotReadable(f"an element with the VR {vr!r}")
            return tag, vr, self._short(self._view, position + 6)[0], position + 8
        if end - position < 12:
            raise NotReadable("the data set ends inside an element")
        return tag, vr, self._long(self._view, position + 8)[0], position + 12

    def _value(
        self, tag: int, vr: bytes, length: int, position: int, end: int, depth: int, context: _Context
    ) -> tuple[bytes | memoryview | list[list[Element]] | Fragments, int]:
        if length != UNDEFINED and length > end - position:
            raise NotReadable("an element longer than what there is")
        if vr == b"SQ":
            return self._items(position, end if length == UNDEFINED else position + length, length == UNDEFINED, depth, context)
        if length != UNDEFINED:
            return _little(self._view[position : position + length], vr, self._encoding), position + length
        if vr == b"UN":  # a sequence in Implicit VR Little Endian: PS3.5 6.2.2
            return _Reader(self._view, IMPLICIT, self._left)._items(position, end, True, depth, context)
        if tag == PIXEL_DATA:
            return self._fragments(position, end)
        raise NotReadable(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has no length")

    def _items(self, position: int, end: int, delimited: bool, depth: int, context: _Context) -> tuple[list[list[Element]], int]:
        items: list[list[Element]] = []
        while position < end:
            tag, _, length, position = self._header(position, end)
            if tag == SEQUENCE_END and delimited:
                return items, position
            if tag != ITEM:
                raise NotReadable("a sequence with something else than items")
            if length != UNDEFINED and length > end - position:
                raise NotReadable("an item longer than its sequence")
            last = end if length == UNDEFINED else position + length
            item, position = self.elements(position, last, depth + 1, context)
            if length != UNDEFINED and position != last:
                raise NotReadable("an item that ends before its length")
            items.append(item)
        if delimited:
            raise NotReadable("a sequence without its end")
        return items, position

    def _fragments(self, position: int, end: int) -> tuple[Fragments, int]:
        fragments: list[memoryview] = []
        while position < end:
            tag, _, length, position = self._header(position, end)
            if tag == SEQUENCE_END:
                return Fragments(fragments), position
            if tag != ITEM or length > end - position:
                raise NotReadable("encapsulated pixel data with something else than fragments")
            fragments.append(self._view[position : position + length])
            position += length
        raise NotReadable("encapsulated pixel data without its end")


def _implied(tag: int, creators: dict[int, str], context: _Context, length: int) -> bytes:
    """The VR of an element that comes without one."""
    if tag >> 16 & 1:
        if 0x10 <= tag & 0xFFFF <= 0xFF:
            return b"LO"
        creator = creators.get(tag & 0xFFFFFF00)
        try:
            vr = private_dictionary_VR(tag, creator) if creator else "UN"
        except KeyError:
            vr = "UN"
    else:
        try:
            vr = dictionary_VR(tag)
        except KeyError:
            vr = "UL" if tag & 0xFFFF == 0 else "UN"
    if " or " in vr:
        return _chosen(tag, vr, context)
    if length == UNDEFINED and vr not in ("SQ", "UN"):
        return b"UN"
    return vr.encode()


def _chosen(tag: int, vr: str, context: _Context) -> bytes:
    """One of several VRs that an element may have (PS3.5 annex A)."""
    if "OB" in vr:
        return b"OW" if tag != PIXEL_DATA or context.bits > 8 else b"OB"
    if "OW" in vr:  # LUT Data and its like
        return b"OW"
    return b"SS" if context.signed else b"US"


def _little(value: memoryview, vr: bytes, encoding: Encoding) -> bytes | memoryview:
    return value if encoding.little else swapped(value, vr)


def swapped(value: bytes | memoryview, vr: bytes) -> bytes | memoryview:
    """A value in the other byte order."""
    size = _WORD.get(vr, 1)
    if size == 1:
        return value
    if len(value) % size:
        raise NotReadable(f"a value of VR {vr.decode()} whose length does not fit")
    result = bytearray(len(value))
    for each in range(size):
        result[each::size] = bytes(value[size - 1 - each :: size])
    return bytes(result)


# ------------------------------------------------------------------------- writing


def write(elements: list[Element], transfer_syntax: str) -> bytes:
    """Write a data set."""
    parts: list[bytes | memoryview] = []
    _Writer(encoding_of(transfer_syntax), parts).elements(elements)
    data = b"".join(parts)
    if transfer_syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
        data += bytes(len(data) & 1)  # PS3.5 A.5
    return data


class _Writer:
    """Appends elements to a list of parts; sequences and their items get undefined lengths and delimiters."""

    def __init__(self, encoding: Encoding, parts: list[bytes | memoryview]) -> None:
        self._encoding = encoding
        self._parts = parts
        order = "<" if encoding.little else ">"
        self._tag_long = Struct(order + "HHL").pack
        self._explicit_short = Struct(order + "HH2sH").pack
        self._explicit_long = Struct(order + "HH2sxxL").pack

    def elements(self, elements: list[Element]) -> None:
        for element in elements:
            value, vr = element.value, element.vr
            if isinstance(value, Fragments):
                self._fragments(element.tag, value)
            elif isinstance(value, list):
                self._sequence(element.tag, vr, value)
            else:
                if not self._encoding.little:
                    value = swapped(value, vr)
                self._header(element.tag, vr, len(value))
                self._parts.append(value)

    def _header(self, tag: int, vr: bytes, length: int) -> None:
        group, number = tag >> 16, tag & 0xFFFF
        if self._encoding.implicit:
            self._parts.append(self._tag_long(group, number, length))
        elif vr in LONG or length > 0xFFFF:
            self._parts.append(self._explicit_long(group, number, vr if vr in LONG else b"UN", length))
        else:
            self._parts.append(self._explicit_short(group, number, vr, length))

    def _sequence(self, tag: int, vr: bytes, items: list[list[Element]]) -> None:
        inner = self if vr == b"SQ" else _Writer(IMPLICIT, self._parts)
        self._header(tag, vr, UNDEFINED)
        for item in items:
            self._parts.append(inner._tag_long(0xFFFE, 0xE000, UNDEFINED))
            inner.elements(item)
            self._parts.append(inner._tag_long(0xFFFE, 0xE00D, 0))
        self._parts.append(inner._tag_long(0xFFFE, 0xE0DD, 0))

    def _fragments(self, tag: int, fragments: Fragments) -> None:
        self._header(tag, b"OB", UNDEFINED)
        for fragment in fragments:
            self._parts += (self._tag_long(0xFFFE, 0xE000, len(fragment)), fragment)
        self._parts.append(self._tag_long(0xFFFE, 0xE0DD, 0))


def number(elements: list[Element], tag: int, default: int = 0) -> int:
    """The first value of a US or an IS."""
    for element in elements:
        if element.tag == tag and isinstance(element.value, bytes | memoryview):
            raw = bytes(element.value)
            try:
                if element.vr == b"IS":
                    return int(raw.split(b"\\")[0].strip(b" \0") or default)
                return int.from_bytes(raw[:2], "little") if raw else default
            except ValueError:
                raise NotReadable(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is no number") from None
    return default


def text(elements: list[Element], tag: int) -> str:
    """The value of a CS."""
    for element in elements:
        if element.tag == tag and isinstance(element.value, bytes | memoryview):
            return bytes(element.value).decode("ascii", "replace").strip(" \0")
    return ""


def replace(elements: list[Element], tag: int, vr: bytes, value: bytes | memoryview | Fragments | None) -> None:
    """Set an element at its place, or take it away with None."""
    elements[:] = [element for element in elements if element.tag != tag]
    if value is not None:
        at = next((index for index, element in enumerate(elements) if element.tag > tag), len(elements))
        elements.insert(at, Element(tag, vr, value))
