"""C-FIND as the user of the service: ask a peer, take its matches as they come.

::

    with associate(host, port, ..., contexts=find_contexts()) as association:
        for match in find(association, identifier):
            print(match.StudyInstanceUID)
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_node.dimse.contexts import IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND
from dicom_node.dimse.errors import ContextNotAccepted, DimseError, ProtocolError
from dicom_node.dimse.message import decode_command, encode_find_request, frame_command_split, frame_data_set
from dicom_node.dimse.scu import Requestor

PENDING: Final = (0xFF00, 0xFF01)
MAX_MATCH: Final = 16 << 20
"""Longest match taken, in bytes."""


class FindEnded(DimseError):
    """The peer ended the query with something else than Success; its comment is no part of the text, because it may name a patient."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(f"the query ended with {status:04X}")
        self.status = status
        self.comment = comment


def find_contexts() -> list[tuple[str, list[str]]]:
    """The one presentation context that a query needs."""
    return [(STUDY_ROOT_FIND, [IMPLICIT_VR_LITTLE_ENDIAN])]


def find(association: Requestor, identifier: Dataset) -> Iterator[Dataset]:
    """Query Study Root; yields the matches as they come.

    Raises
    ------
    FindEnded
        After the matches, where the final status is not Success.
    ContextNotAccepted, DimseError
    """
    context_id = association.accepted.get((STUDY_ROOT_FIND, IMPLICIT_VR_LITTLE_ENDIAN))
    if context_id is None:
        raise ContextNotAccepted(STUDY_ROOT_FIND)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_dataset(buffer, identifier)
    connection, limit = association.connection, association.max_pdu
    command = encode_find_request(1, STUDY_ROOT_FIND)
    connection.send(frame_command_split(context_id, command, limit) + frame_data_set(context_id, buffer.getvalue(), limit))
    while True:
        received_on, data = connection.read_command()
        answer = decode_command(data)
        if not answer.is_response or received_on != context_id:
            raise ProtocolError("a response to something else")
        match = _data_set(association, received_on) if answer.has_data_set else b""
        if answer.status not in PENDING:
            if answer.status:
                raise FindEnded(answer.status, answer.error_comment)
            return
        yield dcmread(BytesIO(_META + match), force=True)


def _data_set(association: Requestor, context_id: int) -> bytes:
    connection, parts, last, size = association.connection, bytearray(), False, 0
    connection.expect_data_set()
    while not last:
        views, last = connection.read_data(context_id)
        size += sum(map(len, views))
        if size > MAX_MATCH:
            raise ProtocolError(f"a match of more than {MAX_MATCH} bytes")
        for view in views:
            parts += view
    return bytes(parts)


# File meta that says Implicit VR Little Endian: what dcmread then reads needs no guess.
_META: Final = (
    bytes(128)
    + b"DICM"
    + b"\x02\x00\x00\x00UL\x04\x00\x1a\x00\x00\x00"
    + b"\x02\x00\x10\x00UI\x12\x00"
    + IMPLICIT_VR_LITTLE_ENDIAN.encode()
    + b"\x00"
)
