"""The accepting side of an association: negotiation, the message loop, what services see of it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import structlog

from dicom_node.dimse import pdu
from dicom_node.dimse.connection import Connection
from dicom_node.dimse.contexts import ACCEPTED
from dicom_node.dimse.errors import (
    ABORT_BY_PROVIDER,
    REASON_NOT_SPECIFIED,
    REASON_UNEXPECTED_PARAMETER,
    REASON_UNEXPECTED_PDU,
    AssociationAborted,
    AssociationReleased,
    ConnectionLost,
    DimseError,
    IdentifierTooLong,
    ProtocolError,
    Timeout,
)
from dicom_node.dimse.faults import describe
from dicom_node.dimse.message import C_CANCEL_RQ, Command, decode_command, encode_response, frame_command_split, frame_data_set

log = structlog.get_logger()

PROCESSING_FAILURE = 0x0110
UNRECOGNIZED_OPERATION = 0x0211
_HEARD = 64  # messages that one look for a C-CANCEL takes in


class AcceptedContext(NamedTuple):
    """A presentation context as agreed."""

    id: int
    abstract_syntax: str
    transfer_syntax: str


class Message(NamedTuple):
    """A command and the presentation context it came on."""

    context: AcceptedContext
    command: Command


@dataclass(slots=True)
class AssociationContext:
    """Who is on the other side, and what was agreed.

    ``resources`` holds what services keep for the length of the association; each is closed at its end.
    """

    id: str
    calling_ae: str
    called_ae: str
    address: str
    peer: str | None
    may_store: bool
    may_query: bool = False
    may_retrieve: bool = False
    may_commit: bool = False
    may_manage_workitems: bool = False
    contexts: Mapping[int, AcceptedContext] = field(default_factory=dict)
    scp_roles: frozenset[str] = frozenset()
    """SOP classes of which the requestor is the provider: what it takes by C-STORE in a C-GET."""
    extended: Mapping[str, bytes] = field(default_factory=dict)
    max_pdu: int = 0
    opened_at: float = 0.0
    stored: int = 0
    resources: dict[str, Any] = field(default_factory=dict)


class AssociationHooks(Protocol):
    """Called around associations that store; an association that only echoes touches no database."""

    def opened(self, context: AssociationContext) -> None:
        """Before the first C-STORE. A StorageError raised here is the answer to that C-STORE."""

    def closed(self, context: AssociationContext, ended: str) -> None:
        """After the end, where ``opened`` returned; ``ended`` is released, aborted, lost, timeout or protocol."""


class Service(Protocol):
    """One DIMSE service of one or more SOP classes."""

    def handle(self, association: Acceptor, message: Message) -> None:
        """Answer one request by ``association.respond``; data that is not read is dropped afterwards."""


@runtime_checkable
class Beginning(Protocol):
    """A service that has something to do from the beginning of an association."""

    def begin(self, association: Acceptor) -> None:
        """Called once, before the first message."""


class Acceptor:
    """One accepted association, run by one thread."""

    def __init__(
        self, connection: Connection, context: AssociationContext, services: Mapping[str, Service], hooks: AssociationHooks
    ) -> None:
        self.connection = connection
        self.context = context
        self.busy = False
        self.quiet_since = time.monotonic()
        self._services = {cid: services[accepted.abstract_syntax] for cid, accepted in context.contexts.items()}
        self._hooks = hooks
        self._opened = False
        self._stopping = threading.Event()
        self._data_left = False
        self._context_id = 0
        self._request_id = 0
        self._awaited: dict[int, Callable[[Command], None]] = {}
        self._between: list[Callable[[], float | None]] = []

    # ----------------------------------------------------- what services use

    def data(self) -> Iterator[list[memoryview]]:
        """The data set of the current message as it comes in; each list is valid until the next."""
        read, context_id = self.connection.read_data, self._context_id
        while self._data_left:
            views, last = read(context_id)
            if last:
                self._data_left = False
            if views:
                yield views

    def drain(self) -> None:
        """Read what is left of the data set and drop it."""
        while self._data_left:
            _, last = self.connection.read_data(self._context_id)
            self._data_left = not last

    def read_identifier(self, max_bytes: int) -> bytes:
        """The data set of the current message as a whole; raises IdentifierTooLong, the rest then being dropped."""
        parts: list[bytes] = []
        size = 0
        for views in self.data():
            size += sum(map(len, views))
            if size > max_bytes:
                self.drain()
                raise IdentifierTooLong(f"an identifier of more than {max_bytes} bytes")
            parts += map(bytes, views)
        return b"".join(parts)

    def canceled(self, message: Message) -> bool:
        """Whether a C-CANCEL of a request has come in; never waits, not for the rest of one either. Other messages are protocol errors."""
        for _ in range(_HEARD):
            received = self.connection.poll_command()
            if received is None:
                break
            command = decode_command(received[1])
            if command.field != C_CANCEL_RQ or command.has_data_set:
                raise ProtocolError("a message before the response to the last one", REASON_UNEXPECTED_PDU)
            if command.message_id == message.command.message_id:
                return True
        return False

    def respond_pending(self, message: Message, status: int, identifier: bytes) -> None:
        """Send a response with a data set behind it, in one piece."""
        command = encode_response(message.command, status, has_data_set=True)
        context_id, limit = message.context.id, self.context.max_pdu
        self.connection.send(frame_command_split(context_id, command, limit) + frame_data_set(context_id, identifier, limit))

    def respond(self, message: Message, status: int, comment: str = "") -> None:
        """Send the response to a request; the rest of its data set is drained first."""
        if self._data_left:
            self.drain()
        command = encode_response(message.command, status, comment)
        self.connection.send(frame_command_split(message.context.id, command, self.context.max_pdu))

    def between_messages(self, look: Callable[[], float | None]) -> None:
        """Have ``look`` called again and again while the peer says nothing; it returns the seconds to its next turn, None to end.

        An association without one waits for its next message as ever. Any number of services may each have one.
        """
        if look not in self._between:
            self._between.append(look)

    def request(self, context_id: int, command: Callable[[int], bytes], data_set: bytes, answered: Callable[[Command], None]) -> None:
        """Send a request of our own (an N-EVENT-REPORT); ``answered`` hears of its response, whenever that comes.

        Parameters
        ----------
        command
            Makes the command set of a message id.
        """
        self._request_id = self._request_id % 0xFFFF + 1
        self._awaited[self._request_id] = answered
        limit = self.context.max_pdu
        head = frame_command_split(context_id, command(self._request_id), limit)
        self.connection.send(head + frame_data_set(context_id, data_set, limit))

    def ensure_opened(self) -> None:
        """Call the opening hook, once, before the first thing is stored."""
        if not self._opened:
            self._hooks.opened(self.context)
            self._opened = True

    # ------------------------------------------------------- what runs it

    def stop(self) -> None:
        """Ask for the end after the current message; may be called from another thread."""
        self._stopping.set()
        if not self.busy:
            self.connection.interrupt()

    def run(self) -> str:
        """Serve messages until the end; return how it ended."""
        ended = "aborted"
        try:
            ended = self._serve()
        finally:
            self._close_resources()
            self._close_hook(ended)
        return ended

    def _serve(self) -> str:
        connection = self.connection
        for service in set(self._services.values()):
            if isinstance(service, Beginning):
                service.begin(self)
        try:
            while True:
                self.quiet_since = time.monotonic()
                self.busy = False
                if self._stopping.is_set():
                    break
                if self._between:
                    self._look_between()
                context_id, data = connection.read_command()
                self.busy = True
                self._dispatch(context_id, decode_command(data))
        except AssociationReleased:
            with contextlib.suppress(DimseError):
                connection.send(pdu.RELEASE_RP_PDU)
            return "released"
        except ProtocolError as error:
            log.warning("association.protocol_error", error=str(error))
            connection.abort(ABORT_BY_PROVIDER, error.reason)
            return "protocol"
        except Timeout as error:
            log.warning("association.timeout", error=str(error))
            connection.abort(ABORT_BY_PROVIDER, REASON_NOT_SPECIFIED)
            return "timeout"
        except ConnectionLost:
            if not self._stopping.is_set():
                return "lost"
        except AssociationAborted:
            return "aborted"
        connection.abort(ABORT_BY_PROVIDER, REASON_NOT_SPECIFIED)
        return "stopped"

    def _look_between(self) -> None:
        wait = 0.0
        while self._between and not self._stopping.is_set():
            if self.connection.has_input(wait):
                return
            waits = {look: look() for look in self._between}
            self._between = [look for look in self._between if waits[look] is not None]
            wait = min((each for each in waits.values() if each is not None), default=0.0)

    def _dispatch(self, context_id: int, command: Command) -> None:
        accepted = self.context.contexts.get(context_id)
        if accepted is None:
            raise ProtocolError("a message on a presentation context that was not accepted", REASON_UNEXPECTED_PARAMETER)
        self._context_id, self._data_left = context_id, command.has_data_set
        if command.has_data_set:
            self.connection.expect_data_set()
        if command.field == C_CANCEL_RQ or command.is_response:
            self.drain()
            if command.is_response and (answered := self._awaited.pop(command.message_id, None)) is not None:
                answered(command)
            return
        message = Message(accepted, command)
        try:
            self._services[context_id].handle(self, message)
        except DimseError:
            raise
        except Exception as error:  # noqa: BLE001 - one request that fails must not end the association, nor the receiver
            log.error("dimse.request_failed", command=command.field, sop_class_uid=command.sop_class_uid, **describe(error))
            self.respond(message, PROCESSING_FAILURE, "processing failed")
        if self._data_left:
            self.drain()

    def _close_resources(self) -> None:
        for name, resource in self.context.resources.items():
            try:
                resource.close()
            except Exception as error:  # noqa: BLE001 - every other resource must still be closed
                log.error("association.resource_not_closed", resource=name, **describe(error))
        self.context.resources.clear()

    def _close_hook(self, ended: str) -> None:
        if not self._opened:
            return
        try:
            self._hooks.closed(self.context, ended)
        except Exception as error:  # noqa: BLE001 - the database may be away; the association's lease then runs out by itself
            log.error("association.close_not_recorded", **describe(error))


def accepted_contexts(request: pdu.AssociateRequest, results: list[pdu.ContextResult]) -> dict[int, AcceptedContext]:
    """Join proposals and results into what was agreed."""
    proposed = {context.id: context.abstract_syntax for context in request.contexts}
    return {r.id: AcceptedContext(r.id, proposed[r.id], r.transfer_syntax) for r in results if r.result == ACCEPTED}
