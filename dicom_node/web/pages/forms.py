"""What pages with forms share: the fields of a form, the reason that every decision needs, and what a page says when it is done."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from dicom_node.web.dicomweb.delete import MAX_REASON
from dicom_node.web.dicomweb.errors import BadRequest, NoSuchResource

MOST_FIELDS: Final = 1000
LARGEST: Final = 2**63  # of a key


async def fields(request: Request) -> FormData:
    """The fields of a form; no files."""
    return await request.form(max_files=0, max_fields=MOST_FIELDS)


def reason_in(form: FormData) -> str:
    """Why somebody decides so.

    Raises
    ------
    BadRequest
        It is missing, or longer than it may be.
    """
    reason = " ".join(str(form.get("reason", "")).split())
    if not reason or len(reason) > MAX_REASON or not reason.isprintable():
        raise BadRequest(f"a reason is needed, of at most {MAX_REASON} printable characters")
    return reason


def back(path: str, **told: str | int) -> Response:
    """To a page after something was done; ``told`` is what it then says, as parameters of its address."""
    query = f"?{urlencode(told)}" if told else ""
    return RedirectResponse(f"{path}{query}", status_code=303)


def row_of(request: Request, name: str) -> int:
    """The number of a row in the address.

    Raises
    ------
    NoSuchResource
        No row can have it.
    """
    found: int = request.path_params[name]
    if found >= LARGEST:
        raise NoSuchResource("there is nothing of that number")
    return found


def number_in(request: Request, name: str, most: int = 2**31) -> int | None:
    """A whole number of the query; None where it is not there.

    Raises
    ------
    BadRequest
        It is none.
    """
    text = request.query_params.get(name)
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= most):
        raise BadRequest(f"{name} is no whole number")
    return int(text)
