"""Signing in and out. Guessing is slow: few attempts for a name and for an address, and few passwords checked at a time."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from dicom_node.accounts import AT_ONCE, WAIT, Busy, LocalAccounts, SignIn, digest_of, new_secret
from dicom_node.config import WebTable
from dicom_node.web.attempts import Attempts
from dicom_node.web.authentication import SIGN_IN, session_of
from dicom_node.web.identities import COOKIE, SECURE_COOKIE, Identities
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages.preferences import local_path
from dicom_node.web.pages.site import page
from dicom_node.web.pages.words import N_
from storage import accounts, audit
from storage.database import Database

log = structlog.get_logger()

SIGN_OUT: Final = "/sign-out"

WRONG: Final = N_("Name or password are wrong.")
TOO_OFTEN: Final = N_("Too many attempts. Wait a quarter of an hour, or ask an administrator.")
BUSY: Final = N_("Too many people are signing in at once. Try again in a moment.")


def routes(database: Database, settings: WebTable, identities: Identities, who: SignIn | None = None) -> list[BaseRoute]:
    """Where one signs in, and out again."""
    door = _Door(database, settings, identities, who or LocalAccounts(database))
    return [
        PageRoute(SIGN_IN, door.show, right=None),
        PageRoute(SIGN_IN, door.enter, right=None, methods=["POST"]),
        PageRoute(SIGN_OUT, door.leave, methods=["POST"]),
    ]


class _Door:
    def __init__(self, database: Database, settings: WebTable, identities: Identities, who: SignIn) -> None:
        self._database = database
        self._settings = settings
        self._identities = identities
        self._who = who
        self._attempts = Attempts()
        self._places = asyncio.Semaphore(AT_ONCE)  # who waits here holds no thread that others need

    async def show(self, request: Request) -> Response:
        """The form, or how to make the first account."""
        return await self._page(request, target=local_path(request.query_params.get("next", "/")))

    async def enter(self, request: Request) -> Response:
        """Look at a name and a password."""
        form = await request.form(max_files=0, max_fields=10)
        name, target = str(form.get("name", "")).strip().lower()[:200], local_path(str(form.get("next", "/")))
        address = request.client.host if request.client else ""
        if self._attempts.too_many(name, address):
            return await self._page(request, status=429, problem=TOO_OFTEN, name=name, target=target, headers={"Retry-After": "900"})
        self._attempts.failed(name, address)  # until it is found to be none: those that come at once count as well
        try:
            async with asyncio.timeout(WAIT), self._places:
                found = await run_in_threadpool(self._check, name, str(form.get("password", "")))
        except (Busy, TimeoutError):
            self._attempts.forget(name, address)
            return await self._page(request, status=503, problem=BUSY, name=name, target=target, headers={"Retry-After": "5"})
        if found is None:
            log.warning("web.sign_in_refused", address=address)
            await run_in_threadpool(self._refused, address)
            return await self._page(request, status=401, problem=WRONG, name=name, target=target)
        self._attempts.forget(name, address, right=True)
        secret = await run_in_threadpool(self._open, found, address, session_of(request.headers))
        return self._with_cookie(request, RedirectResponse(target, status_code=303), secret)

    def _check(self, name: str, password: str) -> accounts.Account | None:
        return self._who.check(name, password) if name.isprintable() else None

    async def leave(self, request: Request) -> Response:
        """End this session."""
        secret = session_of(request.headers)
        if secret is not None:
            await run_in_threadpool(self._close, secret)
        answer = RedirectResponse(SIGN_IN, status_code=303)
        for name, secure in ((COOKIE, False), (SECURE_COOKIE, True)):
            answer.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")
        return answer

    async def _page(
        self, request: Request, *, target: str, status: int = 200, problem: str = "", name: str = "", headers: dict[str, str] | None = None
    ) -> Response:
        exist = await run_in_threadpool(self._identities.accounts_exist)
        return page(request, "sign_in.html", status=status, headers=headers, target=target, problem=problem, name=name, exist=exist)

    def _open(self, found: accounts.Account, address: str, before: str | None) -> str:
        """A new session, never the one that the browser had; what has expired goes."""
        secret, now = new_secret(), time.time()
        with self._database.begin() as connection:
            if before is not None:
                accounts.close_session(connection, digest_of(before))
            accounts.expire(connection, idle_before=now - self._settings.session_idle, opened_before=now - self._settings.session_lifetime)
            accounts.open_session(connection, found, digest_of(secret), new_secret(), address=address, now=now)
        if before is not None:
            self._identities.forget(before)
        return secret

    def _close(self, secret: str) -> None:
        with self._database.begin() as connection:
            accounts.close_session(connection, digest_of(secret))
        self._identities.forget(secret)

    def _refused(self, address: str) -> None:
        with self._database.begin(durable=False) as connection:
            audit.record(connection, "account.refused", actor=address)

    def _with_cookie(self, request: Request, answer: Response, secret: str) -> Response:
        secure = request.url.scheme == "https"
        name = SECURE_COOKIE if secure else COOKIE
        answer.set_cookie(name, secret, path="/", secure=secure, httponly=True, samesite="strict")
        return answer
