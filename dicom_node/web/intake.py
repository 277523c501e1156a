"""A request's body from the client's socket to the thread that stores it, past the event loop: each byte is copied once on its way.

The event loop has read the head and what came with it; it stops reading, and the thread takes exactly the bytes that Content-Length says
are still to come. Afterwards h11 is told how many it did not see, and the connection goes on as if it had.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from typing import Final

from starlette.requests import ClientDisconnect, Request

from dicom_node.web.dicomweb.errors import SlowClient
from dicom_node.web.limits import LEAST_PROGRESS, BodyLimits, DeadlineProtocol, announced_length, next_message
from dicom_node.web.wire import wire_of

PIECE: Final = 256 << 10  # stays in a processor's cache from the socket to the disk
WORTH_IT: Final = 256 << 10  # bytes of a body
PATIENCE: Final = 0.5  # seconds after which a thread that waits looks whether it is still wanted


async def taken(request: Request, limits: BodyLimits) -> SocketBody | None:
    """Take over the body of a request; None where it has no length, is compressed or small, or the connection is not ours.

    Raises
    ------
    TooLarge, SlowClient, ClientDisconnect
        As :func:`dicom_node.web.limits.body` does.
    """
    connection, length = wire_of(request.scope), announced_length(request, limits)
    coding = request.headers.get("content-encoding", "").strip().lower()
    if connection is None or length is None or length < WORTH_IT or coding not in ("", "identity"):
        return None
    first = await next_message(request, time.monotonic() + limits.stall)  # whoever waits for leave to send gets it with this
    return SocketBody(request, connection, first.get("body", b""), limits.stall)


class SocketBody:
    """The pieces of a body: iterated over in one thread, made and given back in the event loop."""

    def __init__(self, request: Request, connection: DeadlineProtocol, first: bytes, stall: float) -> None:
        connection.flow.pause_reading()
        self._request = request
        self._connection = connection
        self._came = [first, bytes(connection.cycle.body)]
        connection.cycle.body = bytearray()
        self._left = self._unseen = connection.conn.body_left
        self._stall = stall
        self._waited = 0.0
        self._progress = 0
        self._stopped = False
        self._socket = connection.transport.get_extra_info("socket").dup()
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def __iter__(self) -> Iterator[bytes]:
        """The pieces; raises SlowClient, or ClientDisconnect."""
        yield from filter(None, self._came)
        while self._left:
            piece = self._read()
            self._left -= len(piece)
            self._progress += len(piece)
            if self._progress >= LEAST_PROGRESS:
                self._progress, self._waited = 0, 0.0
            yield piece

    def _read(self) -> bytes:
        while not self._stopped:
            try:
                data: bytes = self._socket.recv(min(self._left, PIECE))
            except BlockingIOError:
                self._wait()
                continue
            except OSError:
                break
            if not data:
                break
            return data
        raise ClientDisconnect

    def _wait(self) -> None:
        """Wait for bytes; only this counts against the client, not how long the storing takes."""
        if self._waited >= self._stall:
            raise SlowClient("the request's body does not get on")
        began = time.monotonic()
        self._poll.poll(1000 * min(PATIENCE, self._stall - self._waited))
        self._waited += time.monotonic() - began

    def stop(self) -> None:
        """Whoever iterates is told that the client has gone."""
        self._stopped = True

    def give_back(self) -> None:
        """The event loop reads on, from wherever the thread has come to; the thread has ended."""
        self._socket.close()
        connection = self._connection
        self._request.state.body_has_ended = not self._left
        if connection.transport.is_closing() or not self._unseen:
            return
        connection.conn.body_left = self._left
        if not self._left:
            connection.handle_events()
        connection.flow.resume_reading()
