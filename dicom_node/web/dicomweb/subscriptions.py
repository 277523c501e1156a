"""Who watches workitems: subscribe, unsubscribe, suspend (UPS-RS, PS3.18 11.10 to 11.12)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import structlog
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_node.node import Node
from dicom_node.web.authentication import principal_of
from dicom_node.web.dicomweb.errors import HEADERS, BadRequest, Busy
from dicom_node.web.dicomweb.event_channel import BELL, CHANNEL, checked_aet, owner_of
from dicom_node.web.dicomweb.resources import PREFIX, Resource, checked_uid, service_url
from dicom_node.web.dicomweb.search_parameters import search_of
from storage import audit, workitem_events
from storage.attributes import Level
from storage.query import Key
from storage.workitem_events import FILTERED, WEB
from storage.workitem_owners import may_listen, refuse_stranger

log = structlog.get_logger()

SUBSCRIBER: Final = f"{PREFIX}/workitems/{{workitem}}/subscribers/{{aet}}"
MAX_SUBSCRIBERS: Final = 200  # each costs a row for every event that it watches
_KEY: Final = re.compile(r",(?=(?:[0-9A-Fa-f]{8}|[A-Z][A-Za-z0-9]+)(?:\.[0-9A-Za-z]+)*=)")  # a comma before the next key


def routes(node: Node) -> list[BaseRoute]:
    """The routes of subscriptions."""
    service = _Subscriptions(node)
    return [
        Route(SUBSCRIBER, service.subscribe, methods=["POST"]),
        Route(SUBSCRIBER, service.unsubscribe, methods=["DELETE"]),
        Route(f"{SUBSCRIBER}/suspend", service.suspend, methods=["POST"]),
    ]


class _Subscriptions:
    def __init__(self, node: Node) -> None:
        self._node = node

    def subscribe(self, request: Request) -> Response:
        target, aet = _target(request), checked_aet(request.path_params["aet"])
        lock, keys = _asked(request, target)
        now = self._node.clock()
        more = {"channel": WEB, "deletion_lock": lock, "matching": keys, "owner": owner_of(principal_of(request)), "now": now}
        self._change(request, "workitem.subscribed", target, aet, partial(_subscribe, aet=aet, target=target, more=more))
        self._node.ring(BELL)
        return _done(201, {"Content-Location": channel_url(request, aet)})

    def unsubscribe(self, request: Request) -> Response:
        target, aet = _target(request), checked_aet(request.path_params["aet"])
        change = partial(workitem_events.unsubscribe, aet=aet, target=target, now=self._node.clock())
        self._change(request, "workitem.unsubscribed", target, aet, change)
        return _done(200)

    def suspend(self, request: Request) -> Response:
        target, aet = _target(request), checked_aet(request.path_params["aet"])
        change = partial(workitem_events.suspend, aet=aet, target=target, now=self._node.clock())
        self._change(request, "workitem.subscription_suspended", target, aet, change)
        return _done(200)

    def _change(self, request: Request, what: str, target: str, aet: str, change: Callable[[Connection], Any]) -> None:
        actor = principal_of(request).name
        with self._node.database.read() as connection:
            theirs = may_listen(connection, aet, WEB, owner_of(principal_of(request)))
        if not theirs:
            with self._node.database.begin(durable=False) as connection:
                audit.record(connection, "workitem.subscription_refused", actor=actor, detail={"aet": aet}, at=self._node.clock())
        with self._node.database.begin() as connection:
            refuse_stranger(connection, aet, WEB, owner_of(principal_of(request)))
            change(connection)
            audit.record(connection, what, actor=actor, detail={"workitem": target, "aet": aet}, at=self._node.clock())
        log.info(what, workitem=target, aet=aet, by=actor)


def _subscribe(connection: Connection, *, aet: str, target: str, more: dict[str, Any]) -> None:
    if workitem_events.other_subscribers(connection, aet) >= MAX_SUBSCRIBERS:
        raise Busy("too many applications watch workitems")
    workitem_events.subscribe(connection, aet, target, **more)


def channel_url(request: Request, aet: str) -> str:
    """The address of a subscriber's WebSocket."""
    service = service_url(request)
    base = service[: -len(PREFIX)].replace("http", "ws", 1)
    return base + CHANNEL.format(aet=quote(aet, safe=""))


def _target(request: Request) -> str:
    return checked_uid(request.path_params["workitem"], "the workitem's UID")


def _asked(request: Request, target: str) -> tuple[bool, tuple[Key, ...]]:
    """Whether it is to be locked, and what a filtered subscription has to match: ``filter=key=value,...``, or keys of their own."""
    pairs = request.query_params.multi_items()
    locks = [value.lower() for name, value in pairs if name == "deletionlock"]
    if len(locks) > 1 or not set(locks) <= {"true", "false"}:
        raise BadRequest("deletionlock is neither true nor false")
    wanted = [each for pair in pairs for each in _keys(*pair)]
    if bool(wanted) != (target == FILTERED):
        raise BadRequest(f"a filter belongs to a subscription of {FILTERED}, and to no other")
    asked = search_of(wanted, Level.STUDY, Resource())
    return locks == ["true"], tuple(key for key in asked.keys if key.tag in asked.matched)


def _keys(name: str, value: str) -> Iterator[tuple[str, str]]:
    if name == "deletionlock":
        return
    if name != "filter":
        yield name, value
        return
    for key in _KEY.split(value):
        attribute, equals, wanted = key.partition("=")
        if not equals:
            raise BadRequest("filter is no list of attribute=value")
        yield attribute, wanted


def _done(status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(status_code=status, headers={**HEADERS, "Cache-Control": "no-store", **(headers or {})})
