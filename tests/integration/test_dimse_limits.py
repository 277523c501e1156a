"""Limits: silent, slow and too many clients, memory, descriptors, and a clean stop."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dicom_node.dimse import pdu
from dicom_node.dimse.contexts import VERIFICATION
from dicom_node.dimse.errors import AssociationRejected, DimseError
from dicom_node.dimse.message import decode_command, encode_store_request
from dicom_node.dimse.scu import StoreItem, Timeouts, associate, echo_contexts
from dicom_node.dimse.testing import DiscardingSession
from tests.dimse import CT, IMPLICIT, Node, p_data, pdv, raw_association, raw_socket, receive_pdu, receiver, request_pdu, until

QUICK = Timeouts(connect=5, association=5, response=5, send=5)


def echo_seconds(port: int) -> float:
    before = time.perf_counter()
    with associate("127.0.0.1", port, calling_ae="KNOWN", called_ae="NODE", contexts=echo_contexts(), timeouts=QUICK) as association:
        assert association.echo() == 0
    return time.perf_counter() - before


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Room for some thousand sockets, both ends of which are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def silent(descriptors: None) -> Iterator[Callable[[int, int], list[socket.socket]]]:
    """Open many sockets that say nothing."""
    with contextlib.ExitStack() as stack:

        def open_many(port: int, count: int) -> list[socket.socket]:
            return [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]

        yield open_many


def sending(port: int, stop: threading.Event, size: int = 200_000) -> int:
    sent = 0
    data = bytes(size)
    item = StoreItem(CT, "1.2.3", IMPLICIT, size, lambda: [data])  # type: ignore[arg-type, return-value]
    with associate("127.0.0.1", port, calling_ae="S", called_ae="NODE", contexts=[(CT, [IMPLICIT])], timeouts=Timeouts()) as association:
        while not stop.is_set():
            assert association.store(item).ok
            sent += 1
    return sent


@pytest.mark.slow
@pytest.mark.parametrize("max_pending", [512, 4096])
def test_echo_beside_64_senders_and_1000_silent_sockets(max_pending: int, silent: Callable[[int, int], list[socket.socket]]) -> None:
    """Both where the silent ones are evicted, and where they all wait."""
    limits = {"max_pending": max_pending, "per_address": max_pending, "pre_association_deadline": 60.0}
    with receiver(open_session=DiscardingSession, **limits) as node:
        threads_before = threading.active_count()
        silent(node.port, 1000)
        until(lambda: node.server.pending == min(1000, max_pending))
        assert threading.active_count() == threads_before
        stop, counts = threading.Event(), []
        senders = [threading.Thread(target=lambda: counts.append(sending(node.port, stop))) for _ in range(64)]
        for sender in senders:
            sender.start()
        try:
            until(lambda: node.server.associations == 64)
            seconds = [echo_seconds(node.port) for _ in range(10)]
        finally:
            stop.set()
            for sender in senders:
                sender.join()
        print(f"echo {max(seconds):.3f} s at most, {sum(counts)} instances meanwhile")
        assert len(counts) == 64
        assert max(seconds) < 1.0


def test_silent_sockets_go_at_the_deadline() -> None:
    with receiver(pre_association_deadline=0.2) as node, raw_socket(node.port) as mute, raw_socket(node.port) as slow:
        slow.sendall(b"\x01\x00\x00\x00")
        assert mute.recv(1) == b""
        assert slow.recv(1) == b""


def test_a_byte_now_and_then_does_not_extend_the_deadline() -> None:
    request = request_pdu([(CT, [IMPLICIT])])
    with receiver(pre_association_deadline=0.3) as node, raw_socket(node.port) as slow:
        before = time.monotonic()
        slow.settimeout(0.02)
        closed = False
        for n in range(len(request)):
            with contextlib.suppress(TimeoutError):
                try:
                    slow.sendall(request[n : n + 1])
                    closed = slow.recv(1) == b""
                except ConnectionError:
                    closed = True
            if closed:
                break
        assert closed
        assert time.monotonic() - before < 2.0


def test_a_message_of_one_byte_at_a_time_is_given_up() -> None:
    with receiver(stall=0.2) as node, raw_association(node.port) as sock:
        stream = p_data(pdv(1, 3, encode_store_request(1, CT, "1.2.3")), pdv(1, 0, bytes(10_000)))
        sock.settimeout(0.05)
        before = time.monotonic()
        answer = b""
        for n in range(len(stream)):
            sock.sendall(stream[n : n + 1])
            with contextlib.suppress(TimeoutError):
                answer = sock.recv(10)
                break
        assert answer[:1] == bytes((pdu.ABORT,))
        assert time.monotonic() - before < 3.0


def test_one_association_too_many_is_rejected_as_transient() -> None:
    with receiver(max_associations=2) as node, raw_association(node.port), raw_association(node.port):
        with pytest.raises(AssociationRejected, match="local limit") as caught:
            echo_seconds(node.port)
        assert (caught.value.result, caught.value.source, caught.value.reason) == (2, 3, 2)
        assert caught.value.transient


def test_room_is_given_back() -> None:
    with receiver(max_associations=1) as node:
        for _ in range(20):
            until(lambda: node.server.associations == 0)
            echo_seconds(node.port)


def test_one_address_does_not_take_every_place() -> None:
    with receiver(per_address=2) as node, raw_association(node.port), raw_association(node.port):
        with pytest.raises(AssociationRejected, match="local limit"):
            echo_seconds(node.port)
        with socket.create_connection(("127.0.0.1", node.port), source_address=("127.0.0.2", 0), timeout=5) as other:
            other.sendall(request_pdu([(VERIFICATION, [IMPLICIT])]))
            assert receive_pdu(other)[0] == pdu.ASSOCIATE_AC


@pytest.mark.slow
def test_ten_thousand_connects_and_aborts_leave_nothing(descriptors: None) -> None:
    request = request_pdu([(CT, [IMPLICIT])])
    with receiver(open_session=DiscardingSession) as node:
        echo_seconds(node.port)

        def one(n: int) -> None:
            with raw_socket(node.port) as sock:
                if n % 4 == 0:
                    return
                sock.sendall(request if n % 4 > 1 else request[:50])
                if n % 4 == 3:
                    with contextlib.suppress(OSError, EOFError):
                        receive_pdu(sock)
                        sock.sendall(pdu.encode_abort(0, 0))

        for n in range(500):
            one(n)
        until(lambda: node.server.associations == 0 and node.server.pending == 0)
        open_before, memory_before = open_descriptors(), psutil.Process().memory_info().rss
        threads_before = threading.active_count()
        slowest = 0.0
        for n in range(10_000):
            one(n)
            if n % 1000 == 0:
                slowest = max(slowest, echo_seconds(node.port))
        until(lambda: node.server.associations == 0 and node.server.pending == 0)
        until(lambda: open_descriptors() <= open_before + 5)
        assert threading.active_count() <= threads_before
        assert psutil.Process().memory_info().rss - memory_before < 32 * 1024 * 1024
        assert slowest < 1.0


def test_memory_does_not_grow_with_the_instance() -> None:
    size = 400 * 1024 * 1024
    chunk = memoryview(bytes(1024 * 1024))
    peak = 0
    process = psutil.Process()

    def chunks() -> Iterator[memoryview]:
        nonlocal peak
        for _ in range(size // len(chunk)):
            peak = max(peak, process.memory_info().rss)
            yield chunk

    with receiver(open_session=DiscardingSession) as node:
        echo_seconds(node.port)
        before = process.memory_info().rss
        contexts = [(CT, [IMPLICIT])]
        with associate("127.0.0.1", node.port, calling_ae="S", called_ae="NODE", contexts=contexts) as association:
            assert association.store(StoreItem(CT, "1.2.3", IMPLICIT, size, chunks)).ok
    assert peak - before < 16 * 1024 * 1024


def test_out_of_descriptors_is_survived(silent: Callable[[int, int], list[socket.socket]]) -> None:
    with receiver(max_pending=4096, per_address=4096, pre_association_deadline=60.0) as node:
        echo_seconds(node.port)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 60, hard))
        opened: list[socket.socket] = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    opened += silent(node.port, 1)
            assert len(opened) >= 25
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert echo_seconds(node.port) < 1.0


# ----------------------------------------------------------------------- stop


class Gate:
    """An archive step that waits until it is let through."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, step: str, uid: str) -> None:
        if step == "commit":
            self.reached.set()
            assert self.open.wait(10)


