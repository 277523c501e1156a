"""STOW from clients that mean no good, or die: each gets its 4xx, memory does not grow, and nothing half stays behind."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import func, select

from dicom_node.web.limits import DeadlineProtocol
from storage.database import Database
from storage.schema import association, instance, segment
from tests.datasets import CT, dataset, part10
from tests.dimse import until
from tests.webserver import BOUNDARY, MULTIPART, WebNode, multipart, web_node

MB = 1 << 20


def file(number: int = 1, *, pixels: bytes = b"\1\2" * 50) -> bytes:
    sop = f"1.2.3.1.{number}"
    return part10(dataset("1.2.3", "1.2.3.1", sop, pixels=pixels, number=number), CT, sop)


def count(web: WebNode) -> int:
    with web.node.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(instance)).scalar_one())


def open_associations(database: Database) -> int:
    with database.read() as connection:
        query = select(func.count()).select_from(association).where(association.c.closed_at.is_(None))
        return int(connection.execute(query).scalar_one())


def raw(web: WebNode, *headers: str) -> socket.socket:
    """A connection on which the head of a STOW request was sent."""
    connection = socket.create_connection(("127.0.0.1", web.port), timeout=30)
    head = ["POST /dicom-web/studies HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {MULTIPART}", *headers]
    connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
    return connection


def status_line(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n" not in data:
        more = connection.recv(4096)
        if not more:
            return data
        data += more
    return data.partition(b"\r\n")[0]


class Grown:
    """How far this process's memory grows while the body runs."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def __enter__(self) -> Grown:
        self.before = self.peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, self._process.memory_info().rss)

    @property
    def megabytes(self) -> float:
        return (self.peak - self.before) / MB


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    head = f"--{BOUNDARY}\r\n\r\n".encode() + file(pixels=b"")[:-8]
    bomb = gzip.compress(head + bytes(400 * MB), 9)
    assert len(bomb) < MB
    with web_node(tmp_path) as web, Grown() as grown:
        headers = {"Content-Type": MULTIPART, "Content-Encoding": "gzip"}
        answer = web.client.post(f"{web.url}/studies", content=bomb, headers=headers)
        assert answer.status_code == 413
        assert "inflated" in answer.json()["error"]
        assert count(web) == 0
    assert grown.megabytes < 64


def test_a_forged_content_length_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with web_node(tmp_path) as web, raw(web, "Content-Length: 99999999999999999") as connection:
        assert b"413" in status_line(connection)


def test_a_content_length_that_is_never_reached(tmp_path: Path) -> None:
    with web_node(tmp_path, web='stall_timeout = "200ms"') as web, raw(web, "Content-Length: 1000000") as connection:
        connection.sendall(multipart([file()])[:-5])
        assert b"408" in status_line(connection)
        assert web.store([file(2)]).status_code == 200


def test_a_hundred_thousand_parts_are_refused(tmp_path: Path) -> None:
    body = b"".join(f"--{BOUNDARY}\r\n\r\nx\r\n".encode() for _ in range(100_000)) + f"--{BOUNDARY}--".encode()
    with web_node(tmp_path) as web, Grown() as grown:
        answer = web.client.post(f"{web.url}/studies", content=body, headers={"Content-Type": MULTIPART})
        assert answer.status_code == 413
        assert "parts" in answer.json()["error"]
    assert grown.megabytes < 64


def test_parts_and_requests_beyond_the_configured_size(tmp_path: Path) -> None:
    with web_node(tmp_path, web='max_part_size = "1MB"\nmax_request_size = "3MB"') as web:
        answer = web.store([file(1), file(2, pixels=bytes(2 * MB))])
        assert (answer.status_code, answer.json()["error"]) == (413, "a part may have 1000000 bytes")
        assert web.store([file(number, pixels=bytes(900_000)) for number in range(3, 7)]).status_code == 413

        def pieces() -> Iterator[bytes]:  # no Content-Length
            yield from (multipart([file(number, pixels=bytes(900_000)) for number in range(7, 11)]),)

        chunked = web.client.post(f"{web.url}/studies", content=pieces(), headers={"Content-Type": MULTIPART})
        assert chunked.status_code == 413
        assert list((web.node.archive.root / "spool").iterdir()) == []


