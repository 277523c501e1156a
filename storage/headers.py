"""The index's columns out of a data set's bytes, in one pass that costs tens of microseconds, and proof that its lengths can be trusted.

`HeaderScanner` walks the elements of the top level as the fragments come by (PS3.5 chapter 7): values it wants are kept, all others are
skipped by their lengths, sequences and pixel data of undefined length are walked through item by item. What does not add up to the last
byte is refused. Text is decoded later (`Header`), and by pydicom only where it is not plain ASCII.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.valuerep import PersonName

from storage.errors import CannotUnderstand
from storage.names import name_keys

WINDOW: Final = 16 << 10
MAX_VALUE: Final = 16 << 10  # a longer value is no attribute to search by
MAX_DEPTH: Final = 64
INFLATE_STEP: Final = 256 << 10
INFLATE_LIMIT: Final = 4 << 30
UNDEFINED: Final = 0xFFFFFFFF
DEFLATED: Final = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
IMPLICIT: Final = frozenset({"1.2.840.10008.1.2"})
BIG_ENDIAN: Final = frozenset({"1.2.840.10008.1.2.2"})
LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())

PATIENT_COLUMNS: Final = {0x00100020: "patient_id", 0x00100021: "issuer", 0x00100010: "name", 0x00100030: "birth_date", 0x00100040: "sex"}
STUDY_COLUMNS: Final = {
    0x00080020: "study_date",
    0x00080030: "study_time",
    0x00080050: "accession_number",
    0x00200010: "study_id",
    0x00081030: "study_description",
    0x00080090: "referring_physician",
    0x00080201: "timezone_offset",
}
SERIES_COLUMNS: Final = {
    0x00080060: "modality",
    0x00200011: "series_number",
    0x0008103E: "series_description",
    0x00080021: "series_date",
    0x00080031: "series_time",
    0x00180015: "body_part",
    0x00181030: "protocol_name",
    0x00200060: "laterality",
    0x00080070: "manufacturer",
    0x00081090: "model_name",
    0x00081010: "station_name",
    0x00080080: "institution_name",
    0x00200052: "frame_of_reference_uid",
    0x00400244: "pps_start_date",
    0x00400245: "pps_start_time",
}
CHARACTER_SET, SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080005, 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
INSTANCE_NUMBER, IMAGE_TYPE, ROWS, COLUMNS, BITS, FRAMES = 0x00200013, 0x00080008, 0x00280010, 0x00280011, 0x00280100, 0x00280008
PIXELS: Final = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
_NAMES: Final = frozenset({0x00100010, 0x00080090})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_WANTED: Final = frozenset(
    {*PATIENT_COLUMNS, *STUDY_COLUMNS, *SERIES_COLUMNS, CHARACTER_SET, SOP_CLASS, SOP_INSTANCE, STUDY, SERIES}
    | {INSTANCE_NUMBER, IMAGE_TYPE, ROWS, COLUMNS, BITS, FRAMES}
)
_IN_SEQUENCE, _IN_IMPLICIT_SEQUENCE, _IN_ITEM, _IN_IMPLICIT_ITEM, _IN_FRAGMENTS = range(5)


def _as_read(tag: int) -> int:
    """A tag as four little endian bytes read as one number."""
    return tag >> 16 | (tag & 0xFFFF) << 16


_WANTED_LITTLE: Final[Mapping[int, int]] = {_as_read(tag): tag for tag in _WANTED}
_WANTED_BIG: Final[Mapping[int, int]] = {tag: tag for tag in _WANTED}


class HeaderScanner:
    """Walks a data set that arrives in pieces.

    Attributes
    ----------
    values : the wanted elements of the top level seen so far, as received
    watch : is given what is inflated of a deflated data set, where it is set
    """

    __slots__ = (
        "_big",
        "_implicit",
        "_inflated",
        "_inflater",
        "_long",
        "_pending",
        "_short",
        "_skip",
        "_stack",
        "_trailing",
        "_wanted",
        "values",
        "watch",
    )

    def __init__(self, transfer_syntax_uid: str) -> None:
        self.values: dict[int, bytes] = {}
        self.watch: Callable[[bytes], None] | None = None
        self._implicit = transfer_syntax_uid in IMPLICIT
        self._big = transfer_syntax_uid in BIG_ENDIAN
        order = ">" if self._big else "<"
        self._short = _STRUCTS[order + ("II" if self._implicit else "I2sH")]
        self._long = _STRUCTS[order + "I"]
        self._wanted = _WANTED_BIG if self._big else _WANTED_LITTLE
        self._inflater: Any = zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax_uid in DEFLATED else None
        self._inflated = 0
        self._pending = b""
        self._skip = 0
        self._stack: list[int] = []
        self._trailing = False

    @property
    def deflated(self) -> bool:
        """Whether the pieces are compressed as a whole (PS3.5 A.5)."""
        return self._inflater is not None

    @property
    def identified(self) -> bool:
        """Whether the UIDs of study, series and instance have been seen."""
        return SERIES in self.values and STUDY in self.values and SOP_INSTANCE in self.values

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next piece of the data set.

        Raises
        ------
        CannotUnderstand
            The elements do not add up.
        """
        if self._inflater is None:
            if self._skip >= len(data):
                self._skip -= len(data)
            else:
                self._feed_plain(data)
            return
        try:
            self._inflate(data)
        except zlib.error as error:
            raise CannotUnderstand("deflated data set cannot be inflated") from error

    def finish(self) -> None:
        """The data set has ended.

        Raises
        ------
        CannotUnderstand
            It ends inside an element or a sequence.
        """
        if self._inflater is not None and not self._inflater.eof:
            raise CannotUnderstand("data set is truncated")
        if not self._trailing and (self._skip > 0 or self._stack or self._pending.strip(b"\0")):
            raise CannotUnderstand("data set is truncated or its lengths are wrong")

    def _inflate(self, data: bytes | memoryview) -> None:
        full = False  # more output may be waiting although no input is left
        while (data or full) and not self._inflater.eof:
            piece = self._inflater.decompress(data, INFLATE_STEP)
            full = len(piece) == INFLATE_STEP
            data = self._inflater.unconsumed_tail
            self._inflated += len(piece)
            if self._inflated > INFLATE_LIMIT:
                raise CannotUnderstand("deflated data set beyond the limit")
            if self.watch is not None:
                self.watch(piece)
            if self._skip >= len(piece):
                self._skip -= len(piece)
            else:
                self._feed_plain(piece)

    def _feed_plain(self, data: bytes | memoryview) -> None:
        position, size = self._skip, len(data)
        self._skip = 0
        while position < size:
            window = bytes(data[position : position + WINDOW])
            position += len(window)
            if self._trailing:
                self._check_trailing(window)
                continue
            if self._pending:
                window = self._pending + window
            end = self._walk(window)
            self._pending = window[end:]
            if end > len(window):
                position += end - len(window)
        if position > size:
            self._skip = position - size

    def _check_trailing(self, data: bytes) -> None:
        if data.strip(b"\0"):
            raise CannotUnderstand("data set has elements of group 0000")

    def _walk(self, data: bytes) -> int:
        """Walk as far as `data` reaches; return where to go on, which may be beyond its end."""
        position, size = 0, len(data)
        while position < size and not self._trailing:
            before, depth = position, len(self._stack)
            position = self._nested(data, position) if depth else self._top(data, position)
            if position == before and len(self._stack) == depth:
                break
        return position

    def _top(self, data: bytes, position: int) -> int:
        if self._implicit:
            return self._top_implicit(data, position)
        size, unpack, wanted, values = len(data) - 8, self._short.unpack_from, self._wanted, self.values
        while position <= size:
            tag, vr, length = unpack(data, position)
            if vr in SHORT_VRS:
                start = position + 8
            else:
                header = self._unusual(data, position, vr, length)
                if header is None:
                    break
                start, length = header
                if length == UNDEFINED:
                    self._enter(tag, vr)
                    return start
            if tag in wanted:
                if start + length > size + 8 and length <= MAX_VALUE:
                    break
                if length <= MAX_VALUE:
                    values.setdefault(wanted[tag], data[start : start + length])
            elif tag & 0xFFFF == 0 and not self._big and self._is_padding(data, position):
                return position
            position = start + length
        return position

    def _top_implicit(self, data: bytes, position: int) -> int:
        size, unpack, wanted, values = len(data) - 8, self._short.unpack_from, self._wanted, self.values
        while position <= size:
            tag, length = unpack(data, position)
            start = position + 8
            if length == UNDEFINED:
                self._enter(tag, b"")
                return start
            if tag in wanted:
                if start + length > size + 8 and length <= MAX_VALUE:
                    break
                if length <= MAX_VALUE:
                    values.setdefault(wanted[tag], data[start : start + length])
            elif tag & 0xFFFF == 0 and self._is_padding(data, position):
                return position
            position = start + length
        return position

    def _is_padding(self, data: bytes, position: int) -> bool:
        self._check_trailing(data[position:])
        self._trailing = True
        return True

    def _unusual(self, data: bytes, position: int, vr: bytes, length: int) -> tuple[int, int] | None:
        """Start and length of the value of an element whose VR has no 16 bit length; None where `data` ends too early to tell."""
        known = vr in LONG_VRS
        if known or (vr.isalpha() and vr.isupper() and length == 0):
            if position + 12 > len(data):
                return None
            return position + 12, self._long.unpack_from(data, position + 8)[0]
        if vr.isalpha() and vr.isupper():
            return position + 8, length
        return position + 8, self._long.unpack_from(data, position + 4)[0]  # an implicit element among explicit ones

    def _enter(self, tag: int, vr: bytes) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise CannotUnderstand("sequences nested too deep")
        implicit = self._implicit or (bool(self._stack) and self._stack[-1] == _IN_IMPLICIT_ITEM)
        if (tag if self._big else _as_read(tag)) in PIXELS or vr in (b"OB", b"OW"):
            self._stack.append(_IN_FRAGMENTS)
        elif implicit or vr == b"UN":
            self._stack.append(_IN_IMPLICIT_SEQUENCE)
        elif vr == b"SQ" or not vr.isalpha():
            self._stack.append(_IN_SEQUENCE)
        else:
            raise CannotUnderstand("undefined length where none is allowed")

    def _nested(self, data: bytes, position: int) -> int:
        if position + 8 > len(data):
            return position
        tag, length = _STRUCTS[">II" if self._big else "<II"].unpack_from(data, position)
        if not self._big:
            tag = _as_read(tag)
        level = self._stack[-1]
        if level in (_IN_ITEM, _IN_IMPLICIT_ITEM):
            return self._item_element(data, position, tag, level)
        if tag == _SEQUENCE_END:
            self._stack.pop()
            return position + 8
        if tag != _ITEM:
            raise CannotUnderstand("sequence holds something that is no item")
        if length != UNDEFINED:
            return position + 8 + int(length)
        if level == _IN_FRAGMENTS or len(self._stack) >= 2 * MAX_DEPTH:
            raise CannotUnderstand("item of undefined length where none is allowed")
        self._stack.append(_IN_ITEM if level == _IN_SEQUENCE else _IN_IMPLICIT_ITEM)
        return position + 8

    def _item_element(self, data: bytes, position: int, tag: int, level: int) -> int:
        if tag == _ITEM_END:
            self._stack.pop()
            return position + 8
        if level == _IN_IMPLICIT_ITEM:
            # Inside an UN element the order is little endian, whatever the data set's.
            raw, length = _STRUCTS["<II"].unpack_from(data, position)
            start, vr = position + 8, b""
        else:
            raw, vr, length = self._short.unpack_from(data, position)
            start = position + 8
            if vr not in SHORT_VRS:
                header = self._unusual(data, position, vr, length)
                if header is None:
                    return position
                start, length = header
        if length == UNDEFINED:
            self._enter(raw, vr)
            return start
        return start + int(length)


