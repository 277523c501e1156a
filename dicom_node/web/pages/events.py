"""What changed, as server-sent events (HTML Living Standard 9.2): numbers, UIDs and kinds, never an identity; pages fetch what they show.

    id: 4711
    event: change
    data: {"study": "1.2.3", "kinds": ["run", "finding"]}

``event: reset`` says that something may have been missed (the listener came back too late, or reads too slowly): look at everything again.
Events come from the index, so it does not matter which process brought them about; a listener who comes back with Last-Event-ID misses
none. A stream ends with the session it belongs to, after a while by itself, and when the server stops: whoever listens comes back.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from dicom_node.accounts import digest_of
from dicom_node.node import Node
from dicom_node.web.authentication import EVENTS, principal_of, session_of
from dicom_node.web.dicomweb.errors import Busy
from dicom_node.web.identities import Identities, Principal
from dicom_node.web.limits import CONNECTION
from dicom_node.web.page_route import PageRoute
from storage import accounts, worklist, worklist_upkeep
from storage.errors import IndexUnavailable
from storage.visibility import Limits
from storage.worklist import Event

log = structlog.get_logger()

DELETED: Final = "deleted"
LOOK_EVERY: Final = 0.2  # seconds, while somebody listens
LOOK_AFTER_TROUBLE: Final = 1.0
HEARTBEAT: Final = 15.0
SESSION_LOOKED_AT: Final = 2.0
LONGEST: Final = 1800.0
MOST: Final = 256  # listeners
MOST_OF_ONE: Final = 32  # ... of one account
MOST_WAITING: Final = 500  # events of one listener
MOST_BATCHES: Final = 5  # of changes at a look: others want the index, too
RETRY: Final = "retry: 1000\n\n"
RESET: Final = "event: reset\ndata: {}\n\n"


@dataclass(eq=False)
class _Listener:
    principal: Principal
    waiting: asyncio.Queue[Event | None] = field(default_factory=lambda: asyncio.Queue(MOST_WAITING))

    def give(self, event: Event) -> None:
        """Hand it over; a listener who does not read gets None instead: something was missed."""
        if self.waiting.full():
            while not self.waiting.empty():
                self.waiting.get_nowait()
            self.waiting.put_nowait(None)
        else:
            self.waiting.put_nowait(event)


class Feed:
    """The listeners of one process, and the one task that looks for news while there are any."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._listeners: set[_Listener] = set()
        self._last = 0
        self._task: asyncio.Task[None] | None = None

    async def join(self, principal: Principal) -> _Listener:
        """Listen from now on.

        Raises
        ------
        Busy
            There are as many listeners as there may be, here or of this account.
        """
        own = sum(each.principal.name == principal.name for each in self._listeners)
        if len(self._listeners) >= MOST or own >= MOST_OF_ONE:
            raise Busy("too many pages listen for changes; come again")
        listener = _Listener(principal)
        if self._task is None or self._task.done():
            self._last = await run_in_threadpool(self._newest)
            self._listeners.add(listener)
            self._task = asyncio.create_task(self._watch())
        self._listeners.add(listener)
        return listener

    def leave(self, listener: _Listener) -> None:
        self._listeners.discard(listener)

    async def _watch(self) -> None:
        troubled = False
        while self._listeners:
            try:
                events, seen = await run_in_threadpool(self._look, self._last, {each.principal.limits for each in self._listeners})
                self._hand_out(events, seen)
            except Exception as error:  # noqa: BLE001 - every page of this process lives on this task: whatever it was, it looks again
                if not troubled:
                    why = str(error) if isinstance(error, IndexUnavailable) else type(error).__name__
                    log.error("events.waiting", why=why)
                troubled = True
            else:
                troubled = False
            await asyncio.sleep(LOOK_AFTER_TROUBLE if troubled else LOOK_EVERY)

    def _newest(self) -> int:
        with self._node.database.read() as connection:
            return worklist.newest_event(connection)

    def _look(self, last: int, limits: Iterable[Limits]) -> tuple[list[Event], dict[Limits, set[str]]]:
        """What came after an event, and which of its studies each kind of account may see."""
        worklist_upkeep.catch_up(self._node.database, now=self._node.clock(), batches=MOST_BATCHES)
        with self._node.database.read() as connection:
            events = list(worklist.events_after(connection, last))
            uids = [event.study_uid for event in events]
            return events, {each: worklist.seen_by(connection, uids, each) if uids else set() for each in limits}

    def _hand_out(self, events: list[Event], seen: dict[Limits, set[str]]) -> None:
        for listener in self._listeners:
            for event in events:
                told = as_told(event, listener.principal.limits, seen.get(listener.principal.limits, set()))
                if told is not None:
                    listener.give(told)
        self._last = events[-1].pk if events else self._last

    async def missed(self, after: int, limits: Limits) -> list[Event] | None:
        """What a listener who comes back did not get; None where that is not known any more."""

        def read() -> list[Event] | None:
            with self._node.database.read() as connection:
                if not worklist.can_resume(connection, after):
                    return None
                events = list(worklist.events_after(connection, after, MOST_WAITING + 1))
                seen = worklist.seen_by(connection, [event.study_uid for event in events], limits)
            told = [as_told(event, limits, seen) for event in events]
            return [event for event in told if event is not None] if len(events) <= MOST_WAITING else None

        return await run_in_threadpool(read)


