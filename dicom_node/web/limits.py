"""Limits of what a client may ask of the web server: how long, how large, how many; whoever goes beyond gets one line and goes.

`body` reads a request's body under limits, and undoes gzip without trusting it. `DeadlineProtocol` closes connections on which nothing
comes to an end: a request line sent byte by byte, an answer that nobody reads.
"""

from __future__ import annotations

import asyncio
import socket
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import h11
from h11._readers import ContentLengthReader
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dicom_node.config import WebTable
from dicom_node.web.dicomweb.errors import RETRY_AFTER, BadRequest, SlowClient, TooLarge, Unsupported, answer

PLACE_WAIT: Final = 20.0  # seconds for a place where pixels are decoded or rendered
HEAD_DEADLINE: Final = 15.0  # seconds for a request line and its headers
READ_DEADLINE: Final = 60.0  # seconds in which a client must take something of its answer
LEAST_PROGRESS: Final = 64 << 10  # bytes of a body that must come within the stall timeout
INFLATE_STEP: Final = 256 << 10
FREE_INFLATION: Final = 8 << 20  # bytes that may come out before the ratio is looked at
MAX_RATIO: Final = 100
CONNECTION: Final = "dicom_node.connection"  # in a scope's extensions: the connection that the request came on
_MISTAKES: Final = {431: "the request's head is too long", 501: "transfer codings other than chunked are not taken"}
DRAIN_BYTES, DRAIN_SECONDS = 64 << 20, 5.0


@dataclass(frozen=True)
class BodyLimits:
    """`size`: bytes of a body, after gzip was undone; `stall`: seconds in which `LEAST_PROGRESS` bytes must come."""

    size: int
    stall: float

    @classmethod
    def of(cls, settings: WebTable) -> BodyLimits:
        return cls(settings.max_request_size, settings.stall_timeout)


async def body(request: Request, limits: BodyLimits) -> AsyncIterator[bytes]:
    """The body of a request, piece by piece.

    Raises
    ------
    TooLarge
        Its announced or true length is beyond the limit, or it swells when it is inflated.
    Unsupported
        A content coding other than gzip.
    SlowClient
        It does not get on.
    ClientDisconnect
        It broke off.
    """
    announced_length(request, limits)
    inflate = _decoder(request.headers.get("content-encoding", ""))
    got = came = 0
    until = time.monotonic() + limits.stall
    progressed = 0
    while True:
        message = await next_message(request, until)
        raw: bytes = message.get("body", b"")
        came += len(raw)
        if came - progressed >= LEAST_PROGRESS:
            progressed, until = came, time.monotonic() + limits.stall
        for piece in inflate.feed(raw) if inflate else (raw,):
            got += len(piece)
            if got > limits.size:
                raise TooLarge(f"a request may have {limits.size} bytes")
            if piece:
                yield piece
        if not message.get("more_body", False):
            break
    if inflate:
        inflate.close()


def announced_length(request: Request, limits: BodyLimits) -> int | None:
    """What Content-Length says, None where there is none; raises TooLarge."""
    announced = request.headers.get("content-length", "")
    if not announced.isdigit():
        return None
    if int(announced) > limits.size:
        raise TooLarge(f"a request may have {limits.size} bytes; this one announces more")
    return int(announced)


async def next_message(request: Request, until: float) -> dict[str, Any]:
    """What the server has of the body; raises SlowClient at `until`, or ClientDisconnect."""
    try:
        message = await asyncio.wait_for(request.receive(), max(until - time.monotonic(), 0.01))
    except TimeoutError:
        raise SlowClient("the request's body does not get on") from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    request.state.body_has_ended = not message.get("more_body", False)
    return dict(message)


async def drain(request: Request) -> None:
    """Take what the client is still sending, for a while, so that it reads its answer instead of a reset connection."""
    taken, until = 0, time.monotonic() + DRAIN_SECONDS
    try:
        while taken < DRAIN_BYTES and not getattr(request.state, "body_has_ended", False):
            message = await next_message(request, until)
            taken += len(message.get("body", b""))
    except (SlowClient, ClientDisconnect):
        return


