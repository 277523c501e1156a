"""Search (QIDO-RS, PS3.18 10.6): parameters > query > rows > JSON, a page of rows at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from dicom_node.node import Node
from dicom_node.web.authentication import principal_of
from dicom_node.web.dicomweb.accept import Offer, accepted, choose
from dicom_node.web.dicomweb.errors import HEADERS, BadRequest
from dicom_node.web.dicomweb.json_model import Row, row_writer
from dicom_node.web.dicomweb.resources import resource_of, service_url
from dicom_node.web.dicomweb.responses import Piece, Streamed, whole
from dicom_node.web.dicomweb.search_parameters import Search, search_of
from storage.attributes import UNIQUE_KEYS, Level
from storage.query import Plan, Query, QueryError, plan, stream
from storage.visibility import Limits

JSON: Final = "application/dicom+json"
OFFERS: Final = (Offer(JSON), Offer("application/json"))
KNOWN_AT_ONCE: Final = 1000  # matches that are read before the answer begins, so that it can say whether there are more
ROWS_A_PIECE: Final = 500
MAX_RESULTS: Final = 100_000
LITERAL: Final = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
MORE: Final = "There are additional results that can be requested"
_NAMES: Final = ((Level.STUDY, "studies"), (Level.SERIES, "series"), (Level.IMAGE, "instances"))


def searcher(node: Node, level: Level) -> Callable[[Request], Response]:
    """The endpoint that searches at a level, below whatever its address names."""

    def search(request: Request) -> Response:
        offer = choose(accepted(request), OFFERS, "a search result")
        asked = search_of(request.query_params.multi_items(), level, resource_of(request))
        if asked.nothing:
            return _nothing([])
        return _answer(node, asked, offer.media_type, service_url(request), principal_of(request).limits)

    return search


def _answer(node: Node, asked: Search, media_type: str, service: str, limits: Limits) -> Response:
    limit = min(asked.limit if asked.limit is not None else MAX_RESULTS, MAX_RESULTS)
    planned = _plan(asked, asked.offset, limit + 1, limits)
    warnings = _warnings(asked, planned)
    rows = stream(node.database, planned)
    try:
        first = list(itertools.islice(rows, min(limit, KNOWN_AT_ONCE) + 1))
    except BaseException as error:
        rows.close()
        if isinstance(error, QueryError):
            raise BadRequest(str(error)) from None
        raise
    if len(first) <= min(limit, KNOWN_AT_ONCE):
        more = False
    elif limit <= KNOWN_AT_ONCE:
        more = True
    else:
        more = _is_there(node, asked, asked.offset + limit, limits)
    if more:
        warnings.append(MORE)
    if not first or limit == 0:
        rows.close()
        return _nothing(_headers(warnings, service))
    write = row_writer(planned.columns, _retrieve_url(planned, asked.level, service))
    pieces = _pieces(first, rows, limit, write)
    made = whole if min(limit, len(first)) <= ROWS_A_PIECE else Streamed
    return made(pieces, media_type, headers=dict(_headers(warnings, service)))


def _plan(asked: Search, offset: int, limit: int | None, limits: Limits) -> Plan:
    try:
        return plan(Query(asked.level, asked.keys, asked.fuzzy, offset, limit, all_attributes=asked.all_attributes, limits=limits))
    except QueryError as error:
        raise BadRequest(str(error)) from None


def _is_there(node: Node, asked: Search, position: int, limits: Limits) -> bool:
    rows = stream(node.database, _plan(asked, position, 1, limits))
    try:
        return next(rows, None) is not None
    finally:
        rows.close()


def _warnings(asked: Search, planned: Plan) -> list[str]:
    warnings = list(planned.warnings)
    if asked.fuzzy and not planned.fuzzy_applied:
        warnings.append(LITERAL)
    ignored = [f"{tag:08X}" for tag in planned.unsupported if tag in asked.matched]
    if ignored:
        warnings.append(f"These keys are not matched: {' '.join(ignored[:20])}")
    return warnings


def _headers(warnings: Sequence[str], service: str) -> list[tuple[str, str]]:
    text = ", ".join(f'299 {service} "{warning}"' for warning in warnings)
    return [("Warning", text)] if text else []


def _nothing(headers: Sequence[tuple[str, str]]) -> Response:
    return Response(status_code=204, headers={**HEADERS, **dict(headers)})


def _pieces(first: Sequence[Row], rest: Generator[Row, None, None], limit: int, write: Callable[[Row], str]) -> Iterator[Piece]:
    """The array, some hundred objects at a time. The read ends with the iterator, also where the client has gone."""
    try:
        rows = itertools.islice(itertools.chain(first, rest), limit)
        head = "["
        while True:
            page = list(map(write, itertools.islice(rows, ROWS_A_PIECE)))
            if not page:
                break
            yield [(head + ",".join(page)).encode()]
            head = ","
        yield [b"]"]
    finally:
        rest.close()


def _retrieve_url(planned: Plan, level: Level, service: str) -> Callable[[Row], str]:
    at = {column.tag: number for number, column in enumerate(planned.columns)}
    wanted = [(name, at[UNIQUE_KEYS[each]]) for each, name in _NAMES if each.depth <= level.depth]
    if level is Level.STUDY:
        prefix, (_, number) = f"{service}/studies/", wanted[0]
        return lambda row: f"{prefix}{row[number]}"
    return lambda row: service + "".join([f"/{name}/{row[number]}" for name, number in wanted])
