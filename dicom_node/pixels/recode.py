"""A data set in another transfer syntax, and one frame of it: what the child process does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from typing import Any, Final

import numpy as np

from dicom_node.pixels import codecs
from dicom_node.pixels.codecs import CodecError, Layout
from dicom_node.pixels.elements import PIXEL_DATA, Element, Fragments, NotReadable, number, read, replace, text, write
from dicom_node.pixels.frames import LENGTHS, OFFSETS, encapsulate, split
from dicom_node.pixels.syntaxes import NATIVE, RLE

MAX_FRAMES: Final = 1 << 20

SAMPLES: Final = 0x00280002
PHOTOMETRIC: Final = 0x00280004
PLANAR: Final = 0x00280006
FRAMES: Final = 0x00280008
ROWS: Final = 0x00280010
COLUMNS: Final = 0x00280011
BITS_ALLOCATED: Final = 0x00280100
BITS_STORED: Final = 0x00280101
HIGH_BIT: Final = 0x00280102
PIXEL_REPRESENTATION: Final = 0x00280103
OVERLAY_BITS: Final = 0x0100
OVERLAY_POSITION: Final = 0x0102


def recode(data: bytes | memoryview, source: str, target: str, limit: int) -> bytes:
    """Write a data set in another transfer syntax.

    Parameters
    ----------
    limit
        Most bytes that the decoded pixels, or an inflated data set, may take.

    Raises
    ------
    NotReadable, CodecError
    """
    elements = read(data, source, limit)
    for item in _items_with_pixels(elements):
        _decode_pixels(item, source, limit)
    if target not in NATIVE:
        _encode_pixels(elements, target, limit)
    return write(elements, target)


def _items_with_pixels(elements: list[Element]) -> Iterator[list[Element]]:
    """The data set, and every item in it, that has encapsulated pixel data: an icon may have some too."""
    for element in elements:
        if isinstance(element.value, Fragments):
            yield elements
        elif isinstance(element.value, list):
            for item in element.value:
                yield from _items_with_pixels(item)


def layout_of(elements: list[Element], limit: int) -> tuple[Layout, int]:
    """What a data set says of its frames, and how many there are; refuses what would be beyond the limit."""
    stored = number(elements, BITS_STORED) or number(elements, BITS_ALLOCATED)
    layout = Layout(
        rows=number(elements, ROWS),
        columns=number(elements, COLUMNS),
        samples=number(elements, SAMPLES, 1),
        bits_allocated=number(elements, BITS_ALLOCATED),
        bits_stored=stored,
        high_bit=number(elements, HIGH_BIT, stored - 1),
        signed=bool(number(elements, PIXEL_REPRESENTATION)),
        photometric=text(elements, PHOTOMETRIC),
    )
    count = number(elements, FRAMES, 1)
    if layout.rows <= 0 or layout.columns <= 0 or layout.samples not in (1, 3, 4):
        raise NotReadable("no rows, no columns, or a number of samples that no image has")
    if layout.bits_allocated not in (1, 8, 16, 32, 64) or not 0 < layout.bits_stored <= layout.bits_allocated:
        raise NotReadable("Bits Allocated and Bits Stored that no image has")
    if not 0 < count <= MAX_FRAMES:
        raise NotReadable("a number of frames that no image has")
    if layout.rows * layout.columns * layout.samples * count * max(layout.bits_allocated, 8) // 8 > limit:
        raise CodecError("the decoded pixels would be larger than the limit")
    return layout, count


def _decode_pixels(elements: list[Element], source: str, limit: int) -> None:
    """Put native pixel data in the place of encapsulated, and say what has changed with it."""
    layout, count = layout_of(elements, limit)
    if layout.bits_allocated == 1:
        raise CodecError("encapsulated pixel data of single bits")
    fragments = next(each.value for each in elements if isinstance(each.value, Fragments))
    result = np.empty((count, *layout.shape), layout.unsigned)
    photometric = layout.photometric
    for index, frame in enumerate(split(elements, fragments, count)):
        result[index], photometric = codecs.decode(frame, source, layout)
    native = result.tobytes()
    replace(elements, OFFSETS, b"OV", None)
    replace(elements, LENGTHS, b"OV", None)
    replace(elements, PIXEL_DATA, b"OB" if layout.bits_allocated == 8 else b"OW", native + bytes(len(native) & 1))
    _describe(elements, layout, photometric)


def _describe(elements: list[Element], layout: Layout, photometric: str) -> None:
    if layout.samples > 1:
        replace(elements, PLANAR, b"US", b"\0\0")
    if photometric != layout.photometric:
        value = photometric.encode()
        replace(elements, PHOTOMETRIC, b"CS", value + b" " * (len(value) & 1))


def _encode_pixels(elements: list[Element], target: str, limit: int) -> None:
    """Put encapsulated pixel data in the place of native; refuses what a codec could not give back exactly."""
    pixels = next((each.value for each in elements if each.tag == PIXEL_DATA), None)
    if not isinstance(pixels, bytes | memoryview):
        raise CodecError("no pixel data that could be compressed")
    layout, count = layout_of(elements, limit)
    if layout.bits_allocated not in (8, 16) or "422" in layout.photometric or "420" in layout.photometric:
        raise CodecError("pixels of a width or a subsampling that is not compressed here")
    if target != RLE and _has_embedded_overlay(elements):
        raise CodecError("overlays in unused bits of the pixels")
    frames = [codecs.encode(_native(pixels, index, layout, number(elements, PLANAR)), target, layout) for index in range(count)]
    _describe(elements, layout, layout.photometric)
    encapsulate(elements, frames)


def _has_embedded_overlay(elements: list[Element]) -> bool:
    """Overlay planes in the pixels' unused bits, retired in PS3.3 C.9.2 and still found."""
    groups = {each.tag >> 16 for each in elements if each.tag >> 16 & 0xFF00 == 0x6000}
    return any(
        number(elements, group << 16 | OVERLAY_POSITION) or number(elements, group << 16 | OVERLAY_BITS, 1) > 1 for group in groups
    )