def _decoder(coding: str) -> Inflater | None:
    if coding.strip().lower() in ("", "identity"):
        return None
    if coding.strip().lower() in ("gzip", "x-gzip"):
        return Inflater()
    raise Unsupported("content codings other than gzip are not taken")


class Inflater:
    """gzip undone in small steps."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._in = self._out = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes out, in pieces of `INFLATE_STEP` at most; raises TooLarge for a bomb, BadRequest for what is no gzip."""
        self._in += len(data)
        full = False
        while (data or full) and not self._inflater.eof:
            try:
                piece = self._inflater.decompress(data, INFLATE_STEP)
            except zlib.error:
                raise BadRequest("the body is not gzip, although Content-Encoding says so") from None
            full, data = len(piece) == INFLATE_STEP, self._inflater.unconsumed_tail
            self._out += len(piece)
            if self._out > max(FREE_INFLATION, MAX_RATIO * self._in):
                raise TooLarge("the body swells beyond measure when it is inflated")
            yield piece

    def close(self) -> None:
        if not self._inflater.eof:
            raise BadRequest("the gzip body breaks off")


class Connection(h11.Connection):
    """One that remembers which status its client's mistake deserves, and can be told of bytes of a body that it did not see."""

    mistake = 400

    @property
    def body_left(self) -> int:
        """Bytes of the request's body that are still to come, as Content-Length says."""
        return self._reader._remaining if isinstance(self._reader, ContentLengthReader) else 0

    @body_left.setter
    def body_left(self, count: int) -> None:
        assert isinstance(self._reader, ContentLengthReader)
        self._reader._remaining = count

    def next_event(self) -> Any:
        try:
            return super().next_event()
        except h11.RemoteProtocolError as error:
            self.mistake = error.error_status_hint
            raise


class Crowd:
    """ASGI middleware before everything: with more connections than `most`, a request is told to come again, and its connection closed."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope.get("extensions", {}).get(CONNECTION)
        connections = getattr(connection, "connections", ())
        if len(connections) <= self._most:
            await self._app(scope, receive, send)
            return
        await answer(503, "too many connections at a time; come again", {**RETRY_AFTER, "Connection": "close"})(scope, receive, send)


class DeadlineProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with an end to waiting for a request's head and for a client that does not read."""

    head_deadline = HEAD_DEADLINE
    read_deadline = READ_DEADLINE
    _refused = False
    stopping = False  # the server is told to stop: an answer without end is to end
    _waiting_since = 0.0
    _watch: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.conn: Connection = Connection(h11.SERVER)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_started:  # its task starts after us
            scope = cast("dict[str, Any]", self.cycle.scope)
            scope.setdefault("extensions", {})[CONNECTION] = self

    def shutdown(self) -> None:
        self.stopping = True
        super().shutdown()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        for timer in (self._watch, self._writing):  # the protocol that takes over has its own
            if timer is not None:
                timer.cancel()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Tell in our form what is wrong with a request that is no HTTP; one that is being answered just ends."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        refusal = answer(self.conn.mistake, _MISTAKES.get(self.conn.mistake, "this is no HTTP request"), {"Connection": "close"})
        head = h11.Response(status_code=refusal.status_code, headers=refusal.raw_headers)
        for event in (head, h11.Data(data=bytes(refusal.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._refused = True
        self.transport.write_eof()  # whoever is still sending reads the answer, and not of a reset connection
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self.loop.call_later(DRAIN_SECONDS, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does so for the sockets that it made itself; without it a kept connection waits 40 ms for each small answer.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waiting_since = time.monotonic()
        self._watch = self.loop.call_later(self.head_deadline, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._watch, self._writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._waiting_since = time.monotonic()
        super().on_response_complete()

    def _look(self) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        left = self.head_deadline - (time.monotonic() - self._waiting_since)
        if waiting and left <= 0:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(max(left, 0.05) if waiting else self.head_deadline, self._look)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.read_deadline, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
