"""A receiver on loopback, and raw PDUs to send to it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association

from dicom_node.dimse import pdu
from dicom_node.dimse.admission import PeerAdmission, Unknown
from dicom_node.dimse.contexts import VERIFICATION, storage_classes
from dicom_node.dimse.server import Server, ServerSettings
from dicom_node.dimse.services.echo import EchoService
from dicom_node.dimse.services.store import StoreService
from dicom_node.dimse.testing import MemoryArchive, RememberingHooks

CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass
class Node:
    """A running receiver and what it stored."""

    server: Server
    archive: MemoryArchive
    hooks: RememberingHooks = field(default_factory=RememberingHooks)

    @property
    def port(self) -> int:
        return self.server.port


@contextlib.contextmanager
def receiver(
    *, admission: Any = None, archive: MemoryArchive | None = None, open_session: Callable[..., Any] | None = None, **settings: Any
) -> Iterator[Node]:
    """Run a receiver called NODE that lets anybody store, unless told otherwise."""
    archive = archive or MemoryArchive()
    store = StoreService(open_session or archive.session)
    services: dict[str, Any] = dict.fromkeys(storage_classes(), store)
    services[VERIFICATION] = EchoService()
    hooks = RememberingHooks()
    server = Server(
        ServerSettings(**{"host": "127.0.0.1", "port": 0, **settings}),
        services,
        admission or PeerAdmission(["NODE"], unknown=Unknown.STORE),
        hooks,
    )
    server.start()
    try:
        yield Node(server, archive, hooks)
    finally:
        server.stop(1.0)


@contextlib.contextmanager
def pynetdicom_client(port: int, contexts: list[tuple[str, Any]], *, title: str = "CLIENT") -> Iterator[Association]:
    """An independent client."""
    ae = AE(title)
    for abstract, transfer in contexts:
        ae.add_requested_context(abstract, transfer)
    association = ae.associate("127.0.0.1", port, ae_title="NODE")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def request_pdu(contexts: list[tuple[str, list[str]]], **changes: Any) -> bytes:
    """An A-ASSOCIATE-RQ."""
    proposed = tuple(pdu.ProposedContext(2 * i + 1, abstract, tuple(transfer)) for i, (abstract, transfer) in enumerate(contexts))
    values = {"called_ae": "NODE", "calling_ae": "RAW", "contexts": proposed, "user": pdu.UserInformation(max_length=16384), **changes}
    return pdu.encode_associate_request(pdu.AssociateRequest(**values))


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError(f"{len(data)} of {count} bytes")
        data += more
    return data


def receive_pdu(sock: socket.socket) -> tuple[int, bytes]:
    head = receive(sock, 6)
    return head[0], receive(sock, int.from_bytes(head[2:], "big"))


@contextlib.contextmanager
def raw_socket(port: int, timeout: float = 10.0) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


@contextlib.contextmanager
def raw_association(port: int, contexts: list[tuple[str, list[str]]] | None = None, **changes: Any) -> Iterator[socket.socket]:
    """A socket with an association on it; by default for CT in Implicit VR Little Endian on context 1."""
    with raw_socket(port) as sock:
        sock.sendall(request_pdu(contexts or [(CT, [IMPLICIT])], **changes))
        kind, _ = receive_pdu(sock)
        assert kind == pdu.ASSOCIATE_AC
        yield sock


def pdv(context: int, control: int, data: bytes) -> bytes:
    return (len(data) + 2).to_bytes(4, "big") + bytes((context, control)) + data


def p_data(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return b"\x04\x00" + len(body).to_bytes(4, "big") + body


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition that another thread brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition not met in time"
        time.sleep(0.005)