def half_way(node: Node) -> tuple[Gate, contextlib.ExitStack, socket.socket]:
    gate = Gate()
    node.archive.fail = gate
    stack = contextlib.ExitStack()
    sock = stack.enter_context(raw_association(node.port))
    sock.sendall(p_data(pdv(1, 3, encode_store_request(1, CT, "1.2.3")), pdv(1, 2, b"12")))
    assert gate.reached.wait(5)
    return gate, stack, sock


def test_stop_ends_idle_associations_and_lets_an_instance_finish() -> None:
    with receiver() as node, raw_association(node.port) as idle:
        gate, stack, busy = half_way(node)
        stopping = threading.Thread(target=node.server.stop, args=(10.0,))
        stopping.start()
        assert receive_pdu(idle)[0] == pdu.ABORT
        gate.open.set()
        kind, body = receive_pdu(busy)
        assert (kind, decode_command(body[6:]).status) == (pdu.P_DATA, 0)
        assert receive_pdu(busy)[0] == pdu.ABORT
        stopping.join(5)
        assert not stopping.is_alive()
        stack.close()
        assert node.hooks.events[-1] == ("closed", "stopped")
        with pytest.raises(DimseError):
            echo_seconds(node.port)


def test_stop_does_not_wait_for_ever_for_an_instance() -> None:
    with receiver() as node, raw_association(node.port) as sock:
        sock.sendall(p_data(pdv(1, 3, encode_store_request(1, CT, "1.2.3")), pdv(1, 0, b"12")))
        until(lambda: node.archive.sessions == 1)
        before = time.monotonic()
        node.server.stop(0.2)
        assert time.monotonic() - before < 2.0
        assert node.archive.abandoned == ["1.2.3"]
        assert receive_pdu(sock)[0] == pdu.ABORT


def test_stop_and_start_on_the_same_port() -> None:
    with receiver() as node:
        port = node.port
        echo_seconds(port)
    arguments: dict[str, Any] = {"port": port}
    with receiver(**arguments) as node:
        echo_seconds(node.port)
