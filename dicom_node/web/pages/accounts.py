"""The accounts, for administrators: who may sign in, as what, and which studies they see; as ``dicom-node user`` does."""

from __future__ import annotations

import re
import time
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from dicom_node.accounts import ADMINISTER, SHORTEST, hashed, valid_name
from dicom_node.errors import UsageError
from dicom_node.node import Node
from dicom_node.web.authentication import principal_of
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages.account import DIFFER, UNFIT, digest_of_session
from dicom_node.web.pages.forms import back, fields, row_of
from dicom_node.web.pages.site import page
from dicom_node.web.pages.words import N_
from storage import accounts
from storage.accounts import ROLES, Account
from storage.visibility import Limits

PATH: Final = "/accounts"
SOURCE: Final = re.compile(r"[^\\*\x00-\x1f\x7f]{1,16}\*?|\*")  # an AE title (PS3.5 6.2), or how it begins
MODALITY: Final = re.compile(r"[A-Z0-9_ ]{1,16}")  # a code string
DONE: Final = {
    "added": N_("The account is made."),
    "role": N_("Role and limits are changed, and the account's sessions have ended."),
    "password": N_("The password is changed, and the account's sessions have ended."),
    "disabled": N_("The account is disabled: its sessions have ended, and its tokens are taken away."),
    "enabled": N_("The account may sign in again."),
    "sessions": N_("The account's sessions have ended."),
    "token": N_("The token is taken away."),
}
BAD_NAME: Final = N_("A name has letters, digits and the characters . _ @ - (64 at most), a letter or digit first.")
TAKEN: Final = N_("There is an account of this name already.")
LAST: Final = N_("Nobody could administer this node any more: make another administrator first.")
OWN: Final = N_("Your own password is changed on your own page, and your own account is disabled by another administrator.")
NO_ROLE: Final = N_("Choose a role.")
BAD_LIMIT: Final = N_("Sources are AE titles of at most 16 characters, modalities codes such as CT; several are separated by commas.")


def routes(node: Node) -> list[BaseRoute]:
    """The addresses of accounts."""
    all_of_them = _Accounts(node)
    one = f"{PATH}/{{account:int}}"

    def posted(path: str, what: Any) -> PageRoute:
        return PageRoute(path, what, right=ADMINISTER, methods=["POST"])

    return [
        PageRoute(PATH, all_of_them.list, right=ADMINISTER),
        posted(PATH, all_of_them.add),
        PageRoute(one, all_of_them.show, right=ADMINISTER),
        posted(f"{one}/role", all_of_them.change_role),
        posted(f"{one}/password", all_of_them.change_password),
        posted(f"{one}/disable", all_of_them.disable),
        posted(f"{one}/enable", all_of_them.enable),
        posted(f"{one}/sessions/end", all_of_them.end_sessions),
        posted(f"{one}/tokens/{{token:int}}/remove", all_of_them.remove_token),
    ]


class _Refused(Exception):
    """What was asked for is not done; the page says why."""


