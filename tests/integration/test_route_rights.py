"""Every address of the application, from its own route table: who lacks the right, a session or its token is refused, and it is noted."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from starlette.routing import Route

from dicom_node.accounts import RIGHTS_OF_ROLE, hashed
from dicom_node.web.app import create_app
from dicom_node.web.authentication import is_open, right_of
from dicom_node.web.forged import SAFE
from dicom_node.web.identities import COOKIE
from dicom_node.web.page_route import PageRoute
from storage import accounts
from storage.schema import audit
from storage.visibility import Limits
from tests.node import bright_series, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle
from tests.webserver import WebNode, configured, serving

PASSWORD = "correct horse battery"
APART = ("/sign-in", "/sign-out")  # one refuses by itself, the other ends the session that the rest need
SETTINGS = "sign_in = true\nallow_delete = true\nmax_connections = 64"


def every_address(web: WebNode) -> Iterator[tuple[str, str, str | None]]:
    """Method, address and right of everything that is served."""
    for route in create_app(web.node).routes:
        if not isinstance(route, Route):
            continue
        path = re.sub(r"\{[^}]*\}", "1", route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            if isinstance(route, PageRoute):
                yield method, path, route.right
            else:
                yield method, path, None if is_open(path) else right_of(method, path)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebNode]:
    with serving(configured(tmp_path_factory.mktemp("node"), web=SETTINGS)) as node:
        kept = hashed("x", PASSWORD)
        with node.node.database.begin() as connection:
            accounts.add(connection, "nobody", kept, "viewer", Limits(), actor="test")  # the first one: what addresses of accounts speak of
            for role in RIGHTS_OF_ROLE:
                accounts.add(connection, role, kept, role, Limits(), actor="test")
        yield node


@contextlib.contextmanager
def signed_in(web: WebNode, name: str) -> Iterator[tuple[httpx.Client, dict[str, str]]]:
    with httpx.Client(base_url=f"http://127.0.0.1:{web.port}") as browser:
        assert browser.post("/sign-in", data={"name": name, "password": PASSWORD}).status_code == 303
        page = browser.get("/no-such-page", headers={"Accept": "text/html"}).text
        yield browser, {"X-CSRF-Token": page.partition('name="csrf-token" content="')[2].partition('"')[0]}


def status(browser: httpx.Client, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    """The status alone: some answers never end."""
    with browser.stream(method, path, headers=headers) as answer:
        return answer.status_code


@pytest.mark.parametrize("role", sorted(RIGHTS_OF_ROLE))
def test_a_role_reaches_what_it_has_the_right_to_and_nothing_else(web: WebNode, role: str) -> None:
    addresses = [each for each in every_address(web) if each[1] not in APART]
    assert len(addresses) > 60
    wrong = []
    with signed_in(web, role) as (browser, token):
        for method, path, right in addresses:
            allowed = right is None or right in RIGHTS_OF_ROLE[role]
            given = status(browser, method, path, token)
            if (given == 403) == allowed or given == 401 or given >= 500:
                wrong.append((method, path, right, given))
            if method not in SAFE and right is not None and status(browser, method, path) != 403:
                wrong.append((method, path, "without the form's token", given))
    assert wrong == []


@pytest.mark.parametrize("header", [{}, {"Cookie": f"{COOKIE}=stolen-or-expired"}, {"Authorization": "Bearer of-another-node-0123456789"}])
def test_nobody_else_reaches_anything(web: WebNode, header: dict[str, str]) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{web.port}") as stranger:
        reached = [
            (method, path)
            for method, path, right in every_address(web)
            if right is not None and status(stranger, method, path, header) != 401
        ]
    assert reached == []


@pytest.mark.parametrize(
    ("name", "asked", "why"),
    [
        ("viewer", ("POST", "/api/jobs/1/retry"), "has not the right to operate"),
        ("viewer", ("POST", "/jobs/retry"), "this needs the right to operate"),
        ("", ("GET", "/api/jobs"), "the session has ended"),
    ],
)
def test_refusals_are_noted(tmp_path: Path, name: str, asked: tuple[str, str], why: str) -> None:
    with serving(configured(tmp_path, web=SETTINGS)) as web:
        with web.node.database.begin() as connection:
            accounts.add(connection, "viewer", hashed("x", PASSWORD), "viewer", Limits(), actor="test")
        if name:
            with signed_in(web, name) as (browser, token):
                assert status(browser, *asked, token) == 403
        else:
            with httpx.Client(base_url=f"http://127.0.0.1:{web.port}") as stranger:
                assert status(stranger, *asked, {"Cookie": f"{COOKIE}=stolen"}) == 401
        with web.node.database.read() as connection:
            noted = list(connection.execute(select(audit.c.detail).where(audit.c.event == "token.refused")).scalars())
    assert [each["count"] for each in noted if why in each["why"]] == [1]


def test_an_account_of_one_modality_sees_only_such_studies(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    mr, ct = bright_series(), bright_series()
    for image in ct:
        image.Modality = "CT"
    file = tmp_path / "node.toml"
    settings(tmp_path)
    file.write_text(file.read_text().replace("[web]\n", "[web]\nsign_in = true\n"))
    from dicom_node.config import load

    config = load(file)
    with running(config) as node, serving(config) as web:
        for folder, images in (("mr", mr), ("ct", ct)):
            send(node, images, tmp_path / folder)
        node.work()
        seen, hidden = uid_of(ct), uid_of(mr)
        kept = hashed("x", PASSWORD)
        with web.node.database.begin() as connection:
            accounts.add(connection, "cora", kept, "viewer", Limits(modalities=("CT",)), actor="test")
            accounts.add(connection, "ada", kept, "viewer", Limits(), actor="test")
            accounts.add(connection, "none", kept, "viewer", Limits(sources=("ELSEWHERE*",)), actor="test")
        everything = {"ada": {seen, hidden}, "cora": {seen}, "none": set()}
        for name, studies in everything.items():
            with signed_in(web, name) as (browser, _):
                assert {each["study_uid"] for each in browser.get("/api/studies").json()} == studies
                for level in ("studies", "series", "instances"):
                    found = browser.get(f"/dicom-web/{level}")
                    rows = [] if found.status_code == 204 else found.json()
                    assert {row["0020000D"]["Value"][0] for row in rows} == studies, (name, level)
                for uid in (seen, hidden):
                    expected = 200 if uid in studies else 404
                    for path in (f"/dicom-web/studies/{uid}/metadata", f"/dicom-web/studies/{uid}/series", f"/api/studies/{uid}"):
                        assert browser.get(path).status_code == expected, (name, path)
                wado = {"requestType": "WADO", "seriesUID": str(mr[0].SeriesInstanceUID), "objectUID": str(mr[0].SOPInstanceUID)}
                for named in ([seen, hidden], [hidden, seen]):
                    answer = browser.get("/wado", params={**wado, "studyUID": named})
                    assert (answer.status_code == 200) == (name == "ada" and named[-1] == hidden), (name, named)
                assert (browser.get("/api/jobs").status_code == 403) == (name != "ada")
        with web.node.database.read() as connection:
            rows = connection.execute(select(audit.c.actor, audit.c.study_uid).where(audit.c.event == "study.refused")).all()
    assert {("cora", hidden), ("none", seen)} <= {tuple(row) for row in rows}
