"""How far a limited account reaches, and how long anybody's form is waited for: over a real server and plain sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from dicom_node.accounts import hashed
from dicom_node.web import forged
from storage import accounts
from storage.schema import audit, instance
from storage.visibility import Limits
from tests.datasets import CT, dataset, part10
from tests.webserver import MULTIPART, WebNode, configured, multipart, serving

PASSWORD = "correct horse battery"
HIDDEN, SEEN = "1.2.3", "1.2.4"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebNode]:
    """A node with two operators: ann sees everything, ada studies with an MR series only."""
    with serving(configured(tmp_path, web="sign_in = true")) as node:
        with node.node.database.begin() as connection:
            for name, limits in (("ann", Limits()), ("ada", Limits(modalities=("MR",)))):
                accounts.add(connection, name, hashed(name, PASSWORD), "operator", limits, actor="test")
        yield node


@contextlib.contextmanager
def signed_in(web: WebNode, name: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base(web)) as browser:
        assert browser.post("/sign-in", data={"name": name, "password": PASSWORD}).status_code == 303
        page = browser.get("/", headers={"Accept": "text/html"}).text
        browser.headers["X-CSRF-Token"] = page.split('name="csrf-token" content="')[1].split('"')[0]
        yield browser


def base(web: WebNode) -> str:
    return f"http://127.0.0.1:{web.port}"


def image(study_uid: str, sop_uid: str, modality: str) -> bytes:
    return part10(dataset(study_uid, f"{study_uid}.{len(sop_uid)}.1", sop_uid, modality=modality), CT, sop_uid)


def events(web: WebNode, event: str) -> list[dict[str, str]]:
    with web.node.database.read() as connection:
        return [row.detail for row in connection.execute(select(audit).where(audit.c.event == event))]


def stored(browser: httpx.Client, address: str, file: bytes) -> int:
    return browser.post(f"/dicom-web/{address}", content=multipart([file]), headers={"Content-Type": MULTIPART}).status_code


def test_who_is_limited_stores_in_studies_within_the_limits_only(web: WebNode) -> None:
    with signed_in(web, "ann") as browser:
        assert stored(browser, "studies", image(HIDDEN, "1.2.3.9", "CT")) == 200
        assert stored(browser, "studies", image(SEEN, "1.2.4.9", "MR")) == 200
    with signed_in(web, "ada") as browser:
        assert [each["0020000D"]["Value"] for each in browser.get("/dicom-web/studies").json()] == [[SEEN]]
        key = image(HIDDEN, "1.2.3.10", "MR")  # would bring the study within the limits
        for address, status in (("studies", 403), (f"studies/{HIDDEN}", 404), ("studies/1.2.5", 404), (f"studies/{SEEN}", 409)):
            assert stored(browser, address, key) == status, address
        assert browser.get(f"/dicom-web/studies/{HIDDEN}/metadata").status_code == 404
        assert stored(browser, f"studies/{SEEN}", image(SEEN, "1.2.4.10", "MR")) == 200
    with web.node.database.read() as connection:
        assert sorted(connection.scalars(select(instance.c.sop_uid))) == ["1.2.3.9", "1.2.4.10", "1.2.4.9"]
    assert any("limited to some studies" in each["why"] for each in events(web, "token.refused"))
    assert len(events(web, "study.refused")) == 2


@pytest.mark.parametrize("path", ["/sign-in", "/preferences"])
def test_a_form_that_never_ends_is_not_waited_for(web: WebNode, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forged, "FORM_DEADLINE", 0.5)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {forged.FORM}\r\nContent-Length: 1000\r\n\r\nname="
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as slow:
        slow.sendall(head.encode())
        answer = b""
        while piece := slow.recv(4096):  # until the server closes
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()
    assert time.monotonic() - began < 10


def test_a_form_is_no_way_to_fill_the_memory(web: WebNode) -> None:
    answer = httpx.post(f"{base(web)}/sign-in", data={"name": "a" * forged.LARGEST_FORM})
    assert answer.status_code == 413
    assert httpx.post(f"{base(web)}/sign-in", data={"name": "a"}).status_code == 401


def test_a_refusal_of_another_kind_is_noted_beside_the_first(web: WebNode) -> None:
    assert httpx.get(f"{base(web)}/api/studies", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert httpx.get(f"{base(web)}/api/studies", cookies={"dicom_node_session": "wrong"}).status_code == 401
    assert len({each["why"] for each in events(web, "token.refused")}) == 2