class _Accounts:
    def __init__(self, node: Node) -> None:
        self._database = node.database

    # --- all of them

    def list(self, request: Request) -> Response:
        """Who may sign in."""
        digest_of_session(request)
        return self._list(request)

    async def add(self, request: Request) -> Response:
        """Make an account."""
        digest_of_session(request)
        form = await fields(request)
        return await run_in_threadpool(self._add, request, form)

    def _add(self, request: Request, form: FormData) -> Response:
        try:
            name = _name_in(form)
            role, limits = _role_in(form), _limits_in(form)
            kept = _password_in(form, name)
            with self._database.begin() as connection:
                try:
                    made = accounts.add(connection, name, kept, role, limits, actor=principal_of(request).name)
                except ValueError:
                    raise _Refused(TAKEN) from None
        except _Refused as error:
            return self._list(request, status=400, problem=str(error), given=form)
        return back(f"{PATH}/{made.pk}", done="added")

    def _list(self, request: Request, *, problem: str = "", given: FormData | None = None, **how: Any) -> Response:
        with self._database.read() as connection:
            found = accounts.every(connection)
            signed_in = [each.account.pk for each in accounts.sessions(connection)]
        counts = {each.pk: signed_in.count(each.pk) for each in found}
        return page(
            request, "accounts.html", found=found, counts=counts, roles=ROLES, problem=problem, given=given or {}, least=SHORTEST, **how
        )

    # --- one

    def show(self, request: Request) -> Response:
        """What an account may, where it is signed in, its tokens."""
        digest_of_session(request)
        return self._one(request, self._account(request))

    async def change_role(self, request: Request) -> Response:
        """Change what an account may and sees."""
        form = await fields(request)

        def change(found: Account) -> None:
            role, limits = _role_in(form), _limits_in(form)
            values = {"role": role, "sources": list(limits.sources), "modalities": list(limits.modalities)}
            self._change(request, found, "role_changed", last=role != "administrator" or bool(limits), **values)

        return await self._done(request, "role", change)

    async def change_password(self, request: Request) -> Response:
        """Give an account another password."""
        form = await fields(request)

        def change(found: Account) -> None:
            _refuse_own(request, found)
            self._change(request, found, "password_changed", password=_password_in(form, found.name))

        return await self._done(request, "password", change)

    async def disable(self, request: Request) -> Response:
        """Let an account in no more."""

        def change(found: Account) -> None:
            _refuse_own(request, found)
            self._change(request, found, "disabled", last=True, disabled_at=time.time())

        return await self._done(request, "disabled", change)

    async def enable(self, request: Request) -> Response:
        """Let it in again."""
        return await self._done(request, "enabled", lambda found: self._change(request, found, "enabled", disabled_at=None))

    async def end_sessions(self, request: Request) -> Response:
        """Sign an account out everywhere."""

        def end(found: Account) -> None:
            with self._database.begin() as connection:
                accounts.close_sessions(connection, found, actor=principal_of(request).name)

        return await self._done(request, "sessions", end)

    async def remove_token(self, request: Request) -> Response:
        """Take a token of an account away."""

        def remove(found: Account) -> None:
            with self._database.begin() as connection:
                accounts.remove_token(connection, row_of(request, "token"), actor=principal_of(request).name, of=found)

        return await self._done(request, "token", remove)

    async def _done(self, request: Request, what: str, change: Any) -> Response:
        digest_of_session(request)

        def carry_out() -> Response:
            found = self._account(request)
            try:
                change(found)
            except _Refused as error:
                return self._one(request, found, status=400, problem=str(error))
            return back(f"{PATH}/{found.pk}", done=what)

        return await run_in_threadpool(carry_out)

    def _change(self, request: Request, found: Account, what: str, *, last: bool = False, **values: Any) -> None:
        """Change an account; ``last``: the last administrator must not be so changed."""
        with self._database.begin() as connection:
            if last and accounts.is_last_administrator(connection, found):
                raise _Refused(LAST)
            accounts.change(connection, found, what, actor=principal_of(request).name, **values)

    def _account(self, request: Request) -> Account:
        with self._database.read() as connection:
            return accounts.of_pk(connection, row_of(request, "account"))

    def _one(self, request: Request, found: Account, *, problem: str = "", **how: Any) -> Response:
        with self._database.read() as connection:
            sessions, tokens = accounts.sessions(connection, found), accounts.tokens(connection, found)
        return page(
            request, "account_of.html", account=found, sessions=sessions, tokens=tokens, roles=ROLES, problem=problem, least=SHORTEST,
            done=DONE.get(request.query_params.get("done", ""), ""), own=_is_own(request, found), at=time.time(), **how,
        )  # fmt: skip


def _name_in(form: FormData) -> str:
    try:
        return valid_name(str(form.get("name", "")).strip())
    except UsageError:
        raise _Refused(BAD_NAME) from None


def _role_in(form: FormData) -> str:
    role = str(form.get("role", ""))
    if role not in ROLES:
        raise _Refused(NO_ROLE)
    return role


def _limits_in(form: FormData) -> Limits:
    sources = _several(form, "sources", SOURCE)
    modalities = _several(form, "modalities", MODALITY, str.upper)
    return Limits(sources, modalities)


def _several(form: FormData, name: str, form_of: re.Pattern[str], change: Any = str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(change(part.strip()) for part in str(form.get(name, "")).split(",") if part.strip()))
    if len(found) > 100 or not all(form_of.fullmatch(each) for each in found):
        raise _Refused(BAD_LIMIT)
    return found


def _password_in(form: FormData, name: str) -> str:
    new = str(form.get("new", ""))
    if new != str(form.get("again", "")):
        raise _Refused(DIFFER)
    try:
        return hashed(name, new)
    except UsageError:
        raise _Refused(UNFIT) from None


def _refuse_own(request: Request, found: Account) -> None:
    if _is_own(request, found):
        raise _Refused(OWN)


def _is_own(request: Request, found: Account) -> bool:
    return found.pk == principal_of(request).account_pk
