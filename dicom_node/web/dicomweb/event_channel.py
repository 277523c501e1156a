"""Event reports of workitems over WebSockets (PS3.18 8.10.4, 8.10.5): to each subscriber what waits for it, in order, until it was read.

A report stays in the index until the subscriber's WebSocket has answered a ping that was sent after it, so what is under way when a
connection breaks is sent again on the next one. Any number of processes may serve channels: the index says what waits, a doorbell when.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Final

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from dicom_node.node import Node
from dicom_node.nudge import Doorbell
from dicom_node.web.authentication import ANONYMOUS
from dicom_node.web.channel import ChannelProtocol, connection_of
from dicom_node.web.dicomweb.errors import BadRequest, Busy, Forbidden, WebError, answer
from dicom_node.web.dicomweb.resources import PREFIX
from dicom_node.web.grouped import GroupedWrites
from dicom_node.web.identities import Identities, Principal
from dicom_node.web.pages.events import still_signed_in
from storage import workitem_events
from storage.errors import IndexUnavailable
from storage.workitem_events import WEB, Notice
from storage.workitem_owners import may_listen
from storage.workitem_values import UPS_PUSH, Json, element

log = structlog.get_logger()

CHANNEL: Final = f"{PREFIX}/ws/subscribers/{{aet}}"
BELL: Final = "workitems"
MAX_CHANNELS: Final = 100  # open in one process
MAX_HEARD: Final = 1000  # messages of a client: nothing that it could say is needed
AT_ONCE: Final = 50  # reports under way
PROVEN: Final = 10  # of them between two pings
GATHER: Final = 0.05  # seconds in which what happens next is gathered, so that many events are few looks at the index
POLL: Final = 1.0  # seconds until the index is looked at where no bell rang
PING_EVERY: Final = 20.0  # seconds of silence
PONG_DEADLINE: Final = 30.0  # seconds for a subscriber to take some reports more
LOOK_AGAIN: Final = 10.0  # seconds until a session that was ended is noticed
TAKEN_OVER, NOT_ALLOWED = 4000, 1008  # why a connection is closed


def routes(node: Node, writes: GroupedWrites, identities: Identities) -> list[BaseRoute]:
    """The address at which subscribers listen."""
    return [WebSocketRoute(CHANNEL, Channels(node, writes, identities).serve, name="event channel")]


def announce(node: Node) -> None:
    """Have subscribers told that the node has started again (PS3.4 CC.2.4, SCP Status Change)."""
    try:
        with node.database.begin(durable=False) as connection:
            workitem_events.tell_of_restart(connection, WEB, now=node.clock())
    except IndexUnavailable as error:  # a node starts without it
        log.warning("workitem.restart_not_told", why=str(error))


@dataclass(eq=False)
class _Channel:
    aet: str
    socket: WebSocket
    connection: ChannelProtocol
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    taken_over: asyncio.Event = field(default_factory=asyncio.Event)


class Channels:
    """The open channels of a process; one for each AE title, the newest."""

    def __init__(self, node: Node, writes: GroupedWrites, identities: Identities) -> None:
        self._node = node
        self._writes = writes
        self._identities = identities
        self._open: dict[str, _Channel] = {}
        self._watch: asyncio.Task[None] | None = None

    async def serve(self, socket: WebSocket) -> None:
        """Accept a subscriber's WebSocket, and send what waits for it until it goes."""
        try:
            aet = checked_aet(socket.path_params["aet"])
            if len(self._open) >= MAX_CHANNELS and aet not in self._open:
                raise Busy("too many event channels are open; come again")
            if not await run_in_threadpool(self._is_theirs, aet, socket):
                why = "somebody else watches workitems under this AE title"
                state, client = socket.scope["state"], socket.scope.get("client")
                await state["note_refusal"](client[0] if client else "", f"'{state['principal'].name}': {why}")
                raise Forbidden(why)
        except WebError as error:
            await socket.send_denial_response(answer(error.status, str(error), error.headers))
            return
        await socket.accept()
        channel = _Channel(aet, socket, connection_of(socket.scope))
        before, self._open[aet] = self._open.get(aet), channel
        if before is not None:
            before.taken_over.set()
        if self._watch is None:
            self._watch = asyncio.create_task(self._wake())
        log.info("workitem.channel_opened", aet=aet)
        try:
            await self._converse(channel)
        finally:
            if self._open.get(aet) is channel:
                del self._open[aet]
            log.info("workitem.channel_closed", aet=aet)

    def _is_theirs(self, aet: str, socket: WebSocket) -> bool:
        principal: Principal = socket.scope["state"]["principal"]
        try:
            with self._node.database.read() as connection:
                return may_listen(connection, aet, WEB, owner_of(principal))
        except IndexUnavailable as error:
            raise Busy(str(error)) from None

    async def _converse(self, channel: _Channel) -> None:
        """Until one of these comes to its end: the peer goes, does not read, opens its channel anew, or is nobody any more."""
        both = _listen(channel), self._deliver(channel)
        parts = [asyncio.ensure_future(each) for each in (*both, channel.taken_over.wait(), self._signed_in(channel))]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            ends = await asyncio.gather(*parts, return_exceptions=True)
        if channel.taken_over.is_set():
            await _close(channel, TAKEN_OVER, "this subscriber has opened another channel")
        elif ends[0] is True:
            await _close(channel, NOT_ALLOWED, "nothing has to be said here")
        elif ends[3] is False:
            await _close(channel, NOT_ALLOWED, "the session or the token that this was opened with has ended")
        elif isinstance(ends[1], Exception) and not isinstance(ends[1], WebSocketDisconnect):
            raise ends[1]
        else:
            channel.connection.end()

    async def _deliver(self, channel: _Channel) -> None:
        """Send and have confirmed what waits; returns when the peer does not answer."""
        while True:
            channel.woken.clear()
            notices = await self._waiting(channel)
            parts = [notices[start : start + PROVEN] for start in range(0, len(notices), PROVEN)]
            answers = []
            for part in parts:
                for notice in part:
                    await channel.socket.send_text(json.dumps(report(notice), ensure_ascii=False, separators=(",", ":")))
                answers.append(channel.connection.ping())
            if not notices and not await _woken(channel, PING_EVERY):
                answers = [channel.connection.ping()]
            heard = await _heard(answers)
            await self._forget([notice.pk for part in parts[:heard] for notice in part])
            if heard < len(answers):
                log.info("workitem.channel_unanswered", aet=channel.aet, reports=len(notices))
                return
            if 0 < len(notices) < AT_ONCE:
                await asyncio.sleep(GATHER)

    async def _signed_in(self, channel: _Channel) -> bool:
        principal: Principal = channel.socket.scope["state"]["principal"]
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            if not await run_in_threadpool(still_signed_in, channel.socket, principal, self._identities):
                return False

    async def _waiting(self, channel: _Channel) -> list[Notice]:
        principal: Principal = channel.socket.scope["state"]["principal"]

        def read() -> list[Notice]:
            with self._node.database.read() as connection:
                found = workitem_events.waiting(connection, WEB, [channel.aet], AT_ONCE)
                # Somebody else may have subscribed it after this channel was opened.
                return found if not found or may_listen(connection, channel.aet, WEB, owner_of(principal)) else []

        try:
            return await run_in_threadpool(read)
        except IndexUnavailable as error:  # they wait; the next look may find them
            log.warning("workitem.channel_waits", why=str(error))
            return []

    async def _forget(self, pks: list[int]) -> None:
        if not pks:
            return
        try:
            await self._writes.write(lambda connection: workitem_events.sent(connection, pks), durable=False, news=False)
        except IndexUnavailable as error:  # they are sent once more
            log.warning("workitem.channel_waits", why=str(error))

    async def _wake(self) -> None:
        """While channels are open: wake those that something waits for, when the bell rings or after a while."""
        loop, rung = asyncio.get_running_loop(), asyncio.Event()
        try:
            bell = Doorbell(self._node.config.runtime_dir, BELL)
        except OSError:
            self._watch = None
            raise

        def ringing() -> None:
            bell.wait(0)  # or the loop would be told of the same ring over and over
            rung.set()

        loop.add_reader(bell.fileno(), ringing)
        try:
            while self._open:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(rung.wait(), POLL)
                rung.clear()
                for aet in await self._who_waits():
                    if aet in self._open:
                        self._open[aet].woken.set()
                await asyncio.sleep(GATHER)
        finally:
            loop.remove_reader(bell.fileno())
            bell.close()
            self._watch = None

    async def _who_waits(self) -> list[str]:
        def read() -> list[str]:
            with self._node.database.read() as connection:
                return workitem_events.subscribers_waiting(connection, WEB, list(self._open))

        try:
            return await run_in_threadpool(read)
        except IndexUnavailable as error:
            log.warning("workitem.channel_waits", why=str(error))
            return []


