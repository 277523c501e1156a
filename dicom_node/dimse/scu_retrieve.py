"""C-MOVE and C-GET as the user of the service: ask a peer for studies, hear how far it is, take what a C-GET sends.

::

    with associate(host, port, ..., contexts=move_contexts()) as association:
        for response in move(association, "DESTINATION", Wanted("STUDY", study_uids=("1.2.3",))):
            print(response.counts)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import pack
from typing import Final

from dicom_node.dimse.contexts import IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from dicom_node.dimse.errors import ContextNotAccepted, ProtocolError
from dicom_node.dimse.message import (
    C_STORE_RQ,
    RESPONSE,
    Command,
    SubOperations,
    decode_command,
    encode_response,
    encode_retrieve_request,
    even,
    frame_command_split,
    frame_data_set,
)
from dicom_node.dimse.scu import Requestor

PENDING: Final = (0xFF00, 0xFF01)


@dataclass(frozen=True)
class Wanted:
    """What is asked for: a level of Study Root and the UIDs of it and of those above."""

    level: str
    study_uids: tuple[str, ...]
    series_uids: tuple[str, ...] = ()
    sop_uids: tuple[str, ...] = ()

    def identifier(self) -> bytes:
        """The identifier, Implicit VR Little Endian."""
        values = [
            (0x0008, 0x0018, "\\".join(self.sop_uids).encode("ascii")),
            (0x0008, 0x0052, even(self.level.encode("ascii"), b" ")),
            (0x0020, 0x000D, "\\".join(self.study_uids).encode("ascii")),
            (0x0020, 0x000E, "\\".join(self.series_uids).encode("ascii")),
        ]
        return b"".join(pack("<HHL", group, number, len(even(value))) + even(value) for group, number, value in values if value)


@dataclass(frozen=True)
class RetrieveResponse:
    """One response: its status and counts."""

    status: int
    counts: SubOperations
    comment: str = ""

    @property
    def final(self) -> bool:
        return self.status not in PENDING


Take = Callable[[Command, str, Iterator[memoryview]], int]
"""Takes an instance that a C-GET sends: its command, its transfer syntax, its data set in pieces; the status to be answered."""


def move_contexts() -> list[tuple[str, list[str]]]:
    """The one presentation context that a C-MOVE needs."""
    return [(STUDY_ROOT_MOVE, [IMPLICIT_VR_LITTLE_ENDIAN])]


def move(association: Requestor, destination: str, wanted: Wanted) -> Iterator[RetrieveResponse]:
    """Have a peer send to another; yields every response, the final one last.

    Raises
    ------
    ContextNotAccepted, DimseError
    """
    return _retrieve(association, STUDY_ROOT_MOVE, destination, wanted, None)


def get(association: Requestor, wanted: Wanted, take: Take) -> Iterator[RetrieveResponse]:
    """Have a peer send to us on this association, whose contexts and roles must be there for it; yields every response.

    Raises
    ------
    ContextNotAccepted, DimseError
    """
    return _retrieve(association, STUDY_ROOT_GET, None, wanted, take)


def _retrieve(
    association: Requestor, sop_class: str, destination: str | None, wanted: Wanted, take: Take | None
) -> Iterator[RetrieveResponse]:
    context_id = association.accepted.get((sop_class, IMPLICIT_VR_LITTLE_ENDIAN))
    if context_id is None:
        raise ContextNotAccepted(sop_class)
    connection, message_id = association.connection, 1
    command = encode_retrieve_request(message_id, sop_class, destination=destination)
    connection.send(
        frame_command_split(context_id, command, association.max_pdu) + frame_data_set(context_id, wanted.identifier(), association.max_pdu)
    )
    syntaxes = {number: syntax for (_, syntax), number in association.accepted.items()}
    while True:
        received_on, data = connection.read_command()
        answer = decode_command(data)
        if answer.field == C_STORE_RQ and take is not None and received_on in syntaxes:
            _take(association, received_on, answer, syntaxes[received_on], take)
            continue
        if not answer.field & RESPONSE or answer.message_id != message_id or received_on != context_id:
            raise ProtocolError("a response to something else")
        if answer.has_data_set:
            for _ in _pieces(association, received_on):
                continue
        response = RetrieveResponse(answer.status, answer.sub_operations, answer.error_comment)
        yield response
        if response.final:
            return


def _take(association: Requestor, context_id: int, command: Command, syntax: str, take: Take) -> None:
    pieces = _pieces(association, context_id) if command.has_data_set else iter(())
    status = take(command, syntax, pieces)
    for _ in pieces:  # what was not taken
        continue
    association.connection.send(frame_command_split(context_id, encode_response(command, status), association.max_pdu))


def _pieces(association: Requestor, context_id: int) -> Iterator[memoryview]:
    """The data set of the message under way, as it comes in; each piece is valid until the next."""
    connection, last = association.connection, False
    connection.expect_data_set()
    while not last:
        views, last = connection.read_data(context_id)
        yield from views
