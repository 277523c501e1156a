"""The listening side: accept, wait for a request without a thread, admit, run one thread per association.

A socket that has not yet sent its A-ASSOCIATE-RQ costs a descriptor and a selector entry, never a thread. So silent,
slow and lying clients are met by one loop with deadlines and caps, and never stand before those that mean it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from dicom_node.dimse import pdu
from dicom_node.dimse.admission import Admission, Admitted, Caller, Refusal
from dicom_node.dimse.association import Acceptor, AssociationContext, AssociationHooks, Service, accepted_contexts
from dicom_node.dimse.connection import DEFAULT_MAX_PDU, Connection
from dicom_node.dimse.contexts import (
    APPLICATION_CONTEXT,
    DICOM_ROOT,
    GET_CLASSES,
    STORAGE_CLASSES,
    STORAGE_COMMITMENT,
    Negotiator,
    answer_extended,
    answer_roles,
)
from dicom_node.dimse.errors import ABORT_BY_PROVIDER, REASON_UNEXPECTED_PDU, DimseError, ProtocolError
from dicom_node.dimse.faults import describe
from dicom_node.dimse.reception import LIMIT_EXCEEDED, REJECT_LIMIT, Arrival, Reception

log = structlog.get_logger()

_MAX_HANDSHAKES = 64
_REJECT_APPLICATION_CONTEXT = (1, 1, 2)
_REJECT_PROTOCOL_VERSION = (1, 2, 2)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Limits and addresses of the receiver.

    Attributes
    ----------
    max_associations
        Associations at once; one more is rejected as transient, local limit exceeded.
    per_address
        Associations at once from one address, and sockets without an association from one address.
    max_pending
        Sockets without an association; beyond it the oldest one goes.
    pre_association_deadline
        Seconds in which an A-ASSOCIATE-RQ, TLS handshake included, must be there (ARTIM).
    request_pdu_cap
        Longest A-ASSOCIATE-RQ taken, in bytes.
    stall, idle
        Seconds of silence inside a message, and between messages.
    send_deadline
        Seconds that an answer may wait for a peer that does not read.
    tls_context
        Makes the context of a TLS port; called at the start.
    """

    host: str = "0.0.0.0"
    port: int = 11112
    ae_title: str = "DICOM_NODE"
    max_associations: int = 256
    per_address: int = 128
    max_pending: int = 512
    pre_association_deadline: float = 10.0
    request_pdu_cap: int = 1_048_576
    max_pdu: int = DEFAULT_MAX_PDU
    stall: float = 60.0
    send_deadline: float = 30.0
    idle: float = 600.0
    backlog: int = 1024
    reuse_port: bool = False
    extra_transfer_syntaxes: tuple[str, ...] = ()
    tls_context: Callable[[], ssl.SSLContext] | None = None
    stack_size: int = 1024 * 1024


