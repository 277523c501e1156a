"""One's own account and all of them, as pages over a real server: what is changed counts, and nobody takes more than is theirs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from dicom_node.accounts import hashed
from dicom_node.web.attempts import TRIES_OF_NAME
from storage import accounts
from storage.schema import audit
from storage.visibility import Limits
from tests.dimse import until
from tests.webserver import WebNode, configured, serving

OLD, NEW = "correct horse battery", "another horse, another battery"
PAGE = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def kept() -> str:
    return hashed("x", OLD)


@pytest.fixture
def web(tmp_path: Path, kept: str) -> Iterator[WebNode]:
    with serving(configured(tmp_path, web="sign_in = true")) as node:
        with node.node.database.begin() as connection:
            for name, role in (("ada", "administrator"), ("ben", "radiologist")):
                accounts.add(connection, name, kept, role, Limits(), actor="test")
        yield node


class Person:
    """A browser in which somebody is signed in."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def get(self, path: str) -> httpx.Response:
        return self._client.get(path, headers=PAGE)

    def post(self, path: str, **fields: str | list[str]) -> httpx.Response:
        token = re.findall(r'name="csrf-token" content="([^"]+)"', self.get("/account").text)
        return self._client.post(path, data={"csrf": token[0], **fields}, headers=PAGE)


def enter(client: httpx.Client, name: str, password: str) -> int:
    return client.post("/sign-in", data={"name": name, "password": password}).status_code


@contextlib.contextmanager
def signed_in(web: WebNode, name: str, password: str = OLD) -> Iterator[Person]:
    with httpx.Client(base_url=f"http://127.0.0.1:{web.port}") as client:
        assert enter(client, name, password) == 303
        yield Person(client)


def events(web: WebNode, event: str) -> list[tuple[str, dict[str, object]]]:
    with web.node.database.read() as connection:
        rows = connection.execute(select(audit.c.actor, audit.c.detail).where(audit.c.event == event).order_by(audit.c.pk)).all()
    return [(row.actor, row.detail) for row in rows]


def test_ones_own_password_is_changed_and_only_this_session_stays(web: WebNode) -> None:
    with signed_in(web, "ben") as here, signed_in(web, "ben") as elsewhere:
        wrong = here.post("/account/password", password="not the one at all", new=NEW, again=NEW)
        assert (wrong.status_code, "not this account" in wrong.text) == (400, True)
        differ = here.post("/account/password", password=OLD, new=NEW, again=OLD)
        assert (differ.status_code, "differ" in differ.text) == (400, True)
        short = here.post("/account/password", password=OLD, new="short", again="short")
        assert (short.status_code, "at least 12 characters" in short.text) == (400, True)
        done = here.post("/account/password", password=OLD, new=NEW, again=NEW)
        assert (done.status_code, done.headers["location"]) == (303, "/account?done=password")
        assert "other sessions have ended" in here.get("/account?done=password").text
        until(lambda: elsewhere.get("/account").status_code == 303)
        assert here.get("/account").status_code == 200
        assert events(web, "account.password_changed") == [("ben", {"account": "ben"})]
        assert [detail for _, detail in events(web, "account.refused")] == [{"account": "ben"}]
    with httpx.Client(base_url=f"http://127.0.0.1:{web.port}") as client:
        assert [enter(client, "ben", OLD), enter(client, "ben", NEW)] == [401, 303]


def test_the_old_password_cannot_be_guessed_there(web: WebNode) -> None:
    with signed_in(web, "ben") as ben:
        given = [ben.post("/account/password", password=f"guess {n}", new=NEW, again=NEW).status_code for n in range(TRIES_OF_NAME + 1)]
        assert given == [400] * TRIES_OF_NAME + [429]
        assert ben.post("/account/password", password=OLD, new=NEW, again=NEW).status_code == 429


def test_signing_out_everywhere_else(web: WebNode) -> None:
    with signed_in(web, "ben") as here, signed_in(web, "ben") as elsewhere, signed_in(web, "ada") as ada:
        assert here.get("/account").text.count("127.0.0.1") == 2
        assert here.post("/account/sessions/end").headers["location"] == "/account?done=sessions"
        until(lambda: elsewhere.get("/account").status_code == 303)
        assert here.get("/account").text.count("127.0.0.1") == 1
        assert ada.get("/account").status_code == 200


