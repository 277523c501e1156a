"""Whether a browser's session really asks for a change: every form and script of ours bears the session's token, and no other site can."""

from __future__ import annotations

import asyncio
import hmac
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from dicom_node.web.dicomweb.errors import BadRequest, SlowClient, TooLarge

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
HEADER: Final = "x-csrf-token"
FIELD: Final = "csrf"
LARGEST_FORM: Final = 256 << 10  # bytes
FORM_DEADLINE = 15.0  # seconds for the whole of it: nobody holds a connection by sending a byte now and then
MOST_FIELDS: Final = 2000
FORM: Final = "application/x-www-form-urlencoded"


def is_form(headers: Headers) -> bool:
    """Whether the body is what a browser makes of a form without files."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == FORM


async def whole_form(receive: Receive) -> bytes:
    """A form's body.

    Raises
    ------
    TooLarge
        It is too large for one.
    SlowClient
        It was not there in `FORM_DEADLINE`.
    BadRequest
        Whoever sent it went away.
    """
    try:
        async with asyncio.timeout(FORM_DEADLINE):
            return await _read(receive)
    except TimeoutError:
        raise SlowClient(f"the form was not there in {FORM_DEADLINE:.0f} seconds") from None


def bears(headers: Headers, form: bytes, expected: str) -> bool:
    """Whether a request bears the session's token, in a header or else in its form."""
    given = headers.get(HEADER)
    if given is None:
        try:
            given = parse_qs(form.decode("ascii"), max_num_fields=MOST_FIELDS).get(FIELD, [""])[0]
        except (ValueError, UnicodeDecodeError):
            return False
    return bool(given) and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


async def _read(receive: Receive) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise BadRequest("the form broke off")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_FORM:
            raise TooLarge(f"a form may have {LARGEST_FORM} bytes")
        more = message.get("more_body", False)
    return b"".join(parts)


def again(body: bytes, receive: Receive) -> Receive:
    """The body once more, for who reads it after us."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read
