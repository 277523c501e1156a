"""Where the frames of a stored image lie in its file: found by reading its header once, never its pixels (PS3.5 8, annex A)."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from dicom_node.transcode import ChildrenBusy, Frame, TranscodeError, Transcoder
from dicom_node.web.dicomweb.errors import NoSuchResource, Unprocessable
from storage.archive import StoredInstance
from storage.header_json import PIXELS, UNREADABLE

UNDEFINED: Final = 0xFFFFFFFF
MAX_FRAGMENTS: Final = 1_000_000
_ITEM, _SEQUENCE_END = 0xE000FFFE, 0xE0DDFFFE
INFLATE_LIMIT: Final = 64 << 20  # in this process: several requests may do so at once
FRAME_LIMIT: Final = 512 << 20  # bytes of one frame, decoded
EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED: Final = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1"})
_LONG: Final = frozenset({b"OB", b"OW", b"OF", b"OD", b"UN", b"OL", b"OV"})
_DECODING: Final = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


@dataclass(frozen=True)
class Pixels:
    """The pixel data of an instance.

    Attributes
    ----------
    header : the data set up to its pixel data
    offset : where the element's value begins in the Part 10 file, or in the inflated data set
    length : bytes of the value; `UNDEFINED` where it is encapsulated
    """

    header: Dataset
    tag: int
    offset: int
    length: int
    inflated: bytes | None = None

    @property
    def encapsulated(self) -> bool:
        return self.length == UNDEFINED

    @property
    def frames(self) -> int:
        try:
            return max(int(self.header.get("NumberOfFrames", 1) or 1), 1)
        except UNREADABLE:
            return 1

    @property
    def frame_values(self) -> int:
        """Rows x columns x samples of a frame; Unprocessable where the header does not say."""
        try:
            return int(self.header.Rows) * int(self.header.Columns) * int(self.header.get("SamplesPerPixel", 1) or 1)
        except UNREADABLE:
            raise Unprocessable("the stored instance does not say how large its frames are") from None

    @property
    def frame_bits(self) -> int:
        """Bits of one native frame; Unprocessable where the header does not say."""
        try:
            bits = self.frame_values * int(self.header.BitsAllocated)
        except UNREADABLE:
            raise Unprocessable("the stored instance does not say how large its frames are") from None
        if self.header.get("PhotometricInterpretation") == "YBR_FULL_422":
            bits = bits * 2 // 3
        if not 0 < bits <= 8 * FRAME_LIMIT:
            raise Unprocessable("the stored instance says that its frames have no size, or one beyond measure")
        return bits


def read_dicom(stored: StoredInstance) -> tuple[Dataset, Pixels | None]:
    """Read an instance up to its pixel data, and find these; Unprocessable where it cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings show values
        try:
            if stored.transfer_syntax_uid in DEFLATED:
                data = _inflate(stored.pread(stored.meta_length, stored.length - stored.meta_length))
                file: BinaryIO = io.BytesIO(data)
                header = read_dataset(file, False, True, stop_when=lambda tag, vr, length: int(tag) in PIXELS)
                return header, _pixels(header, file, False, "<", data)
            with stored.file() as file:
                header = dcmread(file, stop_before_pixels=True, force=True)
                implicit, little = header.original_encoding
                return header, _pixels(header, file, bool(implicit), "<" if little is not False else ">", None)
        except UNREADABLE:
            raise Unprocessable("the stored instance cannot be read") from None


def _inflate(data: bytes) -> bytes:
    body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, INFLATE_LIMIT + 1)
    if len(body) > INFLATE_LIMIT:
        raise ValueError("deflated data set beyond the limit")
    return body


def _pixels(header: Dataset, file: BinaryIO, implicit: bool, order: str, inflated: bytes | None) -> Pixels | None:
    start = file.read(12)
    if len(start) < 8:
        return None
    group, element = struct.unpack_from(order + "HH", start)
    tag = group << 16 | element
    if tag not in PIXELS:
        return None
    position = file.tell() - len(start)
    if implicit:
        return Pixels(header, tag, position + 8, struct.unpack_from(order + "I", start, 4)[0], inflated)
    if start[4:6] not in _LONG or len(start) < 12:
        return None
    return Pixels(header, tag, position + 12, struct.unpack_from(order + "I", start, 8)[0], inflated)


_REMEMBERED: Final = 16
_known: OrderedDict[tuple[str, str], Pixels] = OrderedDict()


def pixels_of(stored: StoredInstance) -> Pixels:
    """The pixel data of an instance; NoSuchResource where it has none. The last few are remembered: a viewer asks frame by frame."""
    key = stored.sop_uid, f"{stored.digest} {stored.path} {stored.offset}"
    pixels = _known.get(key) or _checked(stored)
    if pixels.inflated is None:
        _known[key] = pixels
        while len(_known) > _REMEMBERED:
            with contextlib.suppress(KeyError):  # another thread was there first
                _known.popitem(last=False)
    return pixels


def _checked(stored: StoredInstance) -> Pixels:
    _, pixels = read_dicom(stored)
    if pixels is None:
        raise NoSuchResource("this instance has no pixel data")
    available = len(pixels.inflated) if pixels.inflated is not None else stored.length
    if not pixels.encapsulated and pixels.offset + pixels.length > available:
        raise Unprocessable("the stored instance ends within its pixel data")
    return pixels