def test_a_token_is_shown_once_works_and_works_no_more(web: WebNode) -> None:
    def asks(token: str) -> int:
        return web.client.get(f"http://127.0.0.1:{web.port}/api/jobs", headers={"Authorization": f"Bearer {token}"}).status_code

    with signed_in(web, "ben") as ben, signed_in(web, "ada") as ada:
        for fields, status in (
            ({"label": "x", "right": "operate", "days": "90", "password": OLD}, 400),  # not his to give
            ({"label": "x", "right": "read", "days": "91", "password": OLD}, 400),
            ({"label": "", "right": "read", "days": "90", "password": OLD}, 400),
            ({"label": "x", "days": "90", "password": OLD}, 400),
            ({"label": "x", "right": "read", "days": "90", "password": "a wrong password"}, 400),
        ):
            assert ben.post("/account/tokens", **fields).status_code == status
        made = ben.post("/account/tokens", label="backup <b>", right=["read", "report"], days="90", password=OLD)
        (token,) = re.findall(r"dcmn_[\w-]+", made.text)
        assert (asks(token), made.headers["cache-control"], "<b>" in made.text) == (200, "private, no-store", False)
        listed = ben.get("/account").text
        assert (token in listed, "backup &lt;b&gt;" in listed) == (False, True)
        # A token is not a person: it makes no other token, and sees no page of accounts.
        bearer = {"Authorization": f"Bearer {token}", **PAGE}
        assert web.client.get(f"http://127.0.0.1:{web.port}/account", headers=bearer).status_code == 403
        (remove,) = re.findall(r'action="(/account/tokens/\d+/remove)"', listed)
        assert ada.post(remove).status_code == 404  # somebody else's
        assert ben.post(remove).headers["location"] == "/account?done=token"
        until(lambda: asks(token) == 401)


def test_an_administrator_makes_changes_and_disables_an_account(web: WebNode) -> None:
    with signed_in(web, "ada") as ada, signed_in(web, "ben") as ben:
        assert (ben.get("/accounts").status_code, ben.post("/accounts", name="eve").status_code) == (403, 403)
        fields = {"name": "Cy", "role": "viewer", "new": OLD, "again": OLD, "sources": "CT*, MR_1", "modalities": "ct, mr"}
        for odd in ({"name": "c y"}, {"name": "ben"}, {"role": "king"}, {"sources": "a" * 17}, {"modalities": "c;t"}, {"again": NEW}):
            refused = ada.post("/accounts", **(fields | odd))
            assert (refused.status_code, 'role="alert"' in refused.text) == (400, True), odd
        made = ada.post("/accounts", **fields).headers["location"]
        one = made.partition("?")[0]
        page = ada.get(made).text
        assert ("The account is made" in page, "CT*, MR_1" in page, "CT, MR" in page) == (True, True, True)
        with signed_in(web, "cy") as cy:
            assert cy.get("/jobs").status_code == 403  # limited to some studies
            assert cy.get("/account").status_code == 200
            assert ada.post(f"{one}/role", role="radiologist", sources="", modalities="").status_code == 303
            until(lambda: cy.get("/account").status_code == 303)
        with signed_in(web, "cy") as cy:
            assert cy.get("/jobs").status_code == 200
            assert ada.post(f"{one}/password", new=NEW, again=NEW).status_code == 303
            until(lambda: cy.get("/account").status_code == 303)
        with signed_in(web, "cy", NEW) as cy:
            assert ada.post(f"{one}/disable").headers["location"] == f"{one}?done=disabled"
            until(lambda: cy.get("/account").status_code == 303)
        with httpx.Client(base_url=f"http://127.0.0.1:{web.port}") as client:
            assert enter(client, "cy", NEW) == 401
            assert ada.post(f"{one}/enable").status_code == 303
            assert enter(client, "cy", NEW) == 303
            assert ada.post(f"{one}/sessions/end").headers["location"] == f"{one}?done=sessions"
        assert [actor for actor, detail in events(web, "account.disabled") if detail["account"] == "cy"] == ["ada"]
        assert (ada.get("/accounts/99").status_code, ada.get(f"/accounts/{2**63}").status_code) == (404, 404)


def test_the_last_administrator_stays_one(web: WebNode) -> None:
    with signed_in(web, "ada") as ada:
        (own,) = re.findall(r'href="(/accounts/\d+)"><bdi>ada', ada.get("/accounts").text)
        for path, fields in (
            ("role", {"role": "viewer"}), ("role", {"role": "administrator", "modalities": "CT"}), ("disable", {}),
            ("password", {"new": NEW, "again": NEW}),
        ):  # fmt: skip
            refused = ada.post(f"{own}/{path}", **fields)
            assert (refused.status_code, 'role="alert"' in refused.text) == (400, True), path
        assert ada.post("/accounts", name="amy", role="administrator", new=OLD, again=OLD).status_code == 303
        assert ada.post(f"{own}/role", role="operator").status_code == 303
        until(lambda: ada.get("/account").status_code == 303)


def test_without_a_session_there_is_no_page_of_accounts(tmp_path: Path) -> None:
    with serving(configured(tmp_path)) as web:  # nobody has an account, and this machine may everything else
        for path in ("/account", "/accounts"):
            assert web.client.get(f"http://127.0.0.1:{web.port}{path}", headers=PAGE).status_code == 403
        assert web.client.post(f"http://127.0.0.1:{web.port}/accounts", data={"name": "eve"}, headers=PAGE).status_code == 403
