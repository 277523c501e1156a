"""Encapsulated pixel data to frames and back (PS3.5 A.4, annex A of PS3.3 C.7.6.3.1.8)."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack, unpack
from typing import Final

from dicom_node.pixels.elements import PIXEL_DATA, Element, Fragments, NotReadable, replace

OFFSETS: Final = 0x7FE00001
LENGTHS: Final = 0x7FE00002
_STARTS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")


def split(elements: list[Element], fragments: Fragments, count: int) -> list[bytes]:
    """The frames of encapsulated pixel data.

    Raises
    ------
    NotReadable
        It cannot be told which fragments are whose.
    """
    data = fragments[1:]
    if not fragments or not data:
        raise NotReadable("pixel data without fragments")
    if count == 1:
        return [b"".join(data)]
    if len(data) == count:
        return [bytes(each) for each in data]
    starts = _starts(elements, fragments) or _by_signature(data)
    if len(starts) != count or sorted(set(starts)) != starts or starts[0] != 0:
        raise NotReadable(f"{len(data)} fragments for {count} frames, and no table that says whose they are")
    return [b"".join(data[start:end]) for start, end in zip(starts, [*starts[1:], len(data)])]


def _starts(elements: list[Element], fragments: Fragments) -> list[int]:
    """The number of the first fragment of each frame, by the Extended or the Basic Offset Table."""
    extended = next((bytes(each.value) for each in elements if each.tag == OFFSETS and isinstance(each.value, bytes | memoryview)), b"")
    if extended:
        offsets = unpack(f"<{len(extended) // 8}Q", extended[: len(extended) // 8 * 8])
    else:
        table = bytes(fragments[0])
        offsets = unpack(f"<{len(table) // 4}L", table[: len(table) // 4 * 4])
    places, position = {}, 0
    for index, fragment in enumerate(fragments[1:]):
        places[position] = index
        position += len(fragment) + 8
    return [places[offset] for offset in offsets if offset in places]


def _by_signature(data: Sequence[memoryview]) -> list[int]:
    """A frame begins where a fragment begins as a codestream does."""
    return [index for index, fragment in enumerate(data) if bytes(fragment[:8]).startswith(_STARTS)]


def encapsulate(elements: list[Element], frames: list[bytes]) -> None:
    """Set Pixel Data to one fragment a frame, with an offset table where there are several."""
    padded = [frame + b"\0" if len(frame) & 1 else frame for frame in frames]
    offsets, position = [], 0
    for frame in padded:
        offsets.append(position)
        position += len(frame) + 8
    replace(elements, OFFSETS, b"OV", None)
    replace(elements, LENGTHS, b"OV", None)
    table = b""
    if len(padded) > 1 and position < 1 << 32:
        table = pack(f"<{len(offsets)}L", *offsets)
    elif len(padded) > 1:
        replace(elements, OFFSETS, b"OV", pack(f"<{len(offsets)}Q", *offsets))
        replace(elements, LENGTHS, b"OV", pack(f"<{len(frames)}Q", *map(len, frames)))
    replace(elements, PIXEL_DATA, b"OB", Fragments(memoryview(each) for each in (table, *padded)))
