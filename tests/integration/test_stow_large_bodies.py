"""Large STOW requests, whose bodies go from the socket to the disk past the event loop: the connection goes on as if they had not."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from dicom_node.web import intake
from dicom_node.web.intake import WORTH_IT, SocketBody
from storage.schema import association
from tests.datasets import CT, dataset, part10
from tests.dimse import until
from tests.webserver import MULTIPART, WebNode, multipart, web_node

MB = 1 << 20


def file(number: int, size: int = MB) -> bytes:
    sop = f"1.2.3.1.{number}"
    return part10(dataset("1.2.3", "1.2.3.1", sop, pixels=bytes([number]) * size, number=number), CT, sop)


def head(length: int, *more: str) -> bytes:
    lines = ["POST /dicom-web/studies HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {MULTIPART}", f"Content-Length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(connection: socket.socket) -> tuple[int, Any]:
    """The next answer on a connection: its status and JSON."""
    reader = connection.makefile("rb")
    while (status := int(reader.readline().split()[1])) == 100:
        assert reader.readline() == b"\r\n"
    fields = dict(line.decode().strip().lower().split(": ", 1) for line in iter(reader.readline, b"\r\n"))
    return status, json.loads(reader.read(int(fields["content-length"])))


@pytest.fixture
def taken_over(monkeypatch: pytest.MonkeyPatch) -> list[SocketBody]:
    """The bodies that were read past the event loop."""
    made: list[SocketBody] = []

    class Noted(SocketBody):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(intake, "SocketBody", Noted)
    return made


@pytest.fixture
def web(tmp_path: Path, taken_over: list[SocketBody]) -> Iterator[WebNode]:
    with web_node(tmp_path, web='max_part_size = 4194304\nstall_timeout = "500ms"') as node:
        yield node


def connected(web: WebNode) -> socket.socket:
    return socket.create_connection(("127.0.0.1", web.port), timeout=20)


def stored(web: WebNode, number: int) -> bytes:
    instance = web.node.archive.open_instance(f"1.2.3.1.{number}")
    return instance.pread(instance.meta_length, instance.length - instance.meta_length)


def test_one_connection_takes_one_after_the_other_large_and_small(web: WebNode, taken_over: list[SocketBody]) -> None:
    sizes = [2 * MB, 100, 3 * MB, MB]
    with connected(web) as connection:
        for number, size in enumerate(sizes, 1):
            body = multipart([file(number, size)])
            connection.sendall(head(len(body)) + body)
            assert answer(connection)[0] == 200
            assert file(number, size).endswith(stored(web, number))
    assert len(taken_over) == 3


def test_a_request_that_follows_at_once_is_not_swallowed(web: WebNode, taken_over: list[SocketBody]) -> None:
    first, second = multipart([file(1)]), multipart([file(2)])
    with connected(web) as connection:
        connection.sendall(head(len(first)) + first + head(len(second)) + second)
        assert [answer(connection)[0], answer(connection)[0]] == [200, 200]
    assert len(stored(web, 1)) == len(stored(web, 2)) > MB
    assert taken_over


@pytest.mark.parametrize("cut", [1, 40, MB // 2])
def test_however_it_is_cut(web: WebNode, cut: int) -> None:
    body = multipart([file(1, 300_000), file(2, 300_000)])
    with connected(web) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in (0, 200, len(body) - cut):
            end = {0: 200, 200: len(body) - cut}.get(start, len(body))
            connection.sendall((head(len(body)) if not start else b"") + body[start:end])
        assert answer(connection)[0] == 200
    for number in (1, 2):
        assert file(number, 300_000).endswith(stored(web, number))


def test_who_waits_for_leave_to_send_gets_it(web: WebNode, taken_over: list[SocketBody]) -> None:
    body = multipart([file(1)])
    with connected(web) as connection:
        connection.sendall(head(len(body), "Expect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert answer(connection)[0] == 200
    assert taken_over


def test_a_refusal_in_the_middle_leaves_the_connection_usable(web: WebNode, taken_over: list[SocketBody]) -> None:
    body = multipart([file(1), file(2, 5 * MB), file(3)])  # the second is larger than allowed
    with connected(web) as connection:
        connection.sendall(head(len(body)) + body)
        status, said = answer(connection)
        assert (status, "4194304" in said["error"]) == (413, True)
        again = multipart([file(4)])
        connection.sendall(head(len(again)) + again)
        assert answer(connection)[0] == 200
    assert len(stored(web, 1)) > MB
    assert len(taken_over) == 2


def test_who_does_not_get_on_is_told_so(web: WebNode, taken_over: list[SocketBody]) -> None:
    body = multipart([file(1), file(2)])
    with connected(web) as connection:
        connection.sendall(head(len(body)) + body[: len(body) - 1000])
        status, said = answer(connection)
    assert (status, "get on" in said["error"]) == (408, True)
    assert len(stored(web, 1)) > MB
    assert taken_over
    assert len(body) > WORTH_IT


def test_who_dies_leaves_nothing_open(web: WebNode, taken_over: list[SocketBody]) -> None:
    body = multipart([file(1), file(2)])
    for _ in range(3):
        with connected(web) as connection:
            connection.sendall(head(len(body)) + body[:MB])
    until(lambda: len(taken_over) == 3 and all(each._socket.fileno() < 0 for each in taken_over))
    until(lambda: not opened(web))
    assert web.store([file(1), file(2)]).status_code == 200


def opened(web: WebNode) -> int:
    with web.node.database.read() as connection:
        query = select(func.count()).select_from(association).where(association.c.closed_at.is_(None))
        return int(connection.execute(query).scalar_one())
