"""What the web server refuses before any route is asked: in the form of every other refusal, one line of JSON."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node.transcode import Transcoder
from dicom_node.web import app
from dicom_node.web.dicomweb import rendered
from dicom_node.web.limits import DeadlineProtocol
from storage.errors import IndexUnavailable
from tests.imaging import as_file
from tests.node import bright_series
from tests.webserver import WebNode, web_node


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebNode]:
    with web_node(tmp_path) as node:
        yield node


def ask(port: int, request: bytes) -> tuple[int, dict[str, str], dict[str, str]]:
    """Send bytes; the status, headers and JSON of what comes back before the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        data = b""
        while more := connection.recv(65536):
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): text for name, text in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"what is this\r\n\r\n", 400),
        (b"GET /dicom-web/studies HTTP/1.1\r\n\r\n", 400),
        (b"GET /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nnot a header\r\n\r\n", 400),
        (b"GET /" + b"x" * 200_000, 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 200_000, 431),
        (b"POST /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
    ids=["no HTTP", "no Host", "no header", "long address", "long header", "unknown coding"],
)
def test_what_is_no_http_is_refused_in_our_form(web: WebNode, request_bytes: bytes, status: int) -> None:
    answered, headers, body = ask(web.port, request_bytes)
    assert answered == status
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"
    assert list(body) == ["error"]
    assert web.client.get(f"{web.url}/studies").status_code == 204


def test_more_connections_than_configured_are_told_to_come_again(tmp_path: Path) -> None:
    with web_node(tmp_path, web="max_connections = 4") as web:
        held = [socket.create_connection(("127.0.0.1", web.port), timeout=20) for _ in range(3)]
        try:
            assert web.client.get(f"{web.url}/studies").status_code == 204
            held.append(socket.create_connection(("127.0.0.1", web.port), timeout=20))
            status, headers, body = ask(web.port, b"GET /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (status, headers["retry-after"], headers["connection"]) == (503, "5", "close")
            assert "too many connections" in body["error"]
        finally:
            for connection in held:
                connection.close()


def test_small_answers_are_not_kept_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = []

    class Watched(DeadlineProtocol):
        def data_received(self, data: bytes) -> None:
            options.append(self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            super().data_received(data)

    monkeypatch.setattr(app, "DeadlineProtocol", Watched)
    with web_node(tmp_path) as web:
        assert web.client.get(f"{web.url}/studies").status_code == 204
    assert options
    assert all(options)


def test_an_index_that_is_away_is_told_with_when_to_come_again(web: WebNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise IndexUnavailable("index is not available")

    monkeypatch.setattr(web.node.database, "read", away)
    answer = web.client.get(f"{web.url}/studies")
    assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (503, "5", {"error": "index is not available"})


def image(web: WebNode) -> str:
    """The address of an image that is stored compressed."""
    compressed = bright_series(1)[0]
    compressed.compress("1.2.840.10008.1.2.5")  # RLE
    assert web.store([as_file(compressed).getvalue()]).status_code == 200
    place = f"series/{compressed.SeriesInstanceUID}/instances/{compressed.SOPInstanceUID}"
    return f"{web.url}/studies/{compressed.StudyInstanceUID}/{place}"


def busy(answer: httpx.Response) -> bool:
    return answer.status_code == 503 and answer.headers["retry-after"] == "5" and "come again" in answer.json()["error"]


def test_while_all_that_decode_are_busy_a_client_is_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transcoder = Transcoder(children=1, wait=0.05)
    monkeypatch.setattr(app, "Transcoder", lambda **settings: transcoder)
    with web_node(tmp_path) as web:
        path = image(web)
        assert transcoder._pool._places.acquire(timeout=5)  # as a piece of work does
        for address, accept in (
            (f"{path}/frames/1", "application/octet-stream"),
            (path, "application/dicom"),
            (path, 'multipart/related; type="application/dicom"'),
            (f"{path}/rendered", "image/png"),
        ):
            assert busy(web.client.get(address, headers={"Accept": accept})), address
        transcoder._pool._places.release()
        assert web.client.get(f"{path}/rendered").status_code == 200


def test_pictures_are_made_few_at_a_time(web: WebNode, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image(web)
    monkeypatch.setattr(rendered, "PLACE_WAIT", 0.05)
    monkeypatch.setattr(rendered, "RENDERERS", threading.BoundedSemaphore(1))
    with rendered.place():
        assert busy(web.client.get(f"{path}/rendered"))
        assert busy(web.client.get(f"{path}/thumbnail"))
    assert web.client.get(f"{path}/thumbnail").status_code == 200
