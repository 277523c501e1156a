"""Every split of a message into PDVs, PDUs and TCP reads is the same message, here and to pynetdicom (PS3.8 annex E)."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pynetdicom import AE, evt

from dicom_node.dimse.connection import Connection
from dicom_node.dimse.errors import ConnectionLost
from dicom_node.dimse.message import decode_command, encode_store_request
from tests.dimse import CT, IMPLICIT, Node, p_data, pdv, raw_association, receive_pdu, receiver

COMMAND = encode_store_request(7, CT, "1.2.3")


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut, at positions modulo the length; equal cuts give empty pieces."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@dataclass(frozen=True)
class Split:
    data: bytes
    stream: bytes
    reads: list[bytes]


@st.composite
def splits(draw: st.DrawFn, largest: int = 3000) -> Split:
    cuts = st.lists(st.integers(0, largest), max_size=6)
    data = draw(st.binary(max_size=60)) * draw(st.integers(0, largest // 60))
    data += b"\0" * (len(data) % 2)
    pdvs = []
    for control, whole in ((1, COMMAND), (0, data)):
        parts = pieces(whole, draw(cuts))
        pdvs += [pdv(1, control | (2 if n == len(parts) - 1 else 0), part) for n, part in enumerate(parts)]
    pdus, group = [], []
    for one in pdvs:
        group.append(one)
        if draw(st.booleans()):
            pdus.append(p_data(*group))
            group = []
    if group:
        pdus.append(p_data(*group))
    stream = b"".join(pdus)
    return Split(data, stream, [part for part in pieces(stream, draw(cuts)) if part])


class Reads:
    """A socket whose every read returns what it was given as one read."""

    def __init__(self, reads: list[bytes]) -> None:
        self.reads = list(reads)

    def recv_into(self, view: memoryview) -> int:
        if not self.reads:
            return 0
        data = self.reads.pop(0)
        taken = min(len(view), len(data))
        view[:taken] = data[:taken]
        if taken < len(data):
            self.reads.insert(0, data[taken:])
        return taken

    def settimeout(self, seconds: float | None) -> None: ...

    def setsockopt(self, *option: object) -> None: ...


@settings(max_examples=300, deadline=None)
@given(split=splits(), again=splits(), byte_by_byte=st.booleans())
def test_the_connection_joins_what_was_split(split: Split, again: Split, byte_by_byte: bool) -> None:
    stream = split.stream + again.stream
    reads = [stream[n : n + 1] for n in range(len(stream))] if byte_by_byte else split.reads + again.reads
    connection = Connection(Reads(reads), max_pdu=8192)  # type: ignore[arg-type]
    for expected in (split.data, again.data):
        context, command = connection.read_command()
        assert (context, command) == (1, COMMAND)
        connection.expect_data_set()
        got, last = b"", False
        while not last:
            views, last = connection.read_data(1)
            got += b"".join(views)
        assert got == expected
    with pytest.raises(ConnectionLost):
        connection.read_command()


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with receiver(stall=5.0) as node:
        yield node


@pytest.fixture(scope="module")
def independent() -> Iterator[tuple[int, dict[str, bytes]]]:
    received: dict[str, bytes] = {}

    def handle(event: evt.Event) -> int:
        received[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return 0

    ae = AE("NODE")
    ae.add_supported_context(CT, [IMPLICIT])
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    yield server.socket.getsockname()[1], received
    server.shutdown()


def answer_of(port: int, split: Split) -> dict[int, bytes]:
    with raw_association(port) as sock:
        for part in split.reads:
            sock.sendall(part)
        kind, body = receive_pdu(sock)
        assert kind == 4
        sock.sendall(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00")
        assert receive_pdu(sock)[0] == 6
        return decode_command(body[6:]).elements


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(split=splits())
def test_same_instance_and_same_answer_as_pynetdicom(node: Node, independent: tuple[int, dict[str, bytes]], split: Split) -> None:
    if not split.data:  # pynetdicom takes an empty data set for none; we store it
        return
    port, received = independent
    node.archive.instances.clear()
    received.clear()
    assert answer_of(node.port, split) == answer_of(port, split)
    assert node.archive.instances["1.2.3"].data == received["1.2.3"] == split.data


def test_a_whole_instance_in_one_pdu_byte_by_byte(node: Node) -> None:
    data = bytes(range(200))
    node.archive.instances.clear()
    stream = p_data(pdv(1, 3, COMMAND), pdv(1, 0, b""), pdv(1, 0, data), pdv(1, 2, b""))
    with raw_association(node.port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(len(stream)):
            sock.send(stream[n : n + 1])
        assert decode_command(receive_pdu(sock)[1][6:]).status == 0
    assert node.archive.instances["1.2.3"].data == data
