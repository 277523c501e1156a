"""Bytes of stored instances as a response: from their segments to the socket, or read in order where the socket is not ours."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from starlette.types import Scope, Send

from dicom_node.web.dicomweb.responses import Buffer, Piece, Streamed
from dicom_node.web.wire import Extent, check_still_there, send_extents, wire_of

PIECE: Final = 4 << 20
READ: Final = 1 << 20  # a client that takes this in a minute is not too slow


class StoredBytes(Streamed):
    """A response made of extents of segments and what follows the last of them; its length is known."""

    def __init__(
        self, extents: Sequence[Extent], media_type: str, *, end: bytes = b"", status: int = 200, headers: Mapping[str, str] = {}
    ) -> None:
        length = sum(len(each.head) + each.length for each in extents) + len(end)
        super().__init__(read_extents(extents, end), media_type, status=status, length=length, headers=headers)
        self._extents = extents
        self._last = end

    async def _body(self, scope: Scope, send: Send) -> None:
        wire = wire_of(scope)
        if wire is None:
            await super()._body(scope, send)
            return
        await self._head(send)
        await send_extents(wire, self._extents, self._last)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


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
                data = os.pread(descriptor, min(stop - position, READ), position)
                if not data:
                    raise OSError(f"{extent.path.name} ends at {position}")
                buffers.append(data)
                position += len(data)
                size += len(data)
                if position == stop:
                    check_still_there(descriptor, extent)
                if size >= PIECE:
                    yield buffers
                    buffers, size = [], 0
        yield [*buffers, end]
    finally:
        if descriptor >= 0:
            os.close(descriptor)
