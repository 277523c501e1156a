"""Accounts over a real server: who signs in gets a session, which changes something only with its own token, and ends when it should."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, update

from dicom_node.accounts import digest_of, hashed
from dicom_node.config import Config
from dicom_node.node import prepare
from dicom_node.web.attempts import TRIES_OF_NAME
from dicom_node.web.identities import COOKIE
from storage import accounts
from storage.schema import audit, web_session
from storage.visibility import Limits
from tests.dimse import until
from tests.node import command
from tests.webserver import WebNode, configured, serving

PASSWORD = "correct horse battery"
PAGE = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def kept() -> str:
    return hashed("ada", PASSWORD)


@pytest.fixture
def web(tmp_path: Path, kept: str) -> Iterator[WebNode]:
    with serving(configured(tmp_path, web="sign_in = true\nsession_idle = '10m'")) as node:
        with node.node.database.begin() as connection:
            for name, role in (("ada", "operator"), ("ben", "viewer")):
                accounts.add(connection, name, kept, role, Limits(), actor="test")
        yield node


def base(web: WebNode) -> str:
    return f"http://127.0.0.1:{web.port}"


@contextlib.contextmanager
def signed_in(web: WebNode, name: str = "ada") -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base(web)) as browser:
        answer = browser.post("/sign-in", data={"name": name, "password": PASSWORD, "next": "/nothing?x=1"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/nothing?x=1")
        yield browser


def token_of(browser: httpx.Client) -> str:
    page = browser.get("/nothing", headers=PAGE)
    assert page.status_code == 404
    return page.text.partition('name="csrf-token" content="')[2].partition('"')[0]


def events(web: WebNode) -> list[str]:
    with web.node.database.read() as connection:
        return list(connection.execute(select(audit.c.event).order_by(audit.c.pk)).scalars())


def test_a_session_reads_and_changes_with_its_own_token_only(web: WebNode) -> None:
    assert httpx.get(f"{base(web)}/api/studies").status_code == 401
    sent = httpx.get(f"{base(web)}/nothing?x=1", headers=PAGE)
    assert (sent.status_code, sent.headers["location"]) == (303, "/sign-in?next=/nothing%3Fx%3D1")
    with signed_in(web) as browser, signed_in(web) as other:
        cookie = browser.cookies.jar.__iter__().__next__()
        assert (cookie.name, cookie.secure, cookie.has_nonstandard_attr("HttpOnly")) == (COOKIE, False, True)
        assert browser.get("/api/studies").status_code == 200
        change = "/api/jobs/1/retry?reason=x"
        assert browser.post(change).status_code == 403
        assert browser.post(change, headers={"X-CSRF-Token": token_of(other)}).status_code == 403
        assert browser.post(change, data={"csrf": "forged"}).status_code == 403
        assert browser.post(change, headers={"X-CSRF-Token": token_of(browser)}).status_code == 404
        assert browser.post(change, data={"csrf": token_of(browser)}).status_code == 404
        foreign = {"Origin": "https://elsewhere.example", "X-CSRF-Token": token_of(browser)}
        assert browser.post(change, headers=foreign).status_code == 403
        with signed_in(web, "ben") as viewer:
            assert viewer.post(change, headers={"X-CSRF-Token": token_of(viewer)}).status_code == 403
            assert viewer.get("/api/studies").status_code == 200
    assert "token.refused" in events(web)


def test_a_session_ends_by_leaving_by_time_and_by_an_administrator(web: WebNode) -> None:
    with signed_in(web) as browser, signed_in(web) as other, signed_in(web) as third:
        stolen = browser.cookies[COOKIE]
        left = browser.post("/sign-out", data={"csrf": token_of(browser)})
        assert (left.status_code, left.headers["location"]) == (303, "/sign-in")
        assert httpx.get(f"{base(web)}/api/studies", cookies={COOKIE: stolen}).status_code == 401
        assert other.get("/api/studies").status_code == 200
        with web.node.database.begin() as connection:
            own = web_session.c.digest == digest_of(other.cookies[COOKIE])
            connection.execute(update(web_session).where(own).values(seen_at=time.time() - 601))
        until(lambda: other.get("/api/studies").status_code == 401)
        assert third.get("/api/studies").status_code == 200
        with web.node.database.begin() as connection:
            accounts.change(connection, accounts.get(connection, "ada"), "disabled", actor="test", disabled_at=time.time())
        until(lambda: third.get("/api/studies").status_code == 401)
    assert httpx.post(f"{base(web)}/sign-in", data={"name": "ada", "password": PASSWORD}).status_code == 401
    assert {"account.signed_in", "account.disabled", "account.refused"} <= set(events(web))


def test_what_a_page_asks_for_by_itself_does_not_keep_a_session_alive(web: WebNode) -> None:
    def aged(browser: httpx.Client, seconds: float) -> float:
        with web.node.database.begin() as connection:
            own = web_session.c.digest == digest_of(browser.cookies[COOKIE])
            connection.execute(update(web_session).where(own).values(seen_at=web_session.c.seen_at - seconds))
            return float(connection.scalar(select(web_session.c.seen_at).where(own)) or 0)

    with signed_in(web) as browser:
        before = aged(browser, 400)
        browser.get("/worklist/rows", headers={"X-By-Itself": "1"})
        browser.get("/nothing.jpg", headers={"Sec-Fetch-Dest": "image"})
        with browser.stream("GET", "/events") as stream:
            assert stream.status_code == 200
        assert aged(browser, 0) == before
        browser.get("/worklist/rows")  # somebody typed: noticed at once, although the session was looked up a moment ago
        assert aged(browser, 0) > before + 390


def test_signing_in_again_ends_the_session_before_at_once(web: WebNode) -> None:
    with signed_in(web) as browser:
        stolen = browser.cookies[COOKIE]
        assert browser.get("/api/studies").status_code == 200
        assert browser.post("/sign-in", data={"name": "ben", "password": PASSWORD}).status_code == 303
        assert httpx.get(f"{base(web)}/api/studies", cookies={COOKIE: stolen}).status_code == 401


def test_guessing_is_stopped_and_tells_nothing(web: WebNode) -> None:
    def guess(name: str, password: str = "wrong") -> httpx.Response:
        return httpx.post(f"{base(web)}/sign-in", data={"name": name, "password": password})

    nobody, somebody = guess("nobody"), guess("ada")
    assert (nobody.status_code, nobody.text.replace("nobody", "ada")) == (somebody.status_code, somebody.text)
    assert [guess("ada").status_code for _ in range(TRIES_OF_NAME)][-2:] == [401, 429]
    assert guess("ada", PASSWORD).status_code == 429
    assert guess("ben", PASSWORD).status_code == 303


def test_guesses_that_come_at_once_are_stopped_as_well(web: WebNode) -> None:
    def guess(number: int) -> int:
        return httpx.post(f"{base(web)}/sign-in", data={"name": "ada", "password": f"wrong {number}"}, timeout=60).status_code

    with ThreadPoolExecutor(40) as many:
        answers = Counter(many.map(guess, range(40)))
    assert answers[401] <= TRIES_OF_NAME
    assert set(answers) <= {401, 429, 503}
    assert answers[429]


@pytest.mark.parametrize("name", ["\0", "a" * 300, "\u202ex"])
def test_a_name_that_is_none_is_wrong(web: WebNode, name: str) -> None:
    assert httpx.post(f"{base(web)}/sign-in", data={"name": name, "password": PASSWORD}).status_code == 401


@pytest.mark.parametrize(
    "target", ["https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere.example", "javascript:alert(1)", "//[", "http://["]
)
def test_nobody_is_led_elsewhere(web: WebNode, target: str) -> None:
    answer = httpx.post(f"{base(web)}/sign-in", data={"name": "ada", "password": PASSWORD, "next": target})
    assert answer.headers["location"] == "/"


def test_preferences_are_kept_in_the_account(web: WebNode) -> None:
    with signed_in(web) as browser:
        answer = browser.post("/preferences", data={"language": "zh", "theme": "dark", "next": "/nothing", "csrf": token_of(browser)})
        assert answer.status_code == 303
        assert browser.post("/preferences", data={"language": "xx", "csrf": token_of(browser)}).status_code == 400
    with signed_in(web) as again:
        page = again.get("/nothing", headers=PAGE).text
    assert ('lang="zh-Hans"' in page, 'data-theme="dark"' in page) == (True, True)


def test_the_first_account_is_made_before_the_node_ever_ran(tmp_path: Path) -> None:
    config = configured(tmp_path)
    (tmp_path / "password").write_text(PASSWORD)
    made = command(config, "user", "add", "ada", "--role", "viewer", "--password-file", str(tmp_path / "password"))
    assert made.returncode == 0, made.stderr
    with serving(config) as web, signed_in(web) as browser:
        assert browser.get("/api/studies").json() == []


def test_check_says_who_can_sign_in_where_others_reach_the_node(tmp_path: Path) -> None:
    def said(config: Config) -> str:
        return command(config, "check").stdout

    assert "sign-in" not in said(configured(tmp_path / "here"))
    config = configured(tmp_path / "there", web="host = '0.0.0.0'\nsign_in = true")
    prepare(config)
    assert "nobody can sign in: dicom-node user add" in said(config)
    assert "nothing encrypts" in said(config)
    (tmp_path / "password").write_text(PASSWORD)
    assert command(config, "user", "add", "ada", "--role", "viewer", "--password-file", str(tmp_path / "password")).returncode == 0
    assert "sign-in" not in said(config)
    assert "allow_anonymous is set" in said(configured(tmp_path / "open", web="host = '0.0.0.0'\nallow_anonymous = true"))


def test_the_commands_make_accounts_and_tokens(tmp_path: Path) -> None:
    config = configured(tmp_path)
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    with serving(config) as web:
        assert web.client.get(f"{base(web)}/api/studies").status_code == 200
        made = command(config, "user", "add", "Ada", "--role", "radiologist", "--password-file", str(secret))
        assert made.returncode == 0, made.stderr
        until(lambda: web.client.get(f"{base(web)}/api/studies").status_code == 401)
        for wrong, why in ((["ada"], "already"), (["a b"], "no name"), (["eve"], "12 to 1024")):
            secret.write_text("short")
            refused = command(config, "user", "add", *wrong, "--role", "viewer", "--password-file", str(secret))
            assert (refused.returncode != 0, why in refused.stderr) == (True, True), refused.stderr
        token = command(config, "user", "token", "ada", "--label", "test").stdout.splitlines()[0]
        assert token.startswith("dcmn_")
        bearer = {"Authorization": f"Bearer {token}"}
        assert web.client.get(f"{base(web)}/api/studies", headers=bearer).status_code == 200
        assert web.client.post(f"{base(web)}/api/jobs/1/retry?reason=x", headers=bearer).status_code == 403
        assert "has not the right" in command(config, "user", "token", "ada", "--label", "x", "--right", "operate").stderr
        assert '"label": "test"' in command(config, "user", "tokens", "--json").stdout
        assert command(config, "user", "revoke", "1").returncode == 0
        until(lambda: web.client.get(f"{base(web)}/api/studies", headers=bearer).status_code == 401)
        assert token not in command(config, "user", "tokens").stdout
        limited = command(config, "user", "role", "ada", "--role", "viewer", "--modality", "CT")
        assert (limited.returncode, "what was named" in limited.stdout) == (0, True), limited.stderr
        assert "saw before" in command(config, "user", "role", "ada", "--role", "radiologist").stdout
        assert '"CT"' in command(config, "user", "list", "--json").stdout
        assert "all studies" in command(config, "user", "role", "ada", "--role", "radiologist", "--no-limits").stdout
        assert '"CT"' not in command(config, "user", "list", "--json").stdout
