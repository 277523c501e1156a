"""Bytes of stored instances, read ahead in order: a few megabytes at a time, one open file at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from dicom_node.web.dicomweb.responses import Buffer, Piece

PIECE: Final = 4 << 20


class Extent:
    """`length` bytes at `offset` of a segment, with what is sent before them; `file`: where the Part 10 file begins that holds them."""

    __slots__ = ("file", "head", "length", "offset", "path")

    def __init__(self, head: bytes, path: Path, offset: int, length: int, file: int) -> None:
        self.head = head
        self.path = path
        self.offset = offset
        self.length = length
        self.file = file


def read_extents(extents: Sequence[Extent], end: bytes = b"") -> Iterator[Piece]:
    """The bytes of all of them one after the other, in pieces of about `PIECE`.

    Raises
    ------
    OSError
        A segment ends before it should, or cannot be read; what was promised cannot be sent.
    """
    buffers: list[Buffer] = []
    size = 0
    path, descriptor = None, -1
    try:
        for extent in extents:
            if extent.path != path:
                if descriptor >= 0:
                    os.close(descriptor)
                path, descriptor = extent.path, -1
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            buffers.append(extent.head)
            position, stop = extent.offset, extent.offset + extent.length
            while position < stop:
                data = os.pread(descriptor, min(stop - position, PIECE - size), position)
                if not data:
                    raise OSError(f"{extent.path.name} ends at {position}")
                buffers.append(data)
                position += len(data)
                size += len(data)
                if position == stop:
                    _still_there(descriptor, extent)
                if size >= PIECE:
                    yield buffers
                    buffers, size = [], 0
        yield [*buffers, end]
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _still_there(descriptor: int, extent: Extent) -> None:
    """A deletion punches a file's bytes: were they still there when the last of them was read?"""
    if os.pread(descriptor, 4, extent.file + 128) != b"DICM":
        raise OSError(f"what lay at {extent.offset} of {extent.path.name} was deleted meanwhile")
