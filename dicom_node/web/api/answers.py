"""How the API answers: plain values as JSON, refusals in one line, numbers and words of a query checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dicom_node.errors import CommandFailed, UsageError
from dicom_node.plain import plain
from dicom_node.web.dicomweb.delete import MAX_REASON
from dicom_node.web.dicomweb.errors import BadRequest, WebError

MOST: Final = 1000  # rows of one answer
LARGEST: Final = 2**31


class Conflict(WebError, status=409):
    """What was asked does not go with the state that things are in."""


def answering(ask: Callable[[Request], Any]) -> Callable[[Request], Response]:
    """An endpoint out of a function that returns what is to be shown."""

    def endpoint(request: Request) -> Response:
        if any("\0" in value for value in (*request.query_params.values(), *map(str, request.path_params.values()))):
            raise BadRequest("the address has a NUL in it")
        try:
            return JSONResponse(plain(ask(request)))
        except CommandFailed as error:
            raise Conflict(str(error)) from None
        except (UsageError, ValueError) as error:
            raise BadRequest(str(error)) from None

    endpoint.__doc__ = ask.__doc__
    return endpoint


def reason_of(request: Request) -> str:
    """Why a person decides so; BadRequest where it is missing."""
    reason = request.query_params.get("reason", "").strip()
    if not reason or len(reason) > MAX_REASON or not reason.isprintable():
        raise BadRequest(f"reason is needed, and may have {MAX_REASON} printable characters")
    return reason


def number(request: Request, name: str, otherwise: int, *, most: int = MOST) -> int:
    """A whole number of the query, from 0 to ``most``."""
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if not text.isascii() or not text.isdigit() or int(text[:12]) > most:
        raise BadRequest(f"{name} is no number from 0 to {most}")
    return int(text)


def word(request: Request, name: str, words: tuple[str, ...]) -> str | None:
    """One of some words, where the query names one."""
    text = request.query_params.get(name)
    if text is not None and text not in words:
        raise BadRequest(f"{name} is one of {', '.join(words)}")
    return text
