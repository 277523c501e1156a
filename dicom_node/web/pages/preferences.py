"""Language and theme, chosen on any page and kept in cookies (and in the account of who is signed in)."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from dicom_node.web.dicomweb.errors import BadRequest
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages.language import COOKIE, LANGUAGES
from dicom_node.web.pages.site import THEME_COOKIE, THEMES

PATH: Final = "/preferences"
YEAR: Final = 365 * 86400


def routes() -> list[BaseRoute]:
    """Where a choice is sent to."""
    return [PageRoute(PATH, _choose, methods=["POST"])]


async def _choose(request: Request) -> Response:
    form = await request.form(max_files=0, max_fields=10)
    answer = RedirectResponse(local_path(str(form.get("next", "/"))), status_code=303)
    for name, words in ((COOKIE, tuple(LANGUAGES)), (THEME_COOKIE, THEMES)):
        chosen = form.get(name)
        if chosen is None:
            continue
        if chosen not in words:
            raise BadRequest(f"{name} is one of {', '.join(words)}")
        answer.set_cookie(name, str(chosen), max_age=YEAR, httponly=True, samesite="lax", path="/")
    return answer


def local_path(target: str) -> str:
    """A path of this node's own to go back to; the first page where something else was asked for."""
    parts = urlsplit(target)
    odd = parts.scheme or parts.netloc or not target.startswith("/") or target.startswith(("//", "/\\")) or not target.isprintable()
    return "/" if odd else target
