"""The account of who is signed in: another password, where it is signed in, its tokens. What lasts asks for the password once more."""

from __future__ import annotations

import time
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from dicom_node.accounts import RIGHTS_OF_ROLE, SHORTEST, Busy, LocalAccounts, digest_of, hashed, make_token
from dicom_node.errors import UsageError
from dicom_node.node import Node
from dicom_node.web.attempts import Attempts
from dicom_node.web.authentication import principal_of, session_of
from dicom_node.web.dicomweb.errors import BadRequest, Forbidden
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages.forms import back, fields, row_of
from dicom_node.web.pages.site import page
from dicom_node.web.pages.words import N_
from storage import accounts, audit
from storage.accounts import Account

PATH: Final = "/account"
LASTING: Final = {"30": 30, "90": 90, "365": 365, "": None}  # days for which a token is good
LONGEST_LABEL: Final = 100
DONE: Final = {
    "password": N_("The password is changed, and this account's other sessions have ended."),
    "sessions": N_("This account is signed in here only."),
    "token": N_("The token is taken away."),
}
WRONG: Final = N_("That is not this account's password.")
DIFFER: Final = N_("The two new passwords differ.")
UNFIT: Final = N_("A password has at least %(least)s characters, and is not the account's name.")
TOO_OFTEN: Final = N_("Too many attempts. Wait a quarter of an hour, or ask an administrator.")
BUSY: Final = N_("Too many people are signing in at once. Try again in a moment.")


def routes(node: Node) -> list[BaseRoute]:
    """The addresses of one's own account."""
    own = _Own(node)
    return [
        PageRoute(PATH, own.show),
        PageRoute(f"{PATH}/password", own.password, methods=["POST"]),
        PageRoute(f"{PATH}/sessions/end", own.end_sessions, methods=["POST"]),
        PageRoute(f"{PATH}/tokens", own.add_token, methods=["POST"]),
        PageRoute(f"{PATH}/tokens/{{token:int}}/remove", own.remove_token, methods=["POST"]),
    ]


def digest_of_session(request: Request) -> str:
    """The digest of the session that asks.

    Raises
    ------
    Forbidden
        None does: a token must not make others, or change who may sign in.
    """
    secret, asks = session_of(request.headers), principal_of(request)
    if not asks.csrf or secret is None:
        raise Forbidden("this needs somebody who is signed in")
    return digest_of(secret)


class _Own:
    def __init__(self, node: Node) -> None:
        self._database = node.database
        self._who = LocalAccounts(node.database)
        self._attempts = Attempts()

    def show(self, request: Request) -> Response:
        """Who one is, sessions and tokens."""
        return self._page(request)

    async def password(self, request: Request) -> Response:
        """Take another password; every other session ends."""
        form = await fields(request)
        return await run_in_threadpool(self._change_password, request, form)

    def _change_password(self, request: Request, form: FormData) -> Response:
        digest, found = digest_of_session(request), self._account(request)
        new = str(form.get("new", ""))
        if new != str(form.get("again", "")):
            return self._page(request, status=400, problem=DIFFER)
        if refused := self._unknown(request, form, found):
            return refused
        try:
            kept = hashed(found.name, new)
        except UsageError:
            return self._page(request, status=400, problem=UNFIT)
        with self._database.begin() as connection:
            accounts.change(connection, found, "password_changed", actor=found.name, keep=digest, password=kept)
        return back(PATH, done="password")

    async def end_sessions(self, request: Request) -> Response:
        """Sign out everywhere else."""
        digest = digest_of_session(request)

        def end() -> None:
            found = self._account(request)
            with self._database.begin() as connection:
                accounts.close_sessions(connection, found, actor=found.name, keep=digest)

        await run_in_threadpool(end)
        return back(PATH, done="sessions")

    async def add_token(self, request: Request) -> Response:
        """Make a token, and show it this once."""
        form = await fields(request)
        return await run_in_threadpool(self._add_token, request, form)

    def _add_token(self, request: Request, form: FormData) -> Response:
        digest_of_session(request)
        found = self._account(request)
        label, rights = " ".join(str(form.get("label", "")).split()), {str(each) for each in form.getlist("right")}
        lasting = str(form.get("days", ""))
        if not label or len(label) > LONGEST_LABEL or not label.isprintable():
            raise BadRequest(f"a token says what it is for, in at most {LONGEST_LABEL} printable characters")
        if not rights or not rights <= RIGHTS_OF_ROLE[found.role] or lasting not in LASTING:
            raise BadRequest("a token has rights of its account's role, and is good for so many days, or until it is taken away")
        if refused := self._unknown(request, form, found):
            return refused
        days = LASTING[lasting]
        until = None if days is None else time.time() + days * 86400
        with self._database.begin() as connection:
            secret = make_token(connection, found, label, rights, expires_at=until, actor=found.name)
        return self._page(request, secret=secret)

    def remove_token(self, request: Request) -> Response:
        """Take one of the account's own tokens away."""
        digest_of_session(request)
        found = self._account(request)
        with self._database.begin() as connection:
            accounts.remove_token(connection, row_of(request, "token"), actor=found.name, of=found)
        return back(PATH, done="token")

    def _unknown(self, request: Request, form: FormData, found: Account) -> Response | None:
        """The answer where the password that was given is not the account's; guesses are counted as when one signs in."""
        address = request.client.host if request.client else ""
        if self._attempts.too_many(found.name, address):
            return self._page(request, status=429, problem=TOO_OFTEN, headers={"Retry-After": "900"})
        self._attempts.failed(found.name, address)
        try:
            right = self._who.check(found.name, str(form.get("password", "")))
        except Busy:
            self._attempts.forget(found.name, address)
            return self._page(request, status=503, problem=BUSY, headers={"Retry-After": "5"})
        if right is not None:
            self._attempts.forget(found.name, address, right=True)
            return None
        with self._database.begin(durable=False) as connection:
            audit.record(connection, "account.refused", actor=address, detail={"account": found.name})
        return self._page(request, status=400, problem=WRONG)

    def _account(self, request: Request) -> Account:
        pk = principal_of(request).account_pk
        if pk is None:
            raise Forbidden("this needs somebody who is signed in")
        with self._database.read() as connection:
            return accounts.of_pk(connection, pk)

    def _page(self, request: Request, *, problem: str = "", secret: str = "", **how: Any) -> Response:
        digest, found = digest_of_session(request), self._account(request)
        with self._database.read() as connection:
            here = accounts.session(connection, digest)
            sessions, tokens = accounts.sessions(connection, found), accounts.tokens(connection, found)
        return page(
            request, "account.html", account=found, here=here.pk if here else None, sessions=sessions, tokens=tokens, problem=problem,
            secret=secret, done=DONE.get(request.query_params.get("done", ""), ""), rights=sorted(RIGHTS_OF_ROLE[found.role]),
            lasting=LASTING, least=SHORTEST, at=time.time(), **how,
        )  # fmt: skip
