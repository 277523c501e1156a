"""Peers that break PS3.7 and PS3.8, in every state; the receiver answers as it must and stays up."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node.dimse import pdu
from dicom_node.dimse.contexts import VERIFICATION
from dicom_node.dimse.message import (
    C_CANCEL_RQ,
    Command,
    decode_command,
    encode_command,
    encode_echo_request,
    encode_store_request,
    frame_command,
    us,
)
from tests.dimse import CT, IMPLICIT, Node, p_data, pdv, raw_association, raw_socket, receive_pdu, receiver, request_pdu, until

STORE = encode_store_request(7, CT, "1.2.3")
BOTH = [(CT, [IMPLICIT]), (VERIFICATION, [IMPLICIT])]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with receiver(pre_association_deadline=2.0, stall=2.0) as node:
        yield node


@pytest.fixture(autouse=True)
def alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """After whatever was sent: an echo works, and nothing is left behind."""
    yield
    if "node" in request.fixturenames:
        node: Node = request.getfixturevalue("node")
        assert echo(node.port) == 0
        until(lambda: node.server.associations == 0 and node.archive.sessions == 0)
        node.archive.instances.clear()
        node.archive.abandoned.clear()


def response(sock: socket.socket) -> Command:
    kind, body = receive_pdu(sock)
    assert kind == pdu.P_DATA, f"PDU of type {kind}"
    return decode_command(body[6:])


def echo(port: int) -> int:
    with raw_association(port, BOTH) as sock:
        sock.sendall(frame_command(3, encode_echo_request(1)))
        status = response(sock).status
        release(sock)
    return status


def release(sock: socket.socket) -> None:
    sock.sendall(pdu.RELEASE_RQ_PDU)
    assert receive_pdu(sock) == (pdu.RELEASE_RP, bytes(4))


def assert_aborted(sock: socket.socket, reason: int | None = None) -> None:
    """The next PDU is an A-ABORT of the provider, and then the end."""
    kind, body = receive_pdu(sock)
    assert kind == pdu.ABORT
    assert body[2] == 2
    if reason is not None:
        assert body[3] == reason
    assert sock.recv(1) == b""


# ---------------------------------------------------------------- negotiation


def test_no_request_first(node: Node) -> None:
    wrong = [(pdu.RELEASE_RQ_PDU, 2), (p_data(pdv(1, 3, STORE)), 2), (b"\x08\x00\x00\x00\x00\x00", 1), (b"GET / HTTP/1.1\r\n\r\n", 1)]
    for first, reason in wrong:
        with raw_socket(node.port) as sock:
            sock.sendall(first)
            assert_aborted(sock, reason)


def test_request_longer_than_the_cap(node: Node) -> None:
    with raw_socket(node.port) as sock:
        sock.sendall(b"\x01\x00" + (1_048_577).to_bytes(4, "big"))
        assert_aborted(sock, 6)


def test_malformed_requests(node: Node) -> None:
    good = request_pdu(BOTH)
    for damaged in (good[6:40], good[6:80], good[6:-3], b"", good[6:74] + b"\x20\x00\xff\xff" + good[78:]):
        with raw_socket(node.port) as sock:
            sock.sendall(b"\x01\x00" + len(damaged).to_bytes(4, "big") + damaged)
            assert_aborted(sock, 6)


@pytest.mark.parametrize(
    ("changes", "rejection"),
    [
        ({"called_ae": "ELSE"}, (1, 1, 7)),
        ({"calling_ae": " "}, (1, 1, 3)),
        ({"application_context": "1.2.3"}, (1, 1, 2)),
    ],
)
def test_rejections(node: Node, changes: dict[str, str], rejection: tuple[int, int, int]) -> None:
    with raw_socket(node.port) as sock:
        sock.sendall(request_pdu(BOTH, **changes))
        kind, body = receive_pdu(sock)
        assert (kind, tuple(body[1:])) == (pdu.ASSOCIATE_RJ, rejection)
        assert sock.recv(1) == b""


def test_wrong_protocol_version(node: Node) -> None:
    data = bytearray(request_pdu(BOTH))
    data[6:8] = b"\x00\x02"
    with raw_socket(node.port) as sock:
        sock.sendall(data)
        assert receive_pdu(sock) == (pdu.ASSOCIATE_RJ, bytes((0, 1, 2, 2)))


def test_an_asynchronous_window_is_answered_by_one(node: Node) -> None:
    with raw_socket(node.port) as sock:
        sock.sendall(request_pdu(BOTH, user=pdu.UserInformation(max_length=0, async_window=(8, 8))))
        accept = pdu.parse_associate_accept(receive_pdu(sock)[1])
        assert accept.user.async_window == (1, 1)
        assert accept.user.max_length == node.server.settings.max_pdu
        release(sock)


def test_padded_uids_are_accepted(node: Node) -> None:
    with raw_association(node.port, [(CT + "\0", [IMPLICIT + " "])]) as sock:
        command = encode_command([(0x0002, CT.encode() + b"\0"), (0x0100, us(1)), (0x0110, us(1)), (0x0800, us(1)), (0x1000, b"1.2.04 ")])
        sock.sendall(p_data(pdv(1, 3, command), pdv(1, 2, b"1234")))
        assert response(sock).status == 0
        release(sock)
    assert list(node.archive.instances) == ["1.2.04"]


@pytest.mark.parametrize("max_length", [1, 7, 20, 0])
def test_answers_fit_the_peers_maximum(node: Node, max_length: int) -> None:
    with raw_association(node.port, BOTH, user=pdu.UserInformation(max_length=max_length)) as sock:
        sock.sendall(frame_command(3, encode_echo_request(1)))
        data, last = b"", False
        while not last:
            kind, body = receive_pdu(sock)
            assert kind == pdu.P_DATA
            assert len(body) <= max(max_length, 7) or not max_length
            data, last = data + body[6:], bool(body[5] & 2)
        assert decode_command(data).status == 0
        release(sock)


# ------------------------------------------------------------------- messages


def test_abort_and_disappearance_in_the_middle_abandon_the_instance(node: Node) -> None:
    for end in (pdu.encode_abort(0, 0), pdu.RELEASE_RQ_PDU, b"", b"\x04\x00"):
        with raw_association(node.port) as sock:
            sock.sendall(p_data(pdv(1, 3, STORE), pdv(1, 0, b"12")) + end)
            sock.shutdown(socket.SHUT_WR)
            until(lambda: node.archive.abandoned == ["1.2.3"])
        node.archive.abandoned.clear()
    assert node.archive.instances == {}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (p_data(pdv(1, 2, b"data first")), 2),
        (p_data(pdv(1, 3, STORE), pdv(1, 3, STORE)), 2),
        (p_data(pdv(1, 3, STORE), pdv(3, 2, b"12")), 2),
        (p_data(pdv(1, 1, STORE[:20]), pdv(3, 3, STORE[20:])), 6),
        (p_data(pdv(1, 1, STORE[:20]), pdv(1, 2, b"data")), 2),
        (p_data(pdv(5, 3, STORE)), 5),
        (p_data(pdv(1, 3, STORE[:-1])), 6),
        (p_data(pdv(1, 3, b"")), 6),
        (p_data(b"\x00\x00\x00\x01\x01"), 6),
        (p_data(b"\x00\x00\x00\x01\x01\x03"), 6),
        (p_data(b"\x00\x00\x00\x00\x01\x03"), 6),
        (p_data(b"\x00\x00\xff\xff\x01\x03"), 6),
        (p_data(b"\xff\xff\xff\xff\x01\x03"), 6),
        (b"\x04\x00\xff\xff\xff\xff", 6),
        (b"\x04\x00" + (131_073).to_bytes(4, "big"), 6),
        (request_pdu([(CT, [IMPLICIT])]), 2),
        (pdu.encode_associate_reject(1, 1, 1), 2),
        (pdu.RELEASE_RP_PDU, 2),
        (b"\x05\x00\x00\x00\x00\x08" + bytes(8), 6),
        (b"\x09\x00\x00\x00\x00\x04" + bytes(4), 1),
        (b"\x00" * 10, 1),
        (p_data(pdv(1, 1, b"x" * 60_000)) * 2, 6),
    ],
)
def test_protocol_errors_abort_the_association(node: Node, sent: bytes, reason: int) -> None:
    with raw_association(node.port, BOTH) as sock:
        sock.sendall(sent)
        assert_aborted(sock, reason)
    assert node.archive.instances == {}


def test_silence_inside_a_message_ends_it(node: Node) -> None:
    with raw_association(node.port) as sock:
        sock.sendall(p_data(pdv(1, 3, STORE), pdv(1, 0, b"12")))
        assert_aborted(sock)
    until(lambda: node.archive.abandoned == ["1.2.3"])


def test_empty_pdus_and_empty_pdvs_between_messages(node: Node) -> None:
    with raw_association(node.port) as sock:
        sock.sendall(p_data() + p_data(pdv(1, 1, b"")) + p_data(pdv(1, 3, STORE)) + p_data() + p_data(pdv(1, 0, b""), pdv(1, 2, b"12")))
        assert response(sock).status == 0
        sock.sendall(p_data(pdv(1, 0, b"")) + p_data(pdv(1, 3, STORE), pdv(1, 2, b"12")))
        assert response(sock).status == 0
        release(sock)


def test_cancel_and_stray_responses_are_passed_over(node: Node) -> None:
    cancel = encode_command([(0x0100, us(C_CANCEL_RQ)), (0x0120, us(7)), (0x0800, us(0x0101))])
    stray = encode_command([(0x0100, us(0x8001)), (0x0120, us(7)), (0x0800, us(0x0101)), (0x0900, us(0))])
    with raw_association(node.port, BOTH) as sock:
        sock.sendall(frame_command(1, cancel) + frame_command(1, stray) + frame_command(3, encode_echo_request(9)))
        assert response(sock).message_id == 9
        release(sock)


def test_an_operation_that_the_service_does_not_have(node: Node) -> None:
    find = encode_command([(0x0002, CT.encode() + b"\0"), (0x0100, us(0x20)), (0x0110, us(3)), (0x0700, us(0)), (0x0800, us(1))])
    with raw_association(node.port, BOTH) as sock:
        sock.sendall(p_data(pdv(1, 3, find), pdv(1, 2, b"identifier")))
        assert (answer := response(sock)).status == 0x0211
        assert answer.message_id == 3
        sock.sendall(frame_command(3, find.replace(CT.encode() + b"\0", VERIFICATION.encode() + b"\0" * 9)[:-2] + us(0x0101)))
        assert response(sock).status == 0x0211
        release(sock)


def test_a_class_other_than_the_contexts(node: Node) -> None:
    with raw_association(node.port) as sock:
        sock.sendall(p_data(pdv(1, 3, encode_store_request(1, CT + ".1", "1.2.3")), pdv(1, 2, b"12")))
        assert response(sock).status == 0x0122
        release(sock)


def test_a_store_without_a_data_set(node: Node) -> None:
    command = encode_command([(0x0002, CT.encode() + b"\0"), (0x0100, us(1)), (0x0110, us(3)), (0x0800, us(0x0101)), (0x1000, b"1.2.3\0")])
    with raw_association(node.port) as sock:
        sock.sendall(frame_command(1, command))
        assert response(sock).status == 0xC000
        release(sock)


def test_pipelined_requests_are_answered_in_order(node: Node) -> None:
    with raw_association(node.port) as sock:
        for number in range(1, 51):
            sock.sendall(p_data(pdv(1, 3, encode_store_request(number, CT, f"1.2.{number}")), pdv(1, 2, bytes(1000))))
        assert [response(sock).message_id for _ in range(50)] == list(range(1, 51))
        release(sock)


def test_a_peer_that_stops_reading_is_given_up() -> None:
    with receiver(send_deadline=0.3, stall=5.0) as node, raw_association(node.port, BOTH) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(0.5)
        requests = frame_command(3, encode_echo_request(1)) * 1000
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(requests)
        until(lambda: node.server.associations == 0)


# ----------------------------------------------------------------------- fuzz


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(min_size=1, max_size=300), associated=st.booleans(), header=st.integers(0, 9))
def test_noise(node: Node, noise: bytes, associated: bool, header: int) -> None:
    noise = bytes((header, 0)) + len(noise).to_bytes(4, "big") + noise if header else noise
    opened = raw_association(node.port, BOTH) if associated else raw_socket(node.port)
    with opened as sock, contextlib.suppress(OSError):
        sock.sendall(noise)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass


def test_damaged_streams(node: Node) -> None:
    chance = random.Random(1)
    stream = p_data(pdv(1, 3, STORE)) + p_data(pdv(1, 0, bytes(500)), pdv(1, 2, bytes(300))) + frame_command(3, encode_echo_request(2))
    for _ in range(200):
        damaged = bytearray(stream)
        for _ in range(chance.randint(1, 5)):
            damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 2, 0xFF, chance.randrange(256)))
        with raw_association(node.port, BOTH) as sock, contextlib.suppress(OSError):
            sock.sendall(damaged[: chance.randint(1, len(damaged))])
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