def stored_frame(stored: StoredInstance, pixels: Pixels, number: int) -> bytes:
    """Frame `number` (from 1) as it is stored, native or compressed.

    Raises
    ------
    Unprocessable
        It is not where it should be.
    """
    if pixels.encapsulated:
        return _fragment(stored, pixels, number)
    bits = pixels.frame_bits
    first, last = (number - 1) * bits, number * bits
    if last > 8 * pixels.length:
        raise Unprocessable("the stored instance ends before this frame")
    data = _value(stored, pixels, first // 8, (last + 7) // 8)
    return data if first % 8 == 0 else _shifted(data, first % 8, bits)


def _value(stored: StoredInstance, pixels: Pixels, start: int, stop: int) -> bytes:
    if pixels.inflated is not None:
        return pixels.inflated[pixels.offset + start : pixels.offset + stop]
    return stored.pread(pixels.offset + start, stop - start)


def _shifted(data: bytes, by: int, bits: int) -> bytes:
    """Bits from bit `by` on, the first of them in the lowest bit, as frames of one bit a pixel are packed without gaps (PS3.5 8.1.1)."""
    value = (int.from_bytes(data, "little") >> by) & ((1 << bits) - 1)
    return value.to_bytes((bits + 7) // 8, "little")


def _fragment(stored: StoredInstance, pixels: Pixels, number: int) -> bytes:
    offsets = None
    header = pixels.header
    if "ExtendedOffsetTable" in header and "ExtendedOffsetTableLengths" in header:
        offsets = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
    file = io.BytesIO(pixels.inflated) if pixels.inflated is not None else stored.file()
    try:
        file.seek(pixels.offset)
        return bytes(get_frame(file, number - 1, extended_offsets=offsets, number_of_frames=pixels.frames))
    except UNREADABLE:
        raise Unprocessable("the stored instance's fragments do not give this frame") from None
    finally:
        file.close()


def fragments_of(stored: StoredInstance, pixels: Pixels) -> list[tuple[int, int]]:
    """Where the fragments of encapsulated pixel data lie in the file, and how long they are; raises Unprocessable."""
    found: list[tuple[int, int]] = []
    position = pixels.offset
    with stored.file() as file:
        while True:
            file.seek(position)
            tag, length = struct.unpack("<II", file.read(8).ljust(8, b"\0"))
            position += 8
            if tag == _SEQUENCE_END:
                return found[1:]  # the first is the offset table
            if tag != _ITEM or position + length > stored.length or len(found) > MAX_FRAGMENTS:
                raise Unprocessable("the stored instance's fragments do not end where they should")
            found.append((position, length))
            position += length


def decoded_frame(stored: StoredInstance, pixels: Pixels, number: int, transcoder: Transcoder) -> Frame:
    """Frame `number` (from 1), decoded; raises Unprocessable, or ChildrenBusy."""
    header, syntax = pixels.header, stored.transfer_syntax_uid
    frame = stored_frame(stored, pixels, number)
    if not pixels.encapsulated and syntax != BIG_ENDIAN:
        return native_frame(header, frame)
    if not pixels.encapsulated:
        wide = int(header.BitsAllocated) // 8
        if wide > 1:
            frame = b"".join(frame[at : at + wide][::-1] for at in range(0, len(frame), wide)) if wide > 2 else _swapped(frame)
        return native_frame(header, frame)
    alone = Dataset()
    for name in _DECODING:
        if name in header:
            alone[name] = header[name]
    alone.NumberOfFrames = 1
    alone.PixelData = encapsulate([frame])
    alone["PixelData"].VR = "OB"
    alone["PixelData"].is_undefined_length = True
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    try:
        pixels.frame_bits  # noqa: B018 - refuses a size beyond measure
        write_dataset(out, alone)
        return transcoder.decode_frame(out.getvalue(), syntax, 1)
    except ChildrenBusy:
        raise
    except TranscodeError as error:
        raise Unprocessable(f"the stored frame cannot be decoded: {error}") from None
    except UNREADABLE:
        raise Unprocessable("the stored instance does not say how its frames are encoded") from None


def _swapped(data: bytes) -> bytes:
    swapped = bytearray(len(data))
    swapped[::2], swapped[1::2] = data[1::2], data[::2]
    return bytes(swapped)


def native_frame(header: Dataset, data: bytes) -> Frame:
    """A native frame's bytes with what its header says of them; raises Unprocessable."""
    try:
        return Frame(
            pixels=data,
            rows=int(header.Rows),
            columns=int(header.Columns),
            samples_per_pixel=int(header.get("SamplesPerPixel", 1) or 1),
            bits_allocated=int(header.BitsAllocated),
            bits_stored=int(header.get("BitsStored", header.BitsAllocated)),
            high_bit=int(header.get("HighBit", header.BitsAllocated - 1)),
            pixel_representation=int(header.get("PixelRepresentation", 0) or 0),
            photometric_interpretation=str(header.get("PhotometricInterpretation", "MONOCHROME2")),
        )
    except UNREADABLE:
        raise Unprocessable("the stored instance does not say how its frames are encoded") from None
