"""What a client is refused, with the status that PS3.18 has for it and a reason of one line: never with a patient's values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from dicom_node.errors import http_status
from dicom_node.transcode import ChildrenBusy

HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",  # a browser may keep it, and asks whether it is still so
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Vary": "Accept, Authorization",
}
RETRY_AFTER: Final[Mapping[str, str]] = {"Retry-After": "5"}


class WebError(Exception):
    """A refusal; its text is what the client reads."""

    status: ClassVar[int] = 500

    def __init_subclass__(cls, *, status: int) -> None:
        cls.status = status

    def __init__(self, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.headers = dict(headers or {})


class BadRequest(WebError, status=400):
    """The address, a parameter or the body is not what it should be."""


class Forbidden(WebError, status=403):
    """It is somebody else's."""


class NoSuchResource(WebError, status=404):
    """Nothing is stored under this address."""


class NotAcceptable(WebError, status=406):
    """None of the representations that the client takes can be made."""


class SlowClient(WebError, status=408):
    """The request's body does not get on."""


class Gone(WebError, status=410):
    """It is known, but its bytes are damaged."""


class TooLarge(WebError, status=413):
    """The body, or a part of it."""


class Unsupported(WebError, status=415):
    """The body is of a media type or coding that is not taken."""


class Unprocessable(WebError, status=422):
    """The stored instance cannot be decoded."""


class Busy(WebError, status=503):
    """Too much at a time; the client may come again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, RETRY_AFTER)


def refused(request: Request, error: Exception) -> Response:
    """The answer to an error, for every route of the web application."""
    if isinstance(error, WebError):
        return answer(error.status, str(error), error.headers)
    if isinstance(error, ChildrenBusy):
        return answer(503, f"{error}; come again", RETRY_AFTER)
    if isinstance(error, HTTPException):
        return answer(error.status_code, error.detail, _headers_of(request, error))
    status = http_status(error)
    return answer(status, str(error), RETRY_AFTER if status == 503 else None)


def _headers_of(request: Request, error: HTTPException) -> Mapping[str, str]:
    """Its own; with 405 the methods of all routes of the address, of which the router names one route's only (RFC 9110 15.5.6)."""
    if error.status_code != 405:
        return error.headers or {}
    routes = [route for route in request.app.routes if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE]
    return {"Allow": ", ".join(sorted({method for route in routes for method in route.methods or ()}))}


def failed(request: Request, error: Exception) -> Response:
    """The answer where nobody foresaw the error; what it says stays here."""
    return answer(500, "the node could not carry this out; its log says more")


def answer(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as every client reads it: one line of JSON."""
    every = {**HEADERS, "Cache-Control": "no-store", **(headers or {})}
    return JSONResponse({"error": " ".join(reason.split())}, status_code=status, headers=every)