class Server:
    """Accepts associations on one port.

    Parameters
    ----------
    services
        Service by SOP class UID; its keys are what is accepted.
    """

    def __init__(
        self,
        settings: ServerSettings,
        services: Mapping[str, Service],
        admission: Admission,
        hooks: AssociationHooks,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._services = services
        self._admission = admission
        self._hooks = hooks
        self._clock = clock
        self._sent_back = frozenset(uid for uid in services if uid in STORAGE_CLASSES or not uid.startswith(DICOM_ROOT))
        self._negotiator = Negotiator(services, settings.extra_transfer_syntaxes)
        self._tls = settings.tls_context() if settings.tls_context else None
        self._lock = threading.Condition()
        self._running: dict[str, Acceptor | None] = {}
        self._handshakes: dict[str, Arrival] = {}
        self._addresses: dict[str, int] = {}
        self._stopping = False
        self._reception: Reception | None = None

    @property
    def port(self) -> int:
        """The port in use, also where 0 was asked for."""
        if self._reception is None:
            raise RuntimeError("the server was not started")
        return self._reception.port

    @property
    def associations(self) -> int:
        """Associations running now."""
        with self._lock:
            return len(self._running)

    @property
    def pending(self) -> int:
        """Sockets without an association."""
        return self._reception.pending if self._reception else 0

    @property
    def services(self) -> Mapping[str, Service]:
        """SOP class > the service that answers for it."""
        return self._services

    def start(self) -> None:
        """Listen, and serve from threads of our own."""
        self._reception = Reception(self.settings, self._arrived, first_byte_only=self._tls is not None)
        self._reception.start()

    def stop(self, deadline: float = 10.0) -> None:
        """Stop accepting; running associations end after their current message, at the latest after ``deadline`` seconds."""
        if self._reception is None:
            return
        self._stopping = True
        self._reception.stop()
        until = time.monotonic() + deadline
        with self._lock:
            for acceptor in self._running.values():
                if acceptor is not None:
                    acceptor.stop()
            for arrival in self._handshakes.values():
                _hang_up(arrival)
            self._lock.wait_for(lambda: not self._running, timeout=max(until - time.monotonic(), 0))
        for how in (socket.SHUT_RD, socket.SHUT_RDWR):
            with self._lock:
                for acceptor in filter(None, self._running.values()):
                    acceptor.connection.interrupt(how)
                self._lock.wait_for(lambda: not self._running, timeout=1.0)

    # ------------------------------------------------------------ one arrival

    def _arrived(self, arrival: Arrival) -> bool:
        """Take over a socket: start its thread, or say no by returning False (local limit exceeded)."""
        key = uuid.uuid4().hex
        with self._lock:
            if self._stopping:
                return False
            if arrival.body is None:
                self._begin_handshake(key, arrival)
            elif not self._take_place(key, arrival.address):
                return False
        thread = threading.Thread(target=self._run, args=(key, arrival), name=f"association-{key[:8]}", daemon=True)
        previous = threading.stack_size(self.settings.stack_size)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had
            self._ended(key, arrival.address)
            return False
        finally:
            threading.stack_size(previous)
        return True

    def _begin_handshake(self, key: str, arrival: Arrival) -> None:
        """A TLS client has no place among the associations until its request is here; too many of them displace the oldest."""
        if len(self._handshakes) >= _MAX_HANDSHAKES:
            oldest = next(iter(self._handshakes))
            _hang_up(self._handshakes.pop(oldest))
        self._handshakes[key] = arrival

    def _take_place(self, key: str, address: str) -> bool:
        settings = self.settings
        taken = self._addresses.get(address, 0)
        if len(self._running) >= settings.max_associations or taken >= settings.per_address:
            return False
        self._running[key] = None
        self._addresses[address] = taken + 1
        return True

    def _ended(self, key: str, address: str) -> None:
        with self._lock:
            self._handshakes.pop(key, None)
            if key in self._running:
                del self._running[key]
                self._addresses[address] -= 1
                if not self._addresses[address]:
                    del self._addresses[address]
            self._lock.notify_all()

    def _run(self, key: str, arrival: Arrival) -> None:
        farewell: socket.socket | None = None
        try:
            with structlog.contextvars.bound_contextvars(association=key, address=arrival.address):
                farewell = self._associate(key, arrival)
        except Exception as error:  # noqa: BLE001 - whatever one peer sends, the receiver goes on
            log.error("association.failed", address=arrival.address, **describe(error))
        finally:
            if farewell is None:
                arrival.sock.close()
            self._ended(key, arrival.address)
            if farewell is not None and self._reception is not None:
                self._reception.farewell(farewell)

    def _associate(self, key: str, arrival: Arrival) -> socket.socket | None:
        """Serve one association; return the socket where the peer still has something to read from it."""
        try:
            connection = self._connect(arrival)
        except (OSError, ValueError) as error:
            log.info("association.tls_failed", error=type(error).__name__, reason=getattr(error, "reason", ""))
            return None
        try:
            body = self._read_request(arrival, connection) if arrival.body is None else arrival.body
            acceptor = self._negotiate(key, pdu.parse_associate_request(body), arrival.address, connection)
        except ProtocolError as error:
            log.info("association.malformed_request", error=str(error))
            connection.abort(ABORT_BY_PROVIDER, error.reason)
            return connection.sock
        except DimseError as error:
            log.info("association.not_made", error=str(error))
            return None
        if acceptor is None:
            return connection.sock
        context = acceptor.context
        ended = acceptor.run()
        seconds = round(self._clock() - context.opened_at, 3)
        log.info("association.closed", ended=ended, stored=context.stored, received=connection.received, seconds=seconds)
        return connection.sock if ended in ("released", "protocol", "stopped") else None

    def _connect(self, arrival: Arrival) -> Connection:
        """Wrap the socket; with TLS the handshake and the request are awaited here, within the deadline."""
        settings, sock = self.settings, arrival.sock
        if self._tls is not None:
            sock.settimeout(max(arrival.deadline - time.monotonic(), 0.01))
            sock = arrival.sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            sock.do_handshake()
        return Connection(sock, max_pdu=settings.max_pdu, stall=settings.stall, idle=settings.idle, send_deadline=settings.send_deadline)

    def _negotiate(self, key: str, request: pdu.AssociateRequest, address: str, connection: Connection) -> Acceptor | None:
        """Answer the request; None where it was rejected."""
        caller = Caller(request.calling_ae, request.called_ae, address, _certificate(connection.sock))
        verdict = self._admit(key, request, caller)
        if isinstance(verdict, Refusal):
            log.warning("association.rejected", calling_ae=caller.calling_ae, called_ae=caller.called_ae, why=verdict.why)
            connection.send(pdu.encode_associate_reject(*verdict.rejection))
            return None
        results = self._negotiator.answer(request.contexts)
        contexts = accepted_contexts(request, results)
        abstract = {accepted.abstract_syntax for accepted in contexts.values()}
        sent_back = self._sent_back if not abstract.isdisjoint(GET_CLASSES) else frozenset()
        # A peer that reports what it committed is the provider on an association that it asked for (PS3.4 J.3.3).
        roles = answer_roles(request.user.roles, abstract, sent_back | {STORAGE_COMMITMENT})
        extended = answer_extended(request.user.extended, abstract)
        context = AssociationContext(
            id=key,
            calling_ae=caller.calling_ae,
            called_ae=caller.called_ae,
            address=caller.address,
            peer=verdict.peer,
            may_store=verdict.may_store,
            may_query=verdict.may_query,
            may_retrieve=verdict.may_retrieve,
            may_commit=verdict.may_commit,
            may_manage_workitems=verdict.may_manage_workitems,
            contexts=contexts,
            scp_roles=frozenset(uid for uid, (_, scp) in roles.items() if scp),
            extended=extended,
            max_pdu=request.user.max_length,
            opened_at=self._clock(),
        )
        acceptor = Acceptor(connection, context, self._services, self._hooks)
        user = pdu.UserInformation(
            max_length=self.settings.max_pdu,
            async_window=(1, 1) if request.user.async_window else None,
            roles=roles,
            extended=extended,
        )
        with self._lock:
            if self._stopping:
                connection.send(REJECT_LIMIT)
                return None
            self._running[key] = acceptor
        connection.send(pdu.encode_associate_accept(request, results, user))
        log.info(
            "association.opened",
            calling_ae=caller.calling_ae,
            called_ae=caller.called_ae,
            peer=verdict.peer,
            accepted=len(contexts),
            proposed=len(request.contexts),
        )
        return acceptor

    def _read_request(self, arrival: Arrival, connection: Connection) -> bytes:
        kind, body = connection.read_pdu(self.settings.request_pdu_cap, deadline=arrival.deadline)
        if kind != pdu.ASSOCIATE_RQ:
            raise ProtocolError(f"PDU of type {kind} before an association", REASON_UNEXPECTED_PDU)
        return body

    def _admit(self, key: str, request: pdu.AssociateRequest, caller: Caller) -> Admitted | Refusal:
        with self._lock:  # with TLS the place is taken only now
            self._handshakes.pop(key, None)
            if key not in self._running and not self._take_place(key, caller.address):
                return Refusal(LIMIT_EXCEEDED, "local limit exceeded")
        if not request.protocol_version & 1:
            return Refusal(_REJECT_PROTOCOL_VERSION, "protocol version is not 1")
        if request.application_context != APPLICATION_CONTEXT:
            return Refusal(_REJECT_APPLICATION_CONTEXT, "application context is not DICOM's")
        return self._admission.admit(caller)


def _hang_up(arrival: Arrival) -> None:
    """End a connection whose thread is in its handshake."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(arrival.sock, socket.SHUT_RDWR)


def _certificate(sock: socket.socket) -> Mapping[str, Any] | None:
    return sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
