"""Language and theme, chosen on any page and kept in cookies, and in the account of who is signed in."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from dicom_node.web.authentication import PREFERENCES, session_of
from dicom_node.web.dicomweb.errors import BadRequest
from dicom_node.web.identities import Identities
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages.language import COOKIE, LANGUAGES
from dicom_node.web.pages.site import THEME_COOKIE, THEMES
from storage import accounts
from storage.database import Database

YEAR: Final = 365 * 86400
CHOICES: Final = {COOKIE: tuple(LANGUAGES), THEME_COOKIE: THEMES}


def routes(database: Database, identities: Identities) -> list[BaseRoute]:
    """Where a choice is sent to; also by who has not signed in yet."""

    async def choose(request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=10)
        chosen = {name: str(form[name]) for name in CHOICES if name in form}
        for name, value in chosen.items():
            if value not in CHOICES[name]:
                raise BadRequest(f"{name} is one of {', '.join(CHOICES[name])}")
        secret = session_of(request.headers)
        if secret is not None and chosen:
            await run_in_threadpool(keep, secret, chosen)
        answer = RedirectResponse(local_path(str(form.get("next", "/"))), status_code=303)
        for name, value in chosen.items():
            answer.set_cookie(name, value, max_age=YEAR, httponly=True, samesite="lax", path="/")
        return answer

    def keep(secret: str, chosen: dict[str, str]) -> None:
        principal = identities.of_session(secret)
        if principal is None or principal.account_pk is None:
            return
        with database.begin(durable=False) as connection:
            accounts.prefer(connection, principal.account_pk, **chosen)
        identities.forget(secret)

    return [PageRoute(PREFERENCES, choose, right=None, methods=["POST"])]


def local_path(target: str) -> str:
    """A path of this node's own to go back to; the first page where something else was asked for."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "/"
    odd = parts.scheme or parts.netloc or not target.startswith("/") or target.startswith(("//", "/\\")) or not target.isprintable()
    return "/" if odd else target