def as_told(event: Event, limits: Limits, seen: set[str]) -> Event | None:
    """An event as an account with limits is told of it, None where it is not.

    That a study is gone is told without its name: whether it was within the limits, nobody knows any more.
    """
    if not limits or event.study_uid in seen:
        return event
    return replace(event, study_uid="", kinds=DELETED) if DELETED in event.kinds.split(",") else None


def text_of(event: Event) -> str:
    """An event as it goes out."""
    data = json.dumps({"study": event.study_uid, "kinds": event.kinds.split(",")})
    return f"id: {event.pk}\nevent: change\ndata: {data}\n\n"


def routes(node: Node, identities: Identities) -> list[BaseRoute]:
    """Where pages listen."""
    feed = Feed(node)

    async def stream(request: Request) -> Response:
        principal = principal_of(request)
        listener = await feed.join(principal)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(request, feed, listener, identities), media_type="text/event-stream", headers=headers)

    return [PageRoute(EVENTS, stream)]


async def _events(request: Request, feed: Feed, listener: _Listener, identities: Identities) -> AsyncIterator[str]:
    ends, beat, looked = (time.monotonic() + seconds for seconds in (LONGEST, HEARTBEAT, SESSION_LOOKED_AT))
    try:
        yield RETRY
        sent = 0
        came_back = request.headers.get("last-event-id", "")
        if came_back:
            missed = await feed.missed(int(came_back), listener.principal.limits) if came_back.isascii() and came_back.isdigit() else None
            for event in missed or ():
                yield text_of(event)
                sent = event.pk
            if missed is None:
                yield RESET
        while time.monotonic() < ends and not _stops(request):
            news = await _next(listener)
            if news is None:
                yield RESET
            elif isinstance(news, Event) and news.pk > sent:
                yield text_of(news)
            now = time.monotonic()
            if now >= looked:
                looked = now + SESSION_LOOKED_AT
                if not await run_in_threadpool(still_signed_in, request, listener.principal, identities):
                    return
            if now >= beat:
                beat = now + HEARTBEAT
                yield ": still here\n\n"
    finally:
        feed.leave(listener)


async def _next(listener: _Listener) -> Event | str | None:
    """The next event, None for one that was missed, no text where there is none for a moment."""
    try:
        return await asyncio.wait_for(listener.waiting.get(), 0.5)
    except TimeoutError:
        return ""


def _stops(request: Request) -> bool:
    connection: Any = request.scope.get("extensions", {}).get(CONNECTION)
    return bool(getattr(connection, "stopping", False))


def still_signed_in(request: HTTPConnection, principal: Principal, identities: Identities) -> bool:
    """Whether the session, or the token, that a stream was opened with still holds. Listening does not keep a session alive."""
    if principal.account_pk is None:
        return True
    secret = session_of(request.headers)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        if scheme.lower() == "bearer":
            return identities.of_token(token.strip()) == principal
        if secret is None:
            return False
        now = time.time()
        with identities.database.read() as connection:
            found = accounts.session(connection, digest_of(secret))
        return found is not None and found.seen_at >= now - identities.idle and found.opened_at >= now - identities.lifetime
    except IndexUnavailable:
        return True  # known again soon; until then nothing is told, either
