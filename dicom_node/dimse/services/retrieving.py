"""What C-MOVE and C-GET share (PS3.4 C.4.2, C.4.3): how a request is taken, its identifier, its responses."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from struct import pack
from typing import ClassVar

import structlog

from dicom_node.buffers import Buffers
from dicom_node.dimse.association import UNRECOGNIZED_OPERATION, Acceptor, Message
from dicom_node.dimse.contexts import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_node.dimse.errors import IdentifierTooLong
from dicom_node.dimse.identifier import IdentifierRefused
from dicom_node.dimse.message import SubOperations, encode_retrieve_response, even, frame_command_split, frame_data_set
from dicom_node.dimse.services.progress import (
    CANCELED,
    CANNOT_COUNT,
    IDENTIFIER_DOES_NOT_MATCH,
    NOT_AUTHORIZED,
    PENDING,
    Progress,
)
from dicom_node.dimse.services.retrieve_keys import MAX_IDENTIFIER, read_keys
from dicom_node.dimse.services.retrieve_run import Transcoding
from storage.archive import Archive, StoredInstance
from storage.errors import StorageError
from storage.retrieval import select_instances

log = structlog.get_logger()


class RetrieveService(ABC):
    """Takes the requests of one DIMSE service; what it finds goes to :meth:`send`."""

    field: ClassVar[int]

    def __init__(self, archive: Archive, transcoding: Transcoding) -> None:
        self._archive = archive
        self._transcoding = transcoding
        self._buffers = Buffers()

    def handle(self, association: Acceptor, message: Message) -> None:
        if message.command.field != self.field:
            association.respond(message, UNRECOGNIZED_OPERATION)
            return
        retrieving = Retrieving(association, message)
        instances = retrieving.instances(self._archive)
        if instances is not None:
            self.send(retrieving, instances)

    @abstractmethod
    def send(self, retrieving: Retrieving, instances: list[StoredInstance]) -> None:
        """Send the instances, and the final response."""


class Retrieving:
    """One C-MOVE or C-GET request and its responses."""

    def __init__(self, association: Acceptor, message: Message) -> None:
        self.association = association
        self.message = message

    def instances(self, archive: Archive) -> list[StoredInstance] | None:
        """Find what is to be sent; None where the request was answered with a refusal."""
        association, message = self.association, self.message
        if not association.context.may_retrieve:
            association.respond(message, NOT_AUTHORIZED, "this AE title may not retrieve here")
            return None
        try:
            identifier = association.read_identifier(MAX_IDENTIFIER)
            keys = read_keys(identifier, message.context.transfer_syntax, message.context.abstract_syntax)
            return select_instances(archive, keys)
        except (IdentifierRefused, IdentifierTooLong) as error:
            association.respond(message, IDENTIFIER_DOES_NOT_MATCH, str(error))
        except StorageError as error:
            log.warning("retrieve.not_counted", why=str(error))
            association.respond(message, CANNOT_COUNT, "the index is not available")
        return None

    def respond(self, status: int, counts: SubOperations, identifier: bytes = b"", comment: str = "") -> None:
        """Send a response with its counts."""
        context_id, limit = self.message.context.id, self.association.context.max_pdu
        command = encode_retrieve_response(
            self.message.command, status, counts, comment, has_data_set=bool(identifier), remaining=status in (PENDING, CANCELED)
        )
        data = frame_data_set(context_id, identifier, limit) if identifier else b""
        self.association.connection.send(frame_command_split(context_id, command, limit) + data)

    def conclude(self, progress: Progress, comment: str = "") -> None:
        """Send the final response, with the list of what failed."""
        identifier = failed_list(progress.failed_uids, self.message.context.transfer_syntax) if progress.failed_uids else b""
        counts, status = progress.counts, progress.status
        log.info("retrieve.ended", status=f"{status:04X}", **counts._asdict())
        self.respond(status, counts, identifier, comment)


def failed_list(uids: Sequence[str], transfer_syntax: str) -> bytes:
    """Encode Failed SOP Instance UID List (0008,0058), as UN where it is too long for an explicit UI (PS3.5 6.2.2)."""
    value = even("\\".join(uids).encode("ascii", "replace"))
    order = ">" if transfer_syntax == EXPLICIT_VR_BIG_ENDIAN else "<"
    if transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN:
        data = pack("<HHL", 0x0008, 0x0058, len(value)) + value
    elif len(value) < 0xFFFF:
        data = pack(order + "HH2sH", 0x0008, 0x0058, b"UI", len(value)) + value
    else:
        data = pack(order + "HH2sHL", 0x0008, 0x0058, b"UN", 0, len(value)) + value
    if transfer_syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = even(deflater.compress(data) + deflater.flush())
    return data
