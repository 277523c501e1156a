"""The identifier of a C-FIND (PS3.4 C.4.1.1.3): request bytes to a query of the index, rows of the index to response bytes.

A query's columns are compiled once to functions from value to element; a match is those functions' results, joined. Text that is not
ASCII goes out in the request's character set where that has it, else in UTF-8 (:mod:`dicom_node.dimse.character_sets`), and the match says
which.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct, pack
from struct import error as StructError
from typing import Any, Final

from pydicom.charset import convert_encodings, decode_bytes

from dicom_node.dimse.character_sets import Codec, codecs
from dicom_node.dimse.contexts import IMPLICIT_VR_LITTLE_ENDIAN
from dicom_node.pixels.elements import LONG, Element, NotReadable, read
from storage.attributes import UNIQUE_KEYS, Level
from storage.matching import MAX_TERMS
from storage.query import Column, Key
from storage.query_rows import element_text

MAX_IDENTIFIER: Final = 1 << 20
"""Longest identifier taken, in bytes."""
MAX_KEYS: Final = 512
"""Most elements of one, those of its sequences included, and most items of these."""
MAX_VALUES: Final = 100
"""Most values of a key that is no list of Study, Series or SOP Instance UIDs: each is a condition, not an entry of an index."""
CHARACTER_SET: Final = 0x00080005
LEVEL: Final = 0x00080052
RETRIEVE_AE_TITLE: Final = 0x00080054
TIMEZONE: Final = 0x00080201

Row = Sequence[Any]
_TEXT: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_BINARY: Final = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_TAG: Final = Struct("<HH")
_LONGEST: Final = 65534  # of a value whose length has 16 bits; a longer one is left out


class IdentifierRefused(ValueError):
    """The identifier is none for this SOP class; the text is an Error Comment and holds no value of the identifier."""


@dataclass(frozen=True)
class Request:
    """What a C-FIND asks for."""

    level: Level
    keys: tuple[Key, ...]
    character_sets: tuple[str, ...]
    timezone: str
    tags: frozenset[int]


def parse(identifier: bytes, transfer_syntax: str, levels: Sequence[str]) -> Request:
    """Read an identifier.

    Parameters
    ----------
    levels
        The Query/Retrieve Levels of the SOP class.

    Raises
    ------
    IdentifierRefused
    """
    try:
        elements = read(identifier, transfer_syntax, MAX_IDENTIFIER, most=MAX_KEYS)
    except (NotReadable, RecursionError) as error:
        raise IdentifierRefused(f"the identifier cannot be read, or has more than {MAX_KEYS} keys") from error
    plain = {element.tag: _ascii(element.value) for element in elements if element.tag in (CHARACTER_SET, LEVEL, TIMEZONE)}
    level = plain.get(LEVEL, "")
    if level not in levels:
        raise IdentifierRefused(f"Query/Retrieve Level has to be one of {', '.join(levels)}")
    sets = tuple(part.strip() for part in plain.get(CHARACTER_SET, "").split("\\"))
    encodings = _encodings(sets)
    if _items(elements) > MAX_KEYS:
        raise IdentifierRefused(f"the sequences of the identifier have more than {MAX_KEYS} items")
    keys = tuple(_key(element, encodings) for element in elements)
    _check_values(keys)
    return Request(Level(level), keys, sets, plain.get(TIMEZONE, ""), frozenset(key.tag for key in keys))


def _ascii(value: Any) -> str:
    return bytes(value).decode("ascii", "replace").strip(" \0") if isinstance(value, bytes | memoryview) else ""


def _encodings(character_sets: Sequence[str]) -> list[str]:
    try:
        return list(convert_encodings(list(character_sets)))
    except (LookupError, ValueError):  # one that nobody knows: what is ASCII is read all the same
        return ["iso8859"]


def _items(elements: Sequence[Element]) -> int:
    return sum(len(each.value) + sum(map(_items, each.value)) for each in elements if isinstance(each.value, list))


def _check_values(keys: Sequence[Key]) -> None:
    """Refuse lists that would take the index, or the row by row comparison, beyond measure; all together, as a statement has one limit."""
    listed = [_values_of(key) for key in keys if key.tag in _LISTED]
    others = [_values_of(key) for key in _all_keys(keys) if key.tag not in _LISTED]
    if sum(listed) > MAX_TERMS:
        raise IdentifierRefused(f"more than {MAX_TERMS} UIDs")
    if max(others, default=0) > MAX_VALUES or sum(others) > 2 * MAX_KEYS:
        raise IdentifierRefused(f"a key with more than {MAX_VALUES} values, or too many values of all keys")


_LISTED: Final = frozenset(UNIQUE_KEYS.values()) - {UNIQUE_KEYS[Level.PATIENT]}


def _all_keys(keys: Iterable[Key]) -> Iterator[Key]:
    for key in keys:
        yield key
        for item in key.items:
            yield from _all_keys(item)


def _values_of(key: Key) -> int:
    return str(key.value).count("\\") + 1


def _key(element: Element, encodings: list[str]) -> Key:
    vr, value = element.vr.decode(), element.value
    if isinstance(value, list):
        items = tuple(tuple(_key(each, encodings) for each in item) for item in value)
        return Key(element.tag, "SQ", items=items)
    if not isinstance(value, bytes | memoryview):
        raise IdentifierRefused("pixel data is no key")
    return Key(element.tag, vr, _value(bytes(value), vr, encodings))


def _value(raw: bytes, vr: str, encodings: list[str]) -> str:
    if vr == "AT":
        return "\\".join(f"{group:04X}{number:04X}" for group, number in _TAG.iter_unpack(raw[: len(raw) // 4 * 4]))
    if vr in _BINARY:
        form = Struct("<" + _BINARY[vr])
        return "\\".join(str(number) for (number,) in form.iter_unpack(raw[: len(raw) // form.size * form.size]))
    if vr not in _TEXT or (raw.isascii() and b"\x1b" not in raw):
        return raw.decode("latin-1").strip(" \0")
    try:
        return str(decode_bytes(raw, encodings, {0x5C, 0x5E, 0x3D})).strip(" \0")
    except (LookupError, UnicodeError, ValueError):
        return raw.decode("latin-1").strip(" \0")


# ------------------------------------------------------------------------- answers

_Encode = Callable[[Any, Codec], bytes]


class RowEncoder:
    """Writes matches as data sets, sorted by tag.

    Parameters
    ----------
    columns
        Of the rows, sorted by tag.
    constants
        Further elements that every match has: tag, VR, ASCII value.
    """

    def __init__(
        self, columns: Sequence[Column], constants: Sequence[tuple[int, str, str]], character_sets: Sequence[str], transfer_syntax: str
    ) -> None:
        explicit = transfer_syntax != IMPLICIT_VR_LITTLE_ENDIAN
        fixed = {tag for tag, _, _ in constants} | {CHARACTER_SET}
        shown = [(number, column) for number, column in enumerate(columns) if column.tag not in fixed]
        made: list[tuple[int, int, _Encode]] = [(column.tag, number, _encoder(column, explicit)) for number, column in shown]
        made += [(tag, -1, _constant(_element(tag, vr, value.encode("ascii"), explicit))) for tag, vr, value in constants]
        made.append((CHARACTER_SET, -1, _stated(explicit)))
        self._parts = [(number, encode) for _, number, encode in sorted(made, key=lambda each: each[0])]
        self._codecs = codecs(character_sets)

    def encode(self, row: Row) -> bytes:
        """One match."""
        for codec in self._codecs:
            try:
                return b"".join([encode(row[number] if number >= 0 else codec.name, codec) for number, encode in self._parts])
            except UnicodeEncodeError:
                continue
        raise AssertionError("UTF-8 has every character")


def _constant(element: bytes) -> _Encode:
    return lambda value, codec: element


def _stated(explicit: bool) -> _Encode:
    """Specific Character Set: only where there is something that is not ASCII."""

    def encode(name: str, codec: Codec) -> bytes:
        return _element(CHARACTER_SET, "CS", name.encode("ascii"), explicit) if name else b""

    return encode


def _encoder(column: Column, explicit: bool) -> _Encode:
    tag, vr = column.tag, column.vr
    if vr == "SQ":
        return lambda value, codec: _sequence(tag, value, codec, explicit)
    head, pad = _head(tag, vr, explicit), b"\0" if vr == "UI" else b" "
    size = 2 if explicit and vr.encode() not in LONG else 4
    empty = head + bytes(size)
    if vr in _BINARY or vr == "AT":
        binary = _tags if vr == "AT" else _numbers
        return lambda value, codec: _sized(head, _fitting(binary(value, vr), size), size)

    def encode(value: Any, codec: Codec) -> bytes:
        if value is None or value == "":
            return empty
        raw = codec.encode(str(value))
        length = len(raw)
        if length & 1:
            raw += pad
            length += 1
        if length > _LONGEST and size == 2:
            return empty
        return head + length.to_bytes(size, "little") + raw

    return encode


def _head(tag: int, vr: str, explicit: bool) -> bytes:
    head = pack("<HH", tag >> 16, tag & 0xFFFF)
    if not explicit:
        return head
    return head + vr.encode() + (b"\0\0" if vr.encode() in LONG else b"")


def _sized(head: bytes, raw: bytes, size: int) -> bytes:
    return head + len(raw).to_bytes(size, "little") + raw


def _element(tag: int, vr: str, raw: bytes, explicit: bool) -> bytes:
    raw += (b"\0" if vr == "UI" else b" ") * (len(raw) & 1)
    return _sized(_head(tag, vr, explicit), raw, 2 if explicit and vr.encode() not in LONG else 4)


def _numbers(value: Any, vr: str) -> bytes:
    """Binary values; none where there is none, or one that the VR cannot hold."""
    if value is None or value == "":
        return b""
    form, whole = "<" + _BINARY[vr], vr not in ("FL", "FD")
    values = [value] if isinstance(value, int | float) else str(value).split("\\")
    try:
        return b"".join(pack(form, int(each) if whole else float(each)) for each in values)
    except (ValueError, OverflowError, StructError):
        return b""


def _tags(value: Any, vr: str) -> bytes:
    """Attribute tags, which the index holds as eight hexadecimal digits each."""
    try:
        return b"".join(_TAG.pack(int(each[:4], 16), int(each[4:], 16)) for each in str(value or "").split("\\") if each)
    except (ValueError, StructError):
        return b""


def _fitting(raw: bytes, size: int) -> bytes:
    return raw if size == 4 or len(raw) <= _LONGEST else b""


def _sequence(tag: int, value: Any, codec: Codec, explicit: bool) -> bytes:
    """A sequence, whose items the index holds as DICOM JSON."""
    items = json.loads(value) if isinstance(value, str) and value else value or []
    return _sized(_head(tag, "SQ", explicit), b"".join(_item(item, codec, explicit) for item in items), 4)


def _item(item: Mapping[str, Mapping[str, Any]], codec: Codec, explicit: bool) -> bytes:
    elements = [json_element(int(name, 16), item[name], codec, explicit) for name in sorted(item)]
    data = b"".join(elements)
    return pack("<HHL", 0xFFFE, 0xE000, len(data)) + data


def json_element(tag: int, element: Mapping[str, Any], codec: Codec, explicit: bool) -> bytes:
    """An element of an item. Its texts go out in the match's own character set, so an item names none."""
    vr = element["vr"][:2]
    if tag == CHARACTER_SET:
        return b""
    if vr == "SQ":
        return _sequence(tag, element.get("Value"), codec, explicit)
    if "InlineBinary" in element:
        return _element(tag, vr, b64decode(element["InlineBinary"]), explicit)
    return _encoder(Column(tag, vr), explicit)(element_text(element), codec)
