"""Storage commitment (PS3.4 annex J), both ways round.

As provider: an N-ACTION is answered when its transaction is durable; others judge it. Its report leaves on the same association where
that is still open and quiet, else whoever carries out the transaction's job opens one of its own. As user: a peer that was asked reports
by N-EVENT-REPORT, on an association of its own on which it is the provider.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from dicom_node.dimse.association import UNRECOGNIZED_OPERATION, Acceptor, AssociationContext, Message
from dicom_node.dimse.contexts import STORAGE_COMMITMENT_INSTANCE
from dicom_node.dimse.errors import IdentifierTooLong
from dicom_node.dimse.message import N_ACTION_RQ, N_EVENT_REPORT_RQ, Command, frame_command_split
from dicom_node.dimse.normalized import (
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_EVENT_TYPE,
    NO_SUCH_SOP_CLASS,
    NO_SUCH_SOP_INSTANCE,
    RESOURCE_LIMITATION,
    encode_event_report_request,
    encode_normalized_response,
    type_id,
)
from dicom_node.dimse.references import References, TooManyReferences, UnreadableReferences, decode_references, encode_references
from storage.errors import StorageError

log = structlog.get_logger()

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
NOT_AUTHORIZED: Final = 0x0124
REQUEST_STORAGE_COMMITMENT: Final = 1
ALL_COMMITTED: Final = 1
SOME_FAILED: Final = 2
BYTES_OF_AN_INSTANCE: Final = 512
"""Beyond what an item of a transaction takes, its optional attributes included."""
_SHORTEST, _LONGEST = 0.05, 1.0


@dataclass(frozen=True)
class Recorded:
    """A transaction that is durable, and until when (seconds on the desk's clock from now) its report is left to this association."""

    key: int
    seconds: float


class Desk(Protocol):
    """Where transactions are kept; every method may raise a StorageError."""

    def record(self, context: AssociationContext, request: References, /) -> Recorded: ...

    def take(self, key: int, /) -> References | None:
        """The report of a transaction, once it is judged and nobody else is reporting it."""

    def reported(self, key: int, status: int, /) -> None: ...

    def leave(self, keys: list[int], /) -> None: ...

    def accept(self, peer: str, report: References, /) -> bool:
        """Keep what a peer committed; False where it was not asked."""


class CommitmentService:
    """Answers N-ACTION and N-EVENT-REPORT of the Storage Commitment Push Model.

    Parameters
    ----------
    max_instances
        Instances that one transaction may name.
    """

    def __init__(self, desk: Desk, *, max_instances: int = 100_000) -> None:
        self._desk = desk
        self._max_instances = max_instances

    def handle(self, association: Acceptor, message: Message) -> None:
        field = message.command.field
        recorded: Recorded | None = None
        if field == N_ACTION_RQ:
            status, comment, recorded = self._request(association, message)
        elif field == N_EVENT_REPORT_RQ:
            status, comment = self._report(association, message)
        else:
            association.respond(message, UNRECOGNIZED_OPERATION)
            return
        if status != SUCCESS:
            log.warning("commitment.refused", command=field, status=f"{status:04X}", comment=comment)
        association.drain()
        response = encode_normalized_response(message.command, status, comment)
        association.connection.send(frame_command_split(message.context.id, response, association.context.max_pdu))
        if recorded is not None:
            self._watch(association).add(message, recorded)

    # --- as provider

    def _request(self, association: Acceptor, message: Message) -> tuple[int, str, Recorded | None]:
        command = message.command
        if association.context.peer is None or not association.context.may_commit:
            return NOT_AUTHORIZED, "this AE title may not ask for storage commitment", None
        if type_id(command) != REQUEST_STORAGE_COMMITMENT:
            return NO_SUCH_ACTION, "the action type is not 1", None
        status, comment, request = self._read(association, message)
        if request is None:
            return status, comment, None
        if not request.instances:
            return INVALID_ARGUMENT, "no instance is referenced", None
        try:
            return SUCCESS, "", self._desk.record(association.context, request)
        except StorageError as error:
            return RESOURCE_LIMITATION, error.comment, None

    def _read(self, association: Acceptor, message: Message) -> tuple[int, str, References | None]:
        command = message.command
        if command.sop_class_uid != message.context.abstract_syntax:
            return NO_SUCH_SOP_CLASS, "SOP class is not that of the presentation context", None
        if command.sop_instance_uid != STORAGE_COMMITMENT_INSTANCE:
            return NO_SUCH_SOP_INSTANCE, "not the well-known SOP instance", None
        try:
            data = association.read_identifier(self._max_instances * BYTES_OF_AN_INSTANCE + 65_536)
            return SUCCESS, "", decode_references(data, message.context.transfer_syntax, limit=self._max_instances)
        except (IdentifierTooLong, TooManyReferences):
            return RESOURCE_LIMITATION, f"more than {self._max_instances} instances in one transaction", None
        except UnreadableReferences as error:
            return INVALID_ARGUMENT, str(error), None

    def _watch(self, association: Acceptor) -> _Watch:
        watch: _Watch | None = association.context.resources.get("commitment")
        if watch is None:
            watch = association.context.resources["commitment"] = _Watch(association, self._desk)
        return watch

    # --- as user

    def _report(self, association: Acceptor, message: Message) -> tuple[int, str]:
        peer = association.context.peer
        if peer is None:
            return NOT_AUTHORIZED, "this AE title was not asked for storage commitment"
        if type_id(message.command) not in (ALL_COMMITTED, SOME_FAILED):
            return NO_SUCH_EVENT_TYPE, "the event type is neither 1 nor 2"
        status, comment, report = self._read(association, message)
        if report is None:
            return status, comment
        try:
            known = self._desk.accept(peer, report)
        except StorageError as error:
            return PROCESSING_FAILURE, error.comment
        return (SUCCESS, "") if known else (INVALID_ARGUMENT, "no such transaction was asked of this peer")


class _Watch:
    """Looks, while an association is quiet, whether a transaction that it asked for can be reported on it."""

    def __init__(self, association: Acceptor, desk: Desk) -> None:
        self._association = association
        self._desk = desk
        self._waiting: dict[int, tuple[Message, float]] = {}
        self._sent: set[int] = set()
        self._wait = _SHORTEST

    def add(self, message: Message, recorded: Recorded) -> None:
        self._waiting[recorded.key] = (message, time.monotonic() + recorded.seconds)
        self._wait = _SHORTEST
        self._association.between_messages(self._look)

    def close(self) -> None:
        left = [*self._waiting, *self._sent]
        if left:
            self._desk.leave(left)

    def _look(self) -> float | None:
        now = time.monotonic()
        self._waiting = {key: entry for key, entry in self._waiting.items() if entry[1] > now}
        if not self._waiting:
            return None
        try:
            for key, (message, _) in self._waiting.items():
                report = self._desk.take(key)
                if report is not None:
                    del self._waiting[key]
                    self._send(key, message, report)
                    return 0.0
        except StorageError as error:
            log.warning("commitment.waiting", why=str(error))
        self._wait = min(self._wait * 2, _LONGEST)
        return self._wait

    def _send(self, key: int, message: Message, report: References) -> None:
        self._sent.add(key)

        def answered(response: Command) -> None:
            self._sent.discard(key)
            self._desk.reported(key, response.status)

        self._association.request(
            message.context.id,
            lambda message_id: event_report(message_id, message.command.sop_class_uid, report),
            encode_references(report, message.context.transfer_syntax, report=True),
            answered,
        )


def event_report(message_id: int, sop_class_uid: str, report: References) -> bytes:
    """The N-EVENT-REPORT-RQ of a report: Event Type 2 where any instance failed, else 1."""
    event_type = SOME_FAILED if report.failed else ALL_COMMITTED
    return encode_event_report_request(message_id, sop_class_uid, STORAGE_COMMITMENT_INSTANCE, event_type)