async def _listen(channel: _Channel) -> bool:
    """Take what the client says, and think nothing of it; True: it says too much."""
    for _ in range(MAX_HEARD):
        message = await channel.socket.receive()
        if message["type"] == "websocket.disconnect":
            return False
    return True


async def _heard(answers: list[asyncio.Future[bool]]) -> int:
    """How many pings are answered, each in its time; the first that is not ends it."""
    for count, pong in enumerate(answers):
        done, _ = await asyncio.wait([pong], timeout=PONG_DEADLINE)
        if not done or not pong.result():
            return count
    return len(answers)


async def _woken(channel: _Channel, seconds: float) -> bool:
    try:
        return await asyncio.wait_for(channel.woken.wait(), seconds)
    except TimeoutError:
        return False


async def _close(channel: _Channel, code: int, reason: str) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await channel.socket.close(code, reason)


def report(notice: Notice) -> Json:
    """An event report as a DICOM JSON data set: the command's elements and those of the event (PS3.7 table 10.3-1, PS3.4 table CC.2.4-1).

    The Message ID follows from the notice: one that comes twice has the same.
    """
    command = {
        "00000002": element("UI", UPS_PUSH),
        "00000100": element("US", 0x0100),  # N-EVENT-REPORT-RQ
        "00000110": element("US", notice.pk & 0xFFFF),
        "00000800": element("US", 0),  # a data set follows
        "00001000": element("UI", notice.uid),
        "00001002": element("US", notice.type),
    }
    return {**command, **notice.content}


def owner_of(principal: Principal) -> str | None:
    """Whose a subscription is that somebody makes: None where nobody is asked who it is."""
    return None if principal.name == ANONYMOUS else principal.name


def checked_aet(aet: str) -> str:
    """An AE title of an address (PS3.5 6.2, VR AE); raises BadRequest."""
    aet = aet.strip(" ")
    if not 0 < len(aet) <= 16 or not aet.isascii() or not aet.isprintable() or "\\" in aet:
        raise BadRequest("the AE title in the address is none")
    return aet
