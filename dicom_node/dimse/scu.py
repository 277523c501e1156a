"""The requesting side: associate, echo, store.

::

    with associate("pacs", 104, calling_ae="NODE", called_ae="PACS", contexts=[(SEG, [EXPLICIT])]) as association:
        association.echo()
        result = association.store(item)

An error says in ``step`` what failed: ``tcp``, ``tls``, ``association``, ``echo`` or ``store``.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Final, Self

from dicom_node.dimse import pdu
from dicom_node.dimse.connection import DEFAULT_MAX_PDU, Connection, configure
from dicom_node.dimse.contexts import ACCEPTED, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from dicom_node.dimse.errors import (
    ABORT_BY_PROVIDER,
    ABORT_BY_USER,
    REASON_UNEXPECTED_PDU,
    AssociationAborted,
    AssociationRejected,
    AssociationReleased,
    ConnectFailed,
    ConnectionLost,
    ContextNotAccepted,
    DimseError,
    ProtocolError,
    Timeout,
    TlsFailed,
)
from dicom_node.dimse.message import (
    RESPONSE,
    Command,
    decode_command,
    encode_echo_request,
    encode_store_request,
    frame_command_split,
)
from dicom_node.dimse.outgoing import Chunks, Outgoing

MAX_CONTEXTS: Final = 128
_ANSWER_CAP: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds: TCP, TLS handshake, A-ASSOCIATE answer, each response, each send without progress."""

    connect: float = 10.0
    handshake: float = 10.0
    association: float = 30.0
    response: float = 120.0
    send: float = 60.0


@dataclass(frozen=True, slots=True)
class StoreItem:
    """One instance to send.

    Attributes
    ----------
    length
        Bytes of the data set (without file meta).
    open
        Opens the data set: a binary file positioned at its first byte, or an iterable of chunks.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    length: int
    open: Callable[[], BinaryIO | Chunks]


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What the peer answered: a C-STORE status and its Error Comment."""

    status: int
    comment: str = ""

    @property
    def ok(self) -> bool:
        """Stored: Success, or one of the warnings (B000, B006, B007)."""
        return self.status == 0 or self.status >> 12 == 0xB


def associate(
    host: str,
    port: int,
    *,
    calling_ae: str,
    called_ae: str,
    contexts: Sequence[tuple[str, Sequence[str]]],
    timeouts: Timeouts = Timeouts(),
    tls: ssl.SSLContext | None = None,
    max_pdu: int = DEFAULT_MAX_PDU,
    roles: Mapping[str, tuple[bool, bool]] | None = None,
) -> Requestor:
    """Open an association.

    Parameters
    ----------
    contexts
        Presentation contexts exactly as they are to be proposed, at most 128: a SOP class and its transfer syntaxes each.
    roles
        SCP/SCU role selection by SOP class: whether we propose to be user, and provider (PS3.7 D.3.3.4).

    Raises
    ------
    ConnectFailed, TlsFailed, Timeout, AssociationRejected, AssociationAborted, ProtocolError
    """
    if not 1 <= len(contexts) <= MAX_CONTEXTS:
        raise ValueError(f"{len(contexts)} presentation contexts; an association has 1 to {MAX_CONTEXTS}")
    sock = _secure(_connect(host, port, timeouts.connect), host, tls, timeouts.handshake)
    try:
        connection = Connection(sock, max_pdu=max_pdu, stall=timeouts.response, idle=timeouts.response, send_deadline=timeouts.send)
        with _step("association"):
            return _request(connection, calling_ae, called_ae, contexts, timeouts, roles or {})
    except BaseException:
        sock.close()
        raise


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    try:
        sock = socket.create_connection((host, port), timeout=deadline)
    except TimeoutError as error:
        raise Timeout(f"no TCP connection to {host}:{port} within {deadline:g} s", step="tcp") from error
    except OSError as error:
        raise ConnectFailed(f"no TCP connection to {host}:{port}: {error.strerror or error}") from error
    configure(sock)
    return sock


def _secure(sock: socket.socket, host: str, tls: ssl.SSLContext | None, deadline: float) -> socket.socket:
    if tls is None:
        return sock
    try:
        sock.settimeout(deadline)
        return tls.wrap_socket(sock, server_hostname=host)
    except TimeoutError as error:
        sock.close()
        raise Timeout(f"no TLS handshake within {deadline:g} s", step="tls") from error
    except (OSError, ValueError) as error:
        sock.close()
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
        raise TlsFailed(f"TLS handshake failed: {reason}") from error


def _request(
    connection: Connection,
    calling_ae: str,
    called_ae: str,
    contexts: Sequence[tuple[str, Sequence[str]]],
    timeouts: Timeouts,
    roles: Mapping[str, tuple[bool, bool]],
) -> Requestor:
    proposed = tuple(pdu.ProposedContext(2 * number + 1, abstract, tuple(transfer)) for number, (abstract, transfer) in enumerate(contexts))
    user = pdu.UserInformation(max_length=connection.max_pdu, roles=roles)
    connection.send(pdu.encode_associate_request(pdu.AssociateRequest(called_ae, calling_ae, proposed, user)))
    kind, body = connection.read_pdu(_ANSWER_CAP, deadline=time.monotonic() + timeouts.association)
    if kind == pdu.ASSOCIATE_RJ and len(body) >= 4:
        raise AssociationRejected(body[1], body[2], body[3])
    if kind == pdu.ABORT and len(body) >= 4:
        raise AssociationAborted(body[2], body[3])
    if kind != pdu.ASSOCIATE_AC:
        connection.abort(ABORT_BY_PROVIDER, REASON_UNEXPECTED_PDU)
        raise ProtocolError(f"PDU of type {kind} in answer to an association request", REASON_UNEXPECTED_PDU)
    return Requestor(connection, proposed, pdu.parse_associate_accept(body), timeouts)


