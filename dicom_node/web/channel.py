"""WebSocket connections (RFC 6455) as this node serves them: small frames in, deadlines, and proof that the peer reads what it is sent."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request

from dicom_node.web.limits import CONNECTION, READ_DEADLINE

MAX_MESSAGE: Final = 4096  # bytes of what a client may say: nothing that it says is needed


class ChannelProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that can ask whether the peer still reads, and ends when it takes nothing for `read_deadline` seconds."""

    read_deadline = READ_DEADLINE

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._numbers = itertools.count(1)
        self._pings: dict[int, asyncio.Future[bool]] = {}
        self._writing: asyncio.TimerHandle | None = None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.handshake_complete:  # its task starts after us
            scope = cast("dict[str, Any]", self.scope)
            scope["extensions"][CONNECTION] = self

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # it was refused: an answer, and no fault

    def ping(self) -> asyncio.Future[bool]:
        """Ask the peer to answer: True when it has, and so has read everything that was sent before; False when it has gone."""
        number, answer = next(self._numbers), self.loop.create_future()
        self._pings[number] = answer
        try:
            self.conn.send_ping(str(number).encode())
        except InvalidState:
            answer.set_result(False)
        else:
            self.transport.write(b"".join(self.conn.data_to_send()))
        return answer

    def end(self) -> None:
        """Close at once, whatever the peer has not read yet."""
        self.transport.abort()

    def handle_pong(self, event: Frame) -> None:
        given = bytes(event.data)
        if not given.isdigit() or len(given) > 20:
            return
        for number in [each for each in self._pings if each <= int(given)]:  # it need answer the last one only (RFC 6455 5.5.3)
            _settle(self._pings.pop(number), True)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._writing is not None:
            self._writing.cancel()
        for answer in self._pings.values():
            _settle(answer, False)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()  # or whoever pings and reads no answer would fill the memory
        if self._writing is None:
            self._writing = self.loop.call_later(self.read_deadline, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None


def _settle(answer: asyncio.Future[bool], said: bool) -> None:
    if not answer.done():
        answer.set_result(said)


def connection_of(scope: Scope) -> ChannelProtocol:
    """The connection of a WebSocket's scope."""
    return cast("ChannelProtocol", scope["extensions"][CONNECTION])