def test_memory_does_not_grow_with_an_instance(tmp_path: Path) -> None:
    size = 300 * MB
    head = f"--{BOUNDARY}\r\n\r\n".encode() + file(pixels=b"")[:-4] + size.to_bytes(4, "little")
    end = f"\r\n--{BOUNDARY}--".encode()

    def pieces() -> Iterator[bytes]:
        yield head
        for _ in range(size // MB):
            yield bytes(MB)
        yield end

    with web_node(tmp_path) as web:
        web.store([file(9)])
        with Grown() as grown:
            answer = web.client.post(f"{web.url}/studies", content=pieces(), headers={"Content-Type": MULTIPART})
        assert answer.status_code == 200
        assert web.node.archive.open_instance("1.2.3.1.1").length > size
    assert grown.megabytes < 64


def test_a_client_that_dies_in_a_part_leaves_nothing_of_it(tmp_path: Path) -> None:
    whole = multipart([file(1), file(2, pixels=bytes(8 * MB))])
    with web_node(tmp_path) as web:
        for length in (len(whole) // 2, len(whole) - 100, 700, 10):
            with raw(web, f"Content-Length: {len(whole)}") as connection:
                connection.sendall(whole[:length])
        until(lambda: open_associations(web.node.database) == 0 and web.node.archive.pool._count > 0)
        assert count(web) == 1  # the one that had come whole
        with web.node.database.read() as connection:
            names = connection.execute(select(segment.c.name)).scalars().all()
        for name in names:
            stored = web.node.archive.open_instance("1.2.3.1.1")
            data = (web.node.archive.root / name).read_bytes()
            assert not data[stored.offset + stored.length + 512 :].strip(b"\0")
        assert web.store([file(1), file(2, pixels=bytes(8 * MB))]).status_code == 200
        assert count(web) == 2


def test_too_many_uploads_at_a_time_are_told_to_come_again(tmp_path: Path) -> None:
    with web_node(tmp_path, web="max_uploads = 1") as web:
        with raw(web, "Content-Length: 100000", "Expect: 100-continue") as holding:
            assert status_line(holding) == b"HTTP/1.1 100 Continue"  # its body is being read: it has the place
            holding.sendall(f"--{BOUNDARY}\r\n".encode())
            answer = web.store([file()])
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        until(lambda: web.store([file()]).status_code == 200)


def test_connections_on_which_nothing_comes_to_an_end_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeadlineProtocol, "head_deadline", 0.3)
    with web_node(tmp_path) as web:
        silent = [socket.create_connection(("127.0.0.1", web.port), timeout=10) for _ in range(50)]
        slow = socket.create_connection(("127.0.0.1", web.port), timeout=10)
        slow.sendall(b"GET /dicom-web/studies HTTP/1.1\r\nHost: 127")
        for connection in [*silent, slow]:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(10) == b""
            connection.close()
        assert web.store([file()]).status_code == 200


def test_a_client_that_never_reads_its_answer_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeadlineProtocol, "read_deadline", 0.3)
    with web_node(tmp_path) as web:
        assert web.store([file(pixels=bytes(64 * MB))]).status_code == 200
        with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
            accept = 'Accept: multipart/related; type="application/dicom"; transfer-syntax=*'
            connection.sendall(f"GET /dicom-web/studies/1.2.3 HTTP/1.1\r\nHost: 127.0.0.1\r\n{accept}\r\n\r\n".encode())
            mine = connection.getsockname()[1]
            assert connection.recv(100).startswith(b"HTTP/1.1 200")

            def held() -> bool:
                connections = psutil.Process().net_connections("tcp")
                return any(each.raddr and each.raddr.port == mine and each.laddr.port == web.port for each in connections)

            until(lambda: not held())


@pytest.mark.parametrize("lengths", ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5\r\nTransfer-Encoding: chunked"])
def test_a_body_of_two_lengths_is_no_way_to_smuggle(tmp_path: Path, lengths: str) -> None:
    with web_node(tmp_path) as web, raw(web, lengths) as connection:
        connection.sendall(b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b" 400 " in status_line(connection)


def test_a_client_that_waits_for_leave_to_send(tmp_path: Path) -> None:
    body = multipart([file()])
    with web_node(tmp_path) as web:
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
        connection.putrequest("POST", "/dicom-web/studies")
        for name, text in (("Content-Type", MULTIPART), ("Content-Length", str(len(body))), ("Expect", "100-continue")):
            connection.putheader(name, text)
        connection.endheaders()
        connection.send(body)
        assert connection.getresponse().status == 200
        connection.close()


def test_a_bulk_data_uri_is_never_followed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        port = trap.getsockname()[1]
        metadata = f'[{{"7FE00010": {{"vr": "OW", "BulkDataURI": "http://127.0.0.1:{port}/x"}}}}]'.encode()
        body = multipart([metadata], headers="Content-Type: application/dicom+json\r\n")
        with web_node(tmp_path) as web:
            answer = web.client.post(f"{web.url}/studies", content=body, headers={"Content-Type": MULTIPART})
            assert answer.status_code == 409
            kind = f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}'
            assert web.client.post(f"{web.url}/studies", content=body, headers={"Content-Type": kind}).status_code == 415
        trap.setblocking(False)
        with pytest.raises(BlockingIOError):
            trap.accept()
