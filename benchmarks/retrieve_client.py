"""Clients of C-GET and C-MOVE that are no bottleneck: plain sockets that take PDUs apart where they lie and drop the data.

The destination of C-MOVE is another socket of the same kind, in a thread of its own.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from benchmarks.load import RELEASE_RQ, LoadError, element, p_data
from dicom_node.dimse import pdu

STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
C_STORE_RQ = 0x0001
PENDING = 0xFF00


@dataclass
class Taken:
    """What came by C-STORE; digests of the data sets where they were asked for."""

    instances: int = 0
    size: int = 0
    digests: dict[str, str] = field(default_factory=dict)


class Stream:
    """A socket that messages come in on."""

    def __init__(self, sock: socket.socket, taken: Taken, *, verify: bool = False) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self._taken = taken
        self._verify = verify
        self._buffer = bytearray(4 << 20)
        self._view = memoryview(self._buffer)
        self._position = self._end = 0

    def _need(self, count: int) -> None:
        while self._end - self._position < count:
            if self._position == self._end:
                self._position = self._end = 0
            elif len(self._buffer) - self._position < count:
                left = self._end - self._position
                self._view[:left] = self._view[self._position : self._end]
                self._position, self._end = 0, left
            got = self.socket.recv_into(self._view[self._end :])
            if not got:
                raise LoadError("the peer closed the connection")
            self._end += got

    def read_pdu(self) -> tuple[int, memoryview]:
        """Return type and body of the next PDU, valid until the next."""
        self._need(6)
        kind, length = self._buffer[self._position], int.from_bytes(self._view[self._position + 2 : self._position + 6], "big")
        self._need(6 + length)
        start = self._position + 6
        self._position = start + length
        return kind, self._view[start : start + length]

    def next_response(self) -> dict[int, bytes] | None:
        """Take C-STOREs and answer them until a response comes, which is returned; None at a release."""
        command, wanted, has_data = b"", {}, False
        digest = hashlib.md5()
        while True:
            kind, body = self.read_pdu()
            if kind == pdu.RELEASE_RQ:
                self.socket.sendall(pdu.RELEASE_RP_PDU)
                return None
            if kind != pdu.P_DATA:
                raise LoadError(f"PDU of type {kind}")
            at, end = 0, len(body)
            while at < end:
                length, context, control = struct.unpack_from(">LBB", body, at)
                value = body[at + 6 : at + 4 + length]
                at += 4 + length
                if control & 1:
                    command += value
                    if not control & 2:
                        continue
                    wanted, command = parse(command), b""
                    has_data = wanted[0x0800] != b"\x01\x01"
                elif wanted[0x0100] == b"\x01\x00":
                    self._taken.size += len(value)
                    if self._verify:
                        digest.update(value)
                if control & 2 and (not control & 1 or not has_data):
                    if wanted[0x0100] != b"\x01\x00":
                        return wanted
                    self._stored(context, wanted, digest)
                    digest = hashlib.md5()

    def _stored(self, context: int, request: dict[int, bytes], digest: hashlib._Hash) -> None:
        self._taken.instances += 1
        if self._verify:
            self._taken.digests[request[0x1000].decode().strip(" \0")] = digest.hexdigest()
        body = (
            element(0x0002, request[0x0002])
            + element(0x0100, b"\x01\x80")
            + element(0x0120, request[0x0110])
            + element(0x0800, b"\x01\x01")
            + element(0x0900, b"\0\0")
            + element(0x1000, request[0x1000])
        )
        self.socket.sendall(p_data(context, 3, element(0, struct.pack("<I", len(body))) + body))


def parse(command: bytes) -> dict[int, bytes]:
    """Return a command set's values by element number."""
    values, at = {}, 0
    while at < len(command):
        _, number, length = struct.unpack_from("<HHI", command, at)
        values[number] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return values


def padded(text: str, pad: bytes = b"\0") -> bytes:
    """Return a value of even length."""
    raw = text.encode()
    return raw + pad * (len(raw) % 2)


class Destination:
    """A C-STORE SCP that drops what it gets, for one association after the other."""

    def __init__(self, title: str, max_pdu: int) -> None:
        self.title = title
        self.max_pdu = max_pdu
        self.verify = False
        self.taken = Taken()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            with sock:
                try:
                    self._associate(sock)
                except (OSError, LoadError):
                    continue

    def _associate(self, sock: socket.socket) -> None:
        stream = Stream(sock, self.taken, verify=self.verify)
        kind, body = stream.read_pdu()
        if kind != pdu.ASSOCIATE_RQ:
            raise LoadError("no association request")
        request = pdu.parse_associate_request(bytes(body))
        results = [
            pdu.ContextResult(each.id, 0 if EXPLICIT_VR_LITTLE_ENDIAN in each.transfer_syntaxes else 4, EXPLICIT_VR_LITTLE_ENDIAN)
            for each in request.contexts
        ]
        sock.sendall(pdu.encode_associate_accept(request, results, pdu.UserInformation(max_length=self.max_pdu)))
        while stream.next_response() is not None:
            continue

    def close(self) -> None:
        self._listening.close()


def retrieve(
    port: int, called: str, study: str, *, max_pdu: int, destination: str | None, taken: Taken, verify: bool = False
) -> dict[int, bytes]:
    """Associate, send one C-GET (or C-MOVE to ``destination``) of a study, and return the final response."""
    model = STUDY_ROOT_GET if destination is None else STUDY_ROOT_MOVE
    contexts: Sequence[tuple[str, str]] = [(model, IMPLICIT_VR_LITTLE_ENDIAN), (CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)]
    proposed = tuple(pdu.ProposedContext(2 * number + 1, abstract, (syntax,)) for number, (abstract, syntax) in enumerate(contexts))
    roles = {CT_IMAGE_STORAGE: (True, True)} if destination is None else {}
    user = pdu.UserInformation(max_length=max_pdu, roles=roles)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        stream = Stream(sock, taken, verify=verify)
        sock.sendall(pdu.encode_associate_request(pdu.AssociateRequest(called, "LOAD", proposed, user)))
        kind, body = stream.read_pdu()
        if kind != pdu.ASSOCIATE_AC:
            raise LoadError(f"association not accepted: PDU type {kind}")
        refused = [each for each in pdu.parse_associate_accept(bytes(body)).contexts if each.result]
        if any(each.id == 1 for each in refused):
            raise LoadError(f"{model} is not accepted")
        sock.sendall(p_data(1, 3, retrieve_command(model, destination)) + p_data(1, 2, identifier(study)))
        while True:
            response = stream.next_response()
            if response is None:
                raise LoadError("released before the final response")
            if int.from_bytes(response[0x0900], "little") != PENDING:
                sock.sendall(RELEASE_RQ)
                return response


def retrieve_command(model: str, destination: str | None) -> bytes:
    """Return the bytes of a C-GET-RQ or a C-MOVE-RQ."""
    body = element(0x0002, padded(model)) + element(0x0100, b"\x10\0" if destination is None else b"\x21\0") + element(0x0110, b"\x07\0")
    if destination is not None:
        body += element(0x0600, padded(destination, b" "))
    body += element(0x0700, b"\0\0") + element(0x0800, b"\x01\0")
    return element(0, struct.pack("<I", len(body))) + body


def identifier(study: str) -> bytes:
    """Return a study level identifier, Implicit VR Little Endian."""
    level, uid = padded("STUDY", b" "), padded(study)
    return struct.pack("<HHI", 8, 0x52, len(level)) + level + struct.pack("<HHI", 0x20, 0xD, len(uid)) + uid