class Requestor:
    """An association that we asked for. Not thread-safe. Leaving its ``with`` block releases it, or aborts it after an error."""

    def __init__(
        self, connection: Connection, proposed: Sequence[pdu.ProposedContext], accept: pdu.AssociateAccept, timeouts: Timeouts
    ) -> None:
        self._connection = connection
        self._timeouts = timeouts
        self._message_id = 0
        abstract = {context.id: context.abstract_syntax for context in proposed}
        self.max_pdu = accept.user.max_length
        self.accepted: dict[tuple[str, str], int] = {
            (abstract[result.id], result.transfer_syntax): result.id
            for result in reversed(accept.contexts)
            if result.result == ACCEPTED and result.id in abstract
        }
        self._outgoing = Outgoing(connection, self.max_pdu)
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            with contextlib.suppress(DimseError):
                self.release()
        else:
            self.abort()

    @property
    def connection(self) -> Connection:
        """What the association runs on, for services that stand in files of their own."""
        return self._connection

    # -------------------------------------------------------------- services

    def echo(self) -> int:
        """Send C-ECHO and return its status."""
        context_id = next((cid for (uid, _), cid in self.accepted.items() if uid == VERIFICATION), None)
        if context_id is None:
            raise ContextNotAccepted(VERIFICATION)
        with _step("echo"):
            message_id = self._next_id()
            self._connection.send(frame_command_split(context_id, encode_echo_request(message_id), self.max_pdu))
            return self._response(context_id, message_id).status

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Whether an instance of this class in this syntax can be sent."""
        return (sop_class_uid, transfer_syntax_uid) in self.accepted

    def store(self, item: StoreItem) -> StoreResult:
        """Send one instance, streamed, and await its answer.

        Raises
        ------
        ContextNotAccepted
            Nothing was sent; the association goes on.
        DimseError
            The association is lost; what became of the instance is unknown.
        """
        context_id = self.accepted.get((item.sop_class_uid, item.transfer_syntax_uid))
        if context_id is None:
            raise ContextNotAccepted(item.sop_class_uid, item.transfer_syntax_uid)
        with _step("store"):
            message_id = self._next_id()
            command = encode_store_request(message_id, item.sop_class_uid, item.sop_instance_uid)
            head = frame_command_split(context_id, command, self.max_pdu)
            try:
                self._outgoing.send(head, context_id, item.length, item.open)
            except ConnectionLost as lost:
                raise self._why_lost(lost) from lost
            except BaseException:
                if self._outgoing.begun:
                    self.abort()  # half an instance is out: the association cannot go on
                raise
            answer = self._response(context_id, message_id)
            return StoreResult(answer.status, answer.error_comment)

    def store_many(self, items: Iterable[StoreItem], answered: Callable[[StoreItem, StoreResult], None] | None = None) -> list[StoreResult]:
        """Send instances one after the other; ``answered`` hears of each as it is answered."""
        results = []
        for item in items:
            result = self.store(item)
            results.append(result)
            if answered is not None:
                answered(item, result)
        return results

    # ------------------------------------------------------------------- end

    def release(self) -> None:
        """Release the association and close the connection."""
        if not self._open:
            return
        self._open = False
        connection = self._connection
        try:
            connection.send(pdu.RELEASE_RQ_PDU)
            self._await_release(time.monotonic() + self._timeouts.association)
        finally:
            connection.close()

    def _await_release(self, deadline: float) -> None:
        while True:
            kind, _ = self._connection.read_pdu(max(_ANSWER_CAP, self._connection.max_pdu), deadline=deadline)
            if kind in (pdu.RELEASE_RP, pdu.ABORT):
                return
            if kind == pdu.RELEASE_RQ:  # collision: PS3.8 9.2.3, AR-8 and AR-9
                self._connection.send(pdu.RELEASE_RP_PDU)

    def abort(self) -> None:
        """Abort the association and close the connection."""
        if self._open:
            self._open = False
            self._connection.abort(ABORT_BY_USER, 0)
            self._connection.close()

    # --------------------------------------------------------------- sending

    def _next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _why_lost(self, lost: ConnectionLost) -> DimseError:
        """A connection that broke while we sent: the peer's A-ABORT may still be there to read."""
        try:
            self._connection.set_stall(1.0)
            self._connection.expect_data_set()
            self._connection.read_command()
        except ConnectionLost:
            return lost
        except DimseError as error:
            return error if isinstance(error, AssociationAborted) else lost
        return lost

    def _response(self, context_id: int, message_id: int) -> Command:
        connection = self._connection
        try:
            received_on, data = connection.read_command()
        except AssociationReleased:
            with contextlib.suppress(DimseError):
                connection.send(pdu.RELEASE_RP_PDU)
            self._open = False
            connection.close()
            raise
        command = decode_command(data)
        if not command.field & RESPONSE or command.message_id != message_id or received_on != context_id:
            self.abort()
            raise ProtocolError("a response to something else")
        return command


@contextlib.contextmanager
def _step(step: str) -> Iterator[None]:
    """Name the step in errors that do not know it."""
    try:
        yield
    except DimseError as error:
        error.step = step
        raise


def echo_contexts() -> list[tuple[str, Sequence[str]]]:
    """The one presentation context that C-ECHO needs."""
    return [(VERIFICATION, [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN])]
