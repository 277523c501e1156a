"""The requesting side against pynetdicom, our own receiver, and peers that misbehave."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from dicom_node.dimse import pdu
from dicom_node.dimse.contexts import VERIFICATION
from dicom_node.dimse.errors import (
    AssociationAborted,
    AssociationRejected,
    AssociationReleased,
    ConnectFailed,
    ConnectionLost,
    ContextNotAccepted,
    DimseError,
    ProtocolError,
    Timeout,
)
from dicom_node.dimse.scu import Requestor, StoreItem, Timeouts, associate, echo_contexts
from tests.dimse import CT, EXPLICIT, IMPLICIT, receive_pdu, receiver, until

QUICK = Timeouts(connect=2, handshake=2, association=2, response=2, send=2)


def connect(port: int, contexts: Any = ((CT, (IMPLICIT,)), (VERIFICATION, (IMPLICIT,))), **more: Any) -> Requestor:
    return associate("127.0.0.1", port, calling_ae="US", called_ae="NODE", contexts=contexts, **{"timeouts": QUICK, **more})


def item(data: bytes, uid: str = "1.2.3", chunk: int = 0) -> StoreItem:
    def chunks() -> Iterator[bytes]:
        for start in range(0, len(data), chunk):
            yield data[start : start + chunk]

    source: Callable[[], Any] = chunks if chunk else lambda: io.BytesIO(data)
    return StoreItem(CT, uid, IMPLICIT, len(data), source)


@contextlib.contextmanager
def pynetdicom_server(max_pdu: int = 16382, answer: Any = 0x0000) -> Iterator[tuple[int, list[bytes]]]:
    received: list[bytes] = []

    def handle(event: evt.Event) -> Any:
        received.append(event.request.DataSet.getvalue())
        return answer

    ae = AE("NODE")
    ae.maximum_pdu_size = max_pdu
    ae.add_supported_context(CT, [IMPLICIT, EXPLICIT])
    ae.add_supported_context(VERIFICATION)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    try:
        yield server.socket.getsockname()[1], received
    finally:
        server.shutdown()


@pytest.mark.parametrize("max_pdu", [0, 512, 16382, 262144])
@pytest.mark.parametrize("chunk", [0, 1000, 65536, 10_000_000])
def test_what_pynetdicom_receives_is_what_was_sent(max_pdu: int, chunk: int) -> None:
    payloads = [bytes(range(256)) * 4 * size for size in (1, 300)]
    with pynetdicom_server(max_pdu) as (port, received):
        with connect(port) as association:
            assert association.echo() == 0
            results = association.store_many([item(data, f"1.2.{n}", chunk) for n, data in enumerate(payloads)])
        assert [result.status for result in results] == [0, 0]
        assert all(result.ok for result in results)
        assert received == payloads


def test_status_and_comment_of_the_peer() -> None:
    answer = Dataset()
    answer.Status, answer.ErrorComment = 0xA700, "no room"
    with pynetdicom_server(answer=answer) as (port, _), connect(port) as association:
        result = association.store(item(b"12"))
        assert (result.status, result.comment, result.ok) == (0xA700, "no room", False)


def test_nobody_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        connect(port)
    assert caught.value.step == "tcp"


def test_rejection_says_why() -> None:
    with receiver() as node, pytest.raises(AssociationRejected, match="called AE title not recognized") as caught:
        associate("127.0.0.1", node.port, calling_ae="US", called_ae="OTHER", contexts=echo_contexts(), timeouts=QUICK)
    assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 7)
    assert not caught.value.transient


def test_context_not_accepted_sends_nothing_and_the_association_goes_on() -> None:
    with receiver() as node, connect(node.port, [("1.2.840.10008.5.1.4.1.2.2.1", [IMPLICIT]), (CT, [IMPLICIT])]) as association:
        with pytest.raises(ContextNotAccepted):
            association.echo()
        with pytest.raises(ContextNotAccepted, match=EXPLICIT):
            association.store(StoreItem(CT, "1.2.3", EXPLICIT, 2, lambda: io.BytesIO(b"12")))
        assert association.store(item(b"12")).ok


def test_too_many_contexts() -> None:
    with pytest.raises(ValueError, match="129"):
        connect(1, [(CT, [IMPLICIT])] * 129)


def test_a_source_that_cannot_be_opened_leaves_the_association_usable() -> None:
    def missing() -> Any:
        raise FileNotFoundError

    with receiver() as node, connect(node.port) as association:
        with pytest.raises(FileNotFoundError):
            association.store(StoreItem(CT, "1.2.3", IMPLICIT, 2, missing))
        assert association.store(item(b"12")).ok


@pytest.mark.parametrize("chunk", [0, 1000])
def test_a_source_that_ends_early_aborts(chunk: int) -> None:
    with receiver() as node, connect(node.port) as association:
        short = item(bytes(300_000), chunk=chunk)
        with pytest.raises(DimseError, match="bytes fewer"):
            association.store(StoreItem(short.sop_class_uid, short.sop_instance_uid, IMPLICIT, 400_000, short.open))
        # The abort reaches the receiver after the sender has given up: it is awaited before the receiver stops.
        until(lambda: node.archive.abandoned == ["1.2.3"])
    assert node.archive.instances == {}


@contextlib.contextmanager
def scripted(script: Callable[[socket.socket], None], *, hold: bool = False) -> Iterator[int]:
    """A peer that does what ``script`` says with the first connection, then closes it, or holds it without a word."""
    finished = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError, EOFError):
                script(sock)
                if hold:
                    finished.wait(20)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            finished.set()
            thread.join(10)


def accept(sock: socket.socket) -> None:
    _, body = receive_pdu(sock)
    request = pdu.parse_associate_request(body)
    results = [pdu.ContextResult(context.id, 0, context.transfer_syntaxes[0]) for context in request.contexts]
    sock.sendall(pdu.encode_associate_accept(request, results, pdu.UserInformation(max_length=16384)))


def test_silence_instead_of_an_answer_is_a_timeout() -> None:
    with scripted(lambda sock: None, hold=True) as port, pytest.raises(Timeout) as caught:
        connect(port, timeouts=Timeouts(association=0.2))
    assert caught.value.step == "association"


def test_silence_instead_of_a_response_is_a_timeout() -> None:
    with scripted(accept, hold=True) as port, pytest.raises(Timeout) as caught:
        with connect(port, timeouts=Timeouts(response=0.2)) as association:
            association.echo()
    assert caught.value.step == "echo"


def test_a_peer_that_stops_reading_is_a_timeout() -> None:
    with scripted(accept, hold=True) as port, pytest.raises(Timeout) as caught:
        with connect(port, timeouts=Timeouts(send=0.2)) as association:
            association.store(item(bytes(50_000_000)))
    assert caught.value.step == "store"


def _answers(*sent: bytes, read: bool = True) -> Callable[[socket.socket], None]:
    def script(sock: socket.socket) -> None:
        accept(sock)
        if read:
            receive_pdu(sock)
        for data in sent:
            sock.sendall(data)
        with contextlib.suppress(EOFError):
            while True:
                receive_pdu(sock)

    return script


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (pdu.encode_abort(2, 6), AssociationAborted),
        (pdu.RELEASE_RQ_PDU, AssociationReleased),
        (pdu.encode_associate_reject(1, 1, 1), ProtocolError),
        (b"\x09\x00\x00\x00\x00\x04\x00\x00\x00\x00", ProtocolError),
        (b"\x04\x00\xff\xff\xff\xff", ProtocolError),
    ],
)
def test_wrong_answers_are_errors_with_a_name(answer: bytes, error: type[DimseError]) -> None:
    with scripted(_answers(answer)) as port, pytest.raises(error) as caught, connect(port) as association:
        association.echo()
    assert caught.value.step == "echo"


def test_the_abort_of_a_peer_that_closed_while_we_sent_is_found() -> None:
    def script(sock: socket.socket) -> None:
        accept(sock)
        sock.sendall(pdu.encode_abort(2, 6))

    with scripted(script) as port, pytest.raises(AssociationAborted), connect(port) as association:
        association.store(item(bytes(50_000_000)))


def test_a_closed_connection_is_lost() -> None:
    with scripted(accept) as port, pytest.raises(ConnectionLost), connect(port) as association:
        association.echo()


def test_release_collision() -> None:
    collided: list[int] = []

    def script(sock: socket.socket) -> None:
        accept(sock)
        assert receive_pdu(sock)[0] == pdu.RELEASE_RQ
        sock.sendall(pdu.RELEASE_RQ_PDU)
        collided.append(receive_pdu(sock)[0])
        sock.sendall(pdu.RELEASE_RP_PDU)

    with scripted(script) as port:
        connect(port).release()
    assert collided == [pdu.RELEASE_RP]
