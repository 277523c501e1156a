"""What WADO-RS refuses, and what hostile or unlucky clients do not achieve."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pydicom import Dataset

from dicom_node.web.limits import DeadlineProtocol
from storage.errors import NotFound
from tests.dicomweb import Web, parts_of, served
from tests.imaging import as_file
from tests.node import bright_series, settings

LARGE = 24 << 20
DICOM = 'multipart/related; type="application/dicom"'


@pytest.fixture
def images() -> list[Dataset]:
    images = bright_series(2, PatientName="Secret^Name", PatientID="SECRET-ID")
    images[0].add_new(0x00420011, "OB", bytes(LARGE))
    return images


@pytest.fixture
def web(tmp_path: Path, images: list[Dataset]) -> Iterator[Web]:
    folder = tmp_path / "files"
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number}.dcm").write_bytes(as_file(image).getvalue())
    with served(settings(tmp_path / "node"), [folder]) as made:
        yield made


def path_of(image: Dataset) -> str:
    return f"/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def segments() -> int:
    """How many segments this process has open."""
    return sum(file.path.endswith(".tar") for file in psutil.Process().open_files())


def ends_of(clients: list[socket.socket]) -> int:
    """How many connections the server still holds to these clients, duplicates too."""
    ports = {client.getsockname()[1] for client in clients}
    return sum(bool(each.raddr) and each.raddr.port in ports for each in psutil.Process().net_connections("tcp"))


def held() -> int:
    """Connections and open segments of this process: client, server and duplicates."""
    return len(psutil.Process().net_connections("tcp")) + segments()


def test_each_wrong_request_has_its_status(web: Web, images: list[Dataset]) -> None:
    instance = path_of(images[1])
    study, series = instance.split("/instances")[0].split("/series")[0], instance.split("/instances")[0]
    expected = {
        "/studies/1.2.3": 404,
        f"{study}/series/1.2.3": 404,
        f"{series}/instances/1.2.3": 404,
        f"/studies/1.2.3/series/1.2.3/instances/{images[1].SOPInstanceUID}": 404,
        f"{series}/instances/%2e%2e": 400,
        f"{series}/instances/1.2.3;x": 400,
        f"/studies/{'9' * 5000}": 400,
        f"{instance}/frames/2": 404,
        f"{instance}/frames/0": 400,
        f"{instance}/frames/-1": 400,
        f"{instance}/frames/1,,2": 400,
        f"{instance}/frames/99999999999": 400,
        f"{instance}/bulkdata/../../etc/passwd": 404,
        f"{instance}/bulkdata/etc/passwd": 400,
        f"{instance}/bulkdata/00100010": 404,
        f"{instance}/bulkdata/00081140/7/00080018": 404,
        f"{instance}/rendered?window=1,0": 400,
        f"{instance}/rendered?window=1,nan": 400,
        f"{instance}/rendered?viewport=100000,1": 400,
        f"{instance}/rendered?viewport=1,1,1e9,1e9,1,1": 422,
        f"{instance}/rendered?quality=101": 400,
        f"{instance}/rendered?annotation=patient": 400,
        f"{instance}/rendered?iccprofile=yes": 400,
        f"{instance}/nothing": 404,
        f"{instance}?accept=text/html": 406,
        f"{instance}?accept=application/dicom;transfer-syntax=1.2.3": 406,
        f"{instance}?accept=application/dicom;transfer-syntax=x/y": 400,
        f"{instance}?accept=%22": 400,
        f"{instance}/frames/1?accept=image/jls": 406,
        f"{study}/metadata?accept=application/pdf": 406,
    }
    for path, status in expected.items():
        response = web.client.get(path)
        assert response.status_code == status, (path, response.status_code, response.text[:200])
        assert "\n" not in response.json()["error"]
        assert "secret" not in response.text.lower()


def test_only_what_exists_can_be_done(web: Web, images: list[Dataset]) -> None:
    assert web.client.put(path_of(images[0])).status_code == 405
    head = web.client.head(f"{path_of(images[0])}", headers={"Accept": DICOM})
    assert head.status_code == 200
    assert head.content == b""
    assert int(head.headers["content-length"]) > LARGE


def test_accept_of_viewers(web: Web, images: list[Dataset]) -> None:
    path = path_of(images[1])
    for accept in (
        DICOM,
        "multipart/related; type=application/dicom",
        "multipart/related; type=application/dicom; transfer-syntax=*",
        'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1',
        'text/html, multipart/related;type="application/dicom";q=0.5, image/png;q=0.1',
        "*/*",
    ):
        (part,) = parts_of(web.get(path, accept))
        assert part[1][128:132] == b"DICM"
    assert web.get(path, "application/dicom, */*;q=0.1").headers["content-type"] == "application/dicom"
    assert web.get(path, 'multipart/related; type="application/dicom"; q=0').status_code == 406


def raw(web: Web, path: str, *, receive: int) -> socket.socket:
    """A client that asks for a lot and has a small buffer."""
    host, _, port = web.url.removeprefix("http://").partition("/")[0].partition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    connection.settimeout(20)
    connection.connect((host, int(port)))
    connection.sendall(f"GET /dicom-web{path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: {DICOM}\r\n\r\n".encode())
    return connection


def test_a_client_that_stops_reading_is_dropped(web: Web, images: list[Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeadlineProtocol, "read_deadline", 0.3)
    before = segments()
    silent = [raw(web, path_of(images[0]), receive=4096) for _ in range(12)]
    assert web.get("/studies").status_code == 200  # more of them than there are threads, and they hold none
    until(lambda: not ends_of(silent) and segments() <= before)
    for connection in silent:
        received = 0
        with connection, contextlib.suppress(ConnectionResetError):
            while data := connection.recv(1 << 20):
                received += len(data)
        assert received < LARGE


def test_a_slow_client_gets_everything(web: Web, images: list[Dataset]) -> None:
    with raw(web, path_of(images[0]), receive=65536) as connection:
        received = 0
        while received < LARGE:
            data = connection.recv(1 << 20)
            assert data
            received += len(data)
            if received < 2 << 20:
                threading.Event().wait(0.06)  # longer than a thread's patience


def test_a_client_that_goes_away_leaves_nothing(web: Web, images: list[Dataset]) -> None:
    web.get("/studies")
    before = held()
    for _ in range(20):
        connection = raw(web, path_of(images[0]), receive=4096)
        connection.recv(100)
        connection.close()
    until(lambda: held() <= before)
    assert len(parts_of(web.get(path_of(images[1]), DICOM))) == 1


def test_what_was_deleted_is_gone(web: Web, images: list[Dataset]) -> None:
    web.node.archive.delete_instance(str(images[0].SOPInstanceUID), who="test", reason="test")
    with pytest.raises(NotFound):
        web.node.archive.open_instance(str(images[0].SOPInstanceUID))
    assert web.get(path_of(images[0]), DICOM).status_code == 404
    assert len(parts_of(web.get(f"/studies/{images[0].StudyInstanceUID}", DICOM))) == 1


def test_segments_that_are_gone_do_not_end_the_server(web: Web, images: list[Dataset]) -> None:
    stored = web.node.archive.open_instance(str(images[0].SOPInstanceUID))
    stored.path.rename(stored.path.with_suffix(".away"))
    with raw(web, path_of(images[0]), receive=65536) as connection:
        received = b""
        while data := connection.recv(1 << 16):
            received += data
    assert b"DICM" not in received
    assert web.get("/studies").status_code == 200
