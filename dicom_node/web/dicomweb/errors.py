"""What a client is refused, with the status that PS3.18 has for it and a reason of one line: never with a patient's values.

WebError
├── BadRequest          400   the address, a parameter or the body is not what it should be
├── NoSuchResource      404   nothing is stored under this address
├── NotAcceptable       406   none of the representations that the client takes can be made
├── Conflict            409
├── Gone                410   it is known, but its bytes are damaged
├── TooLarge            413
├── Unsupported         415   the body is of a media type that is not taken
└── Unprocessable       422   the stored instance cannot be decoded
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dicom_node.errors import http_status

HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",  # a browser may keep it, and asks whether it is still so
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Vary": "Accept, Authorization",
}


class WebError(Exception):
    """A refusal; its text is what the client reads."""

    status = 500

    def __init__(self, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.headers = dict(headers or {})


class BadRequest(WebError):
    status = 400


class NoSuchResource(WebError):
    status = 404


class NotAcceptable(WebError):
    status = 406


class Conflict(WebError):
    status = 409


class Gone(WebError):
    status = 410


class TooLarge(WebError):
    status = 413


class Unsupported(WebError):
    status = 415


class Unprocessable(WebError):
    status = 422


def refused(request: Request, error: Exception) -> Response:
    """The answer to an error, for every route of the web application."""
    if isinstance(error, WebError):
        return _answer(error.status, str(error), error.headers)
    if isinstance(error, HTTPException):
        return _answer(error.status_code, error.detail, error.headers)
    return _answer(http_status(error), str(error))


def failed(request: Request, error: Exception) -> Response:
    """The answer where nobody foresaw the error; what it says stays here."""
    return _answer(500, "the node could not carry this out; its log says more")


def _answer(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    line = " ".join(reason.split())
    return JSONResponse({"error": line}, status_code=status, headers={**HEADERS, "Cache-Control": "no-store", **(headers or {})})
