"""Worklist service (UPS-RS, PS3.18 chapter 11): create, retrieve, update, change state, request cancellation, search.

A Transaction UID is taken as ``transaction``, as ``transaction-uid`` or in the body, and never shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import structlog
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_node.node import Node
from dicom_node.web.authentication import principal_of
from dicom_node.web.dicomweb.accept import Offer, accepted, choose
from dicom_node.web.dicomweb.errors import HEADERS, BadRequest
from dicom_node.web.dicomweb.resources import PREFIX, Resource, checked_uid, service_url
from dicom_node.web.dicomweb.responses import made
from dicom_node.web.dicomweb.search_parameters import search_of
from dicom_node.web.dicomweb.workitem_body import dataset_of
from dicom_node.web.grouped import GroupedWrites
from storage import workitem_values as values
from storage import workitems
from storage.attributes import Level
from storage.headers import is_uid
from storage.workitem_values import Json, text

log = structlog.get_logger()

WORKITEMS: Final = f"{PREFIX}/workitems"
WORKITEM: Final = f"{WORKITEMS}/{{workitem}}"
JSON: Final = "application/dicom+json"
OFFERS: Final = (Offer(JSON), Offer("application/json"))
MAX_RESULTS: Final = 1000
MORE: Final = "There are additional results that can be requested"
_UID_NAMES: Final = ("workitem", "AffectedSOPInstanceUID")
_WARNINGS: Final = {
    values.MODIFIED: "The Workitem was created with modifications.",
    workitems.ALREADY_CANCELED: "The UPS is already in the requested state of CANCELED.",
    workitems.ALREADY_COMPLETED: "The UPS is already in the requested state of COMPLETED.",
}


def routes(node: Node, writes: GroupedWrites) -> list[BaseRoute]:
    """The routes of the worklist service."""
    service = _Worklist(node, writes)
    return [
        Route(WORKITEMS, service.search),
        Route(WORKITEMS, service.create, methods=["POST"]),
        Route(WORKITEM, service.retrieve),
        Route(WORKITEM, service.update, methods=["POST"]),
        Route(f"{WORKITEM}/state", service.change_state, methods=["PUT"]),
        Route(f"{WORKITEM}/cancelrequest", service.request_cancel, methods=["POST"]),
    ]


class _Worklist:
    def __init__(self, node: Node, writes: GroupedWrites) -> None:
        self._node = node
        self._stall = node.config.web.stall_timeout
        self._writes = writes

    def search(self, request: Request) -> Response:
        offer = choose(accepted(request), OFFERS, "a search result")
        asked = search_of(request.query_params.multi_items(), Level.STUDY, Resource())
        limit = min(MAX_RESULTS if asked.limit is None else asked.limit, MAX_RESULTS)
        keys = [key for key in asked.keys if key.tag in asked.matched]
        with self._node.database.read() as connection:
            try:
                found = workitems.search(connection, keys, fuzzy=asked.fuzzy, offset=asked.offset, limit=limit + 1)
            except ValueError as error:
                raise BadRequest(str(error)) from None
        headers = _warning(request, MORE) if len(found) > limit else {}
        if not found[:limit]:
            return Response(status_code=204, headers={**HEADERS, **headers})
        return made(_written([item.shown for item in found[:limit]]), offer.media_type, headers=headers)

    def retrieve(self, request: Request) -> Response:
        offer = choose(accepted(request), OFFERS, "a workitem")
        with self._node.database.read() as connection:
            item = workitems.get(connection, _uid(request))
        return made(_written([item.shown]), offer.media_type)

    async def create(self, request: Request) -> Response:
        dataset = await dataset_of(request, self._stall)
        uid = _new_uid(request, dataset)
        by, now = principal_of(request).name, self._node.clock()
        warning = (await self._write(lambda connection: workitems.create(connection, uid, dataset, by=by, now=now)))[1]
        log.info("workitem.created", workitem=uid, by=by)
        location = {"Location": f"{service_url(request)}/workitems/{uid}"}
        return _done(request, 201, warning, location)

    async def update(self, request: Request) -> Response:
        uid, dataset = _uid(request), await dataset_of(request, self._stall)
        lock, by, now = _transaction(request, dataset), principal_of(request).name, self._node.clock()
        await self._write(lambda connection: workitems.change(connection, uid, dataset, lock, by=by, now=now), durable=False)
        return _done(request, 200)

    async def change_state(self, request: Request) -> Response:
        uid, dataset = _uid(request), await dataset_of(request, self._stall)
        state, lock = text(dataset, values.STATE), _transaction(request, dataset)
        by, now, queue = principal_of(request).name, self._node.clock(), self._node.queue()
        # As with the node's own jobs, a claim that a power cut takes back is claimed again; what was completed stays so.
        durable = state != workitems.State.IN_PROGRESS
        status = await self._write(
            lambda connection: workitems.change_state(connection, uid, state, lock, by=by, now=now, queue=queue), durable=durable
        )
        log.info("workitem.state", workitem=uid, state=state, by=by)
        return _done(request, 200, status)

    async def request_cancel(self, request: Request) -> Response:
        uid, details = _uid(request), await dataset_of(request, self._stall, optional=True)
        by, now, queue = principal_of(request).name, self._node.clock(), self._node.queue()
        status = await self._write(lambda connection: workitems.request_cancel(connection, queue, uid, details, by=by, now=now))
        log.info("workitem.cancel_requested", workitem=uid, by=by)
        return _done(request, 202, status)

    async def _write(self, change: Callable[[Connection], Any], *, durable: bool = True) -> Any:
        """Change something in a transaction; one that is not durable is synced with the next that is (completing a workitem, say)."""

        return await self._writes.write(change, durable=durable)


def _uid(request: Request) -> str:
    return checked_uid(request.path_params["workitem"], "the workitem's UID")


def _new_uid(request: Request, dataset: Json) -> str:
    """The UID asked for: ``?UID``, ``?workitem=UID``, or that of the data set; else a new one."""
    query = request.query_params
    named = [query[name] for name in _UID_NAMES if name in query]
    named += [name for name, value in query.items() if is_uid(name) and not value]
    if len(set(named)) > 1:
        raise BadRequest("the address names two workitems")
    uid = named[0] if named else text(dataset, values.SOP_INSTANCE) or values.new_uid()
    return checked_uid(uid, "the workitem's UID")


def _transaction(request: Request, dataset: Json) -> str:
    query = request.query_params
    return query.get("transaction") or query.get("transaction-uid") or text(dataset, values.TRANSACTION)


def _written(datasets: list[Json]) -> bytes:
    ordered = [dict(sorted(dataset.items())) for dataset in datasets]
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()


def _warning(request: Request, said: str) -> dict[str, str]:
    return {"Warning": f'299 {service_url(request)} "{said}"'}


def _done(request: Request, status: int, warning: int = 0, headers: dict[str, str] | None = None) -> Response:
    said = _warning(request, _WARNINGS[warning]) if warning else {}
    return Response(status_code=status, headers={**HEADERS, "Cache-Control": "no-store", **said, **(headers or {})})