def _native(pixels: bytes | memoryview, index: int, layout: Layout, planar: int) -> codecs.Pixels:
    """One frame of native pixel data as (rows, columns[, samples]), unsigned."""
    size = layout.frame_size
    raw = pixels[index * size : (index + 1) * size]
    if len(raw) < size:
        raise NotReadable("pixel data shorter than its frames")
    values = np.frombuffer(raw, layout.unsigned)
    if layout.samples > 1 and planar == 1:
        planes = values.reshape(layout.samples, layout.rows, layout.columns)
        return np.ascontiguousarray(np.moveaxis(planes, 0, -1))
    return values.reshape(layout.shape)


@dataclass(frozen=True)
class Decoded:
    """A frame: its values little endian, by pixel, and what they mean."""

    layout: Layout
    pixels: bytes

    def description(self) -> dict[str, Any]:
        return asdict(self.layout)


def decode_frame(data: bytes | memoryview, source: str, index: int, limit: int) -> Decoded:
    """Decode one frame (from 1) of a data set.

    Raises
    ------
    NotReadable, CodecError
    """
    elements = read(data, source, limit)
    layout, count = layout_of(elements, limit)
    if not 1 <= index <= count:
        raise CodecError(f"there is no frame {index}; there are {count}")
    value = next((each.value for each in elements if each.tag == PIXEL_DATA), None)
    if isinstance(value, Fragments):
        values, photometric = codecs.decode(split(elements, value, count)[index - 1], source, layout)
        return Decoded(changed(layout, photometric=photometric), values.tobytes())
    if not isinstance(value, bytes | memoryview):
        raise CodecError("the data set has no pixel data")
    if layout.bits_allocated == 1:
        return Decoded(changed(layout, bits_allocated=8, bits_stored=1, high_bit=0), _bits(value, index - 1, layout))
    if layout.photometric == "YBR_FULL_422":
        return Decoded(changed(layout, photometric="YBR_FULL"), _full(value, index - 1, layout))
    return Decoded(layout, _native(value, index - 1, layout, number(elements, PLANAR)).tobytes())


def _bits(value: bytes | memoryview, index: int, layout: Layout) -> bytes:
    """A frame of single bits, which follows the one before it without a gap, as one byte a pixel (PS3.5 8.1.1)."""
    size = layout.rows * layout.columns
    first, last = index * size, (index + 1) * size
    raw = np.frombuffer(value[first // 8 : (last + 7) // 8], np.uint8)
    bits = np.unpackbits(raw, bitorder="little")[first % 8 : first % 8 + size]
    if len(bits) < size:
        raise NotReadable("pixel data shorter than its frames")
    return bits.tobytes()


def _full(value: bytes | memoryview, index: int, layout: Layout) -> bytes:
    """A native frame in which two pixels share their colour (PS3.3 C.7.6.3.1.2), with the colour at each."""
    size = layout.rows * layout.columns * 2
    raw = np.frombuffer(value[index * size : (index + 1) * size], np.uint8)
    if len(raw) < size or layout.columns % 2 or layout.bits_allocated != 8:
        raise NotReadable("pixel data shorter than its frames")
    pairs = raw.reshape(-1, 4)
    result = np.empty((len(pairs), 2, 3), np.uint8)
    result[:, 0, 0], result[:, 1, 0] = pairs[:, 0], pairs[:, 1]
    result[:, :, 1], result[:, :, 2] = pairs[:, 2:3], pairs[:, 3:4]
    return result.tobytes()
