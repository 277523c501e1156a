"""Storage commitment on associations that we asked for: as user (N-ACTION, and the report on the same association), and as provider
(the report of what a peer asked us for)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from dicom_node.dimse.contexts import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
)
from dicom_node.dimse.errors import AssociationAborted, AssociationReleased, ContextNotAccepted, ProtocolError
from dicom_node.dimse.message import N_EVENT_REPORT_RQ, RESPONSE, Command, decode_command, frame_command_split, frame_data_set
from dicom_node.dimse.normalized import INVALID_ARGUMENT, encode_action_request, encode_normalized_response
from dicom_node.dimse.references import References, UnreadableReferences, decode_references, encode_references
from dicom_node.dimse.scu import Requestor
from dicom_node.dimse.services.commitment import BYTES_OF_AN_INSTANCE, REQUEST_STORAGE_COMMITMENT, event_report

CONTEXTS: Final[list[tuple[str, Sequence[str]]]] = [(STORAGE_COMMITMENT, [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])]
PROVIDER_ROLE: Final = {STORAGE_COMMITMENT: (False, True)}

TakeReport = Callable[[References], int]


class CommitmentAssociation:
    """An association for storage commitment.

    Parameters
    ----------
    take
        Keeps a report that comes on this association, and returns the status that answers it.
    """

    def __init__(self, association: Requestor, take: TakeReport | None = None) -> None:
        self._connection = association.connection
        self._max_pdu = association.max_pdu
        self._take = take
        self._message_id = 0
        accepted = {syntax: cid for (uid, syntax), cid in association.accepted.items() if uid == STORAGE_COMMITMENT}
        if not accepted:
            raise ContextNotAccepted(STORAGE_COMMITMENT)
        self._syntax = next(iter(accepted))
        self._context_id = accepted[self._syntax]

    def request(self, request: References) -> Command:
        """Send an N-ACTION and await its response.

        Raises
        ------
        DimseError
            The association is lost; whether the peer has the request is unknown.
        """
        data = encode_references(request, self._syntax, report=False)
        self._message_id += 1
        command = encode_action_request(self._message_id, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, REQUEST_STORAGE_COMMITMENT)
        return self._exchange(command, data)

    def report(self, report: References) -> Command:
        """Send an N-EVENT-REPORT and await its response."""
        self._message_id += 1
        command = event_report(self._message_id, STORAGE_COMMITMENT, report)
        return self._exchange(command, encode_references(report, self._syntax, report=True))

    def await_report(self, seconds: float, reported: Callable[[], bool]) -> bool:
        """Take what the peer reports on this association, until ``reported`` says so or a time has passed; whether it did."""
        until = time.monotonic() + seconds
        try:
            while not reported():
                if not self._connection.has_input(max(until - time.monotonic(), 0.0)):
                    return False
                self._receive(None)
        except (AssociationReleased, AssociationAborted):  # the peer has had enough: it reports on an association of its own
            return reported()
        return True

    def _exchange(self, command: bytes, data: bytes) -> Command:
        head = frame_command_split(self._context_id, command, self._max_pdu)
        self._connection.send(head + frame_data_set(self._context_id, data, self._max_pdu))
        while (answer := self._receive(self._message_id)) is None:
            pass
        return answer

    def _receive(self, message_id: int | None) -> Command | None:
        """The awaited response; a report that comes instead is kept and answered."""
        context_id, data = self._connection.read_command()
        command = decode_command(data)
        if command.field == N_EVENT_REPORT_RQ and context_id == self._context_id:
            self._answer(command)
            return None
        if not command.field & RESPONSE or command.message_id != message_id or context_id != self._context_id:
            raise ProtocolError("a response to something else")
        if command.has_data_set:
            self._data_set(None)
        return command

    def _answer(self, command: Command) -> None:
        status = INVALID_ARGUMENT
        data = self._data_set(BYTES_OF_AN_INSTANCE * 100_000) if command.has_data_set else b""
        if data is not None and self._take is not None:
            try:
                status = self._take(decode_references(data, self._syntax, limit=1_000_000))
            except UnreadableReferences:
                status = INVALID_ARGUMENT
        response = encode_normalized_response(command, status)
        self._connection.send(frame_command_split(self._context_id, response, self._max_pdu))

    def _data_set(self, cap: int | None) -> bytes | None:
        """A data set; None where it is longer than ``cap``, or none is wanted."""
        parts: list[bytes] = []
        size, last = 0, False
        self._connection.expect_data_set()
        while not last:
            views, last = self._connection.read_data(self._context_id)
            size += sum(map(len, views))
            if cap is not None and size <= cap:
                parts += map(bytes, views)
        return b"".join(parts) if cap is not None and size <= cap else None
