"""Bodies, most made while they are sent: the next piece in a thread while the one before goes out, never more than two in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dicom_node.web.dicomweb.errors import HEADERS, WebError
from dicom_node.web.wire import wire_of

log = structlog.get_logger()

Buffer = bytes | bytearray | memoryview
Piece = Sequence[Buffer]

_THREADS: Final = ThreadPoolExecutor(16, thread_name_prefix="dicomweb")


class Streamed(Response):
    """A response whose body comes from an iterator, read in a thread; it is closed however the response ends.

    Parameters
    ----------
    pieces
        Each a few buffers, together some megabytes at most.
    length
        Bytes of the whole body, where they are known.
    """

    def __init__(
        self, pieces: Iterator[Piece], media_type: str, *, status: int = 200, length: int | None = None, headers: Mapping[str, str] = {}
    ) -> None:
        self.pieces = pieces
        self.status_code = status
        self.background = None
        self._started = False
        self.body = b""
        every = {**HEADERS, "Content-Type": media_type, **headers}
        if length is not None:
            every["Content-Length"] = str(length)
        self.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in every.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await self._close()
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        sending = asyncio.ensure_future(self._body(scope, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not sending.done():
                sending.cancel()
            await self._ended(sending, scope)

    async def _ended(self, sending: asyncio.Future[None], scope: Scope) -> None:
        """Hand on what went wrong before the head was sent; after it there is nobody to tell, and the connection is closed."""
        try:
            await sending
        except asyncio.CancelledError:
            pass
        except Exception as error:
            wire = wire_of(scope)
            if not self._started or wire is None:
                raise
            log.warning("response.broken", why=str(error) if isinstance(error, OSError | WebError) else type(error).__name__)
            wire.transport.abort()
            await asyncio.sleep(0)  # now the server knows, and does not wait for the rest

    async def _body(self, scope: Scope, send: Send) -> None:
        """Send head and body."""
        loop = asyncio.get_running_loop()
        ahead = loop.run_in_executor(_THREADS, next, self.pieces, None)
        try:
            piece = await ahead  # what goes wrong before the first byte is still answered with a status
            await self._head(send)
            while piece is not None:
                ahead = loop.run_in_executor(_THREADS, next, self.pieces, None)
                for buffer in piece:
                    await send({"type": "http.response.body", "body": buffer, "more_body": True})
                piece = await ahead
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await asyncio.shield(self._end(ahead))

    async def _head(self, send: Send) -> None:
        self._started = True
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _end(self, ahead: asyncio.Future[Piece | None]) -> None:
        with contextlib.suppress(Exception):  # told already where it could be
            await asyncio.shield(ahead)
        await self._close()

    async def _close(self) -> None:
        close = getattr(self.pieces, "close", None)
        if close is not None:
            await asyncio.get_running_loop().run_in_executor(_THREADS, close)


def whole(pieces: Iterator[Piece], media_type: str, *, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    """A response whose body is small: made here, in the endpoint's thread, and sent as one."""
    return made(b"".join(buffer for piece in pieces for buffer in piece), media_type, status=status, headers=headers)


def made(content: bytes | memoryview, media_type: str, *, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    """A response whose body is in memory already."""
    return Response(content, status_code=status, headers={**HEADERS, "Content-Type": media_type, **headers})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def unchanged(request: Request, tag: str) -> Response | None:
    """The answer 304 where the client has this already (RFC 9110 13.1.2)."""
    known = request.headers.get("if-none-match")
    if known is None:
        return None
    tags = [each.strip().removeprefix("W/") for each in known.split(",")]
    if known.strip() != "*" and tag not in tags:
        return None
    return Response(status_code=304, headers={**HEADERS, "ETag": tag})
