"""Range requests for bodies of one part (RFC 9110 14): one range of bytes; several are answered with the whole."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request

from dicom_node.web.dicomweb.errors import WebError

_BYTES: Final = re.compile(r"bytes\s*=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})")


class RangeNotSatisfiable(WebError, status=416):
    """Nothing of the body is in the range."""


@dataclass(frozen=True)
class Wanted:
    """What of a body is sent."""

    start: int
    length: int
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def requested_range(request: Request, length: int, tag: str) -> Wanted:
    """The part of a body of `length` bytes that the client asks for.

    Raises
    ------
    RangeNotSatisfiable
        It begins after the end.
    """
    found = _BYTES.fullmatch(request.headers.get("range", "").strip())
    condition = request.headers.get("if-range")
    if found is None or not (found[1] or found[2]) or (condition is not None and condition != tag):
        return Wanted(0, length)
    if found[1]:
        start, end = int(found[1]), min(int(found[2] or length - 1), length - 1)
        if found[2] and int(found[2]) < start:
            return Wanted(0, length)
    else:
        start, end = max(length - int(found[2]), 0), length - 1
    if start > end:
        raise RangeNotSatisfiable("the range begins after the end", {"Content-Range": f"bytes */{length}"})
    return Wanted(start, end - start + 1, 206, {"Content-Range": f"bytes {start}-{end}/{length}"})
