"""Whether a browser's session really asks for a change: every form and script of ours bears the session's token, and no other site can."""

from __future__ import annotations

import hmac
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import Message, Receive

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
HEADER: Final = "x-csrf-token"
FIELD: Final = "csrf"
LARGEST_FORM: Final = 256 << 10  # bytes
MOST_FIELDS: Final = 2000
FORM: Final = "application/x-www-form-urlencoded"


async def unless_forged(headers: Headers, receive: Receive, expected: str) -> Receive | None:
    """What to read the request's body from, where it bears the session's token in a header or in its form; None where it does not."""
    given = headers.get(HEADER)
    if given is None and headers.get("content-type", "").partition(";")[0].strip().lower() == FORM:
        body = await _read(receive)
        if body is None:
            return None
        try:
            given = parse_qs(body.decode("ascii"), max_num_fields=MOST_FIELDS).get(FIELD, [""])[0]
        except (ValueError, UnicodeDecodeError):
            return None
        receive = _again(body, receive)
    if not given or not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode()):
        return None
    return receive


async def _read(receive: Receive) -> bytes | None:
    """A form's body; None where it is too large for one, or whoever sends it went away."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_FORM:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, for who reads it after us."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read