_STRUCTS: Final = {form: struct.Struct(form) for form in ("<II", ">II", "<I2sH", ">I2sH", "<I", ">I")}


class Header:
    """The columns of the index, from what a scanner has kept. Text stands as received, decoded, without padding."""

    __slots__ = ("_big", "_encodings", "_values", "series_uid", "sop_uid", "study_uid")

    def __init__(self, values: Mapping[int, bytes], transfer_syntax_uid: str) -> None:
        self._values = values
        self._big = transfer_syntax_uid in BIG_ENDIAN
        self._encodings: list[str] | None = None
        # What the scanner finds later is seen too: only the UIDs are read at once.
        self.study_uid = self._uid(STUDY, "Study Instance UID")
        self.series_uid = self._uid(SERIES, "Series Instance UID")
        self.sop_uid = self._uid(SOP_INSTANCE, "SOP Instance UID")

    @property
    def sop_class_uid(self) -> str:
        return clean_uid(self._values.get(SOP_CLASS, b""))

    @property
    def patient_id(self) -> str:
        return self._text(0x00100020)

    def patient(self) -> dict[str, str]:
        values = {column: self._text(tag) for tag, column in PATIENT_COLUMNS.items()}
        return values | name_keys("name", values["name"])

    def study(self) -> dict[str, str]:
        values = {column: self._text(tag) for tag, column in STUDY_COLUMNS.items()}
        return values | name_keys("referring", values["referring_physician"])

    def series(self) -> dict[str, str]:
        return {column: self._text(tag) for tag, column in SERIES_COLUMNS.items()}

    def instance(self) -> tuple[str, str, int | None, int | None, int | None, int | None]:
        """Instance number, image type, rows, columns, bits allocated, number of frames."""
        text, number = self._text, self._number
        return text(INSTANCE_NUMBER), text(IMAGE_TYPE), number(ROWS), number(COLUMNS), number(BITS), self._frames()

    def _uid(self, tag: int, name: str) -> str:
        uid = clean_uid(self._values.get(tag, b""))
        if not uid:
            raise CannotUnderstand(f"data set has no {name}")
        if not is_uid(uid):
            raise CannotUnderstand(f"{name} of the data set is not a valid UID")
        return uid

    def _text(self, tag: int) -> str:
        value = self._values.get(tag)
        if not value:
            return ""
        if not value.isascii() or b"\x1b" in value:
            return self._decoded(tag, value)
        text = value.decode("ascii").strip(" \0")
        return text if "\0" not in text else text.replace("\0", "")

    def _decoded(self, tag: int, value: bytes) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings show values
            try:
                encodings = self._character_sets()
                if tag in _NAMES:
                    text = str(PersonName(value, encodings).decode())
                else:
                    text = decode_bytes(value, encodings, {0x5C, 0x0D, 0x0A, 0x09, 0x0C})
            except (ValueError, LookupError, TypeError, AttributeError):
                text = value.decode("latin-1")
        # What cannot be encoded again, and NUL, has no place in a database.
        return text.encode("utf-8", "replace").decode().replace("\0", "").strip()

    def _character_sets(self) -> list[str]:
        if self._encodings is None:
            terms = self._values.get(CHARACTER_SET, b"").decode("ascii", "replace").split("\\")
            self._encodings = convert_encodings([term.strip(" \0") for term in terms])
        return self._encodings

    def _number(self, tag: int) -> int | None:
        value = self._values.get(tag, b"")
        return int.from_bytes(value, "big" if self._big else "little") if len(value) == 2 else None

    def _frames(self) -> int | None:
        text = self._values.get(FRAMES, b"").strip(b" \0")
        return int(text) if text.isdigit() and len(text) < 10 else None


def clean_uid(value: bytes) -> str:
    """A UID without its padding; what is no ASCII stays visible as a replacement character."""
    return value.decode("ascii", "replace").strip(" \0")


def is_uid(uid: str) -> bool:
    """Whether `uid` can stand for something: digits and dots, 64 at most; leading zeros and the like are let pass."""
    return 0 < len(uid) <= 64 and uid[0] not in "." and uid.replace(".", "").isdecimal() and uid.isascii()
