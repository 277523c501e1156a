"""C-STORE sub-operations: instances sent over an association that is open, the answer awaited apart from the sending."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final

from dicom_node.dimse import pdu
from dicom_node.dimse.connection import HEADER, Connection
from dicom_node.dimse.errors import ContextNotAccepted, ProtocolError
from dicom_node.dimse.message import C_CANCEL_RQ, C_STORE_RQ, RESPONSE, Command, decode_command, encode_store_request, frame_command_split

MAX_FRAGMENT: Final = 1 << 18
"""Longest P-DATA-TF that is sent, in bytes, also to a peer that takes longer ones."""
_GATHERED: Final = 1000  # buffers of one sendmsg; systems take 1024
_LAST: Final = 2
_pack_head = Struct(">BBLLBB").pack


@lru_cache(maxsize=256)
def header(context_id: int, size: int, *, last: bool) -> bytes:
    """PDU and PDV header of one fragment."""
    return _pack_head(pdu.P_DATA, 0, size + HEADER, size + 2, context_id, _LAST if last else 0)


@dataclass(frozen=True, slots=True)
class Outbound:
    """An instance to be sent, in the transfer syntax in which it is sent."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    length: int
    chunks: Iterable[memoryview]


class StoreChannel:
    """Sends C-STORE requests.

    Parameters
    ----------
    max_length
        The peer's maximum length; 0 means that it has none.
    contexts
        Presentation contexts on which instances may be sent: SOP class and transfer syntax to the context's id.
    other
        Hears of a C-CANCEL that arrives while a response is awaited.
    """

    def __init__(
        self,
        connection: Connection,
        max_length: int,
        contexts: Mapping[tuple[str, str], int],
        *,
        other: Callable[[Command], None] | None = None,
    ) -> None:
        self._connection = connection
        self._max_length = max_length
        room = min(max_length or MAX_FRAGMENT, MAX_FRAGMENT)
        self._room = max((room - HEADER) & ~1, 2)  # fragments have even length: PS3.8 E.1
        self._contexts = contexts
        self._other = other
        self._awaited = (0, 0)
        self.begun = False
        self._syntaxes: dict[str, list[str]] = {}
        for sop_class, syntax in contexts:
            self._syntaxes.setdefault(sop_class, []).append(syntax)

    def syntaxes(self, sop_class_uid: str) -> list[str]:
        """Transfer syntaxes in which instances of a class may be sent."""
        return self._syntaxes.get(sop_class_uid, [])

    def send(self, message_id: int, item: Outbound, priority: int = 0, originator: tuple[str, int] | None = None) -> None:
        """Send an instance.

        Raises
        ------
        ContextNotAccepted
            Nothing was sent.
        DimseError, StorageError
            Where ``begun`` says that a part of it was sent, the association cannot go on.
        """
        self.begun = False
        context_id = self._contexts.get((item.sop_class_uid, item.transfer_syntax_uid))
        if context_id is None:
            raise ContextNotAccepted(item.sop_class_uid, item.transfer_syntax_uid)
        command = encode_store_request(message_id, item.sop_class_uid, item.sop_instance_uid, priority, originator=originator)
        self._awaited = (context_id, message_id)
        parts: list[bytes | memoryview] = [frame_command_split(context_id, command, self._max_length)]
        left = item.length
        for chunk in item.chunks:
            for start in range(0, len(chunk), self._room):
                piece = chunk[start : start + self._room]
                left -= len(piece)
                parts += (header(context_id, len(piece), last=not left), piece)
                if len(parts) >= _GATHERED:
                    parts = self._gathered(parts)
            if parts:  # before the next chunk takes the place of this one
                parts = self._gathered(parts)
        if not item.length:
            self._gathered([*parts, header(context_id, 0, last=True)])

    def _gathered(self, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
        self.begun = True
        self._connection.send_gathered(parts)
        return []

    def answer(self) -> tuple[int, str]:
        """Await the response to what was sent last: its status and Error Comment.

        Raises
        ------
        DimseError
        """
        context_id, message_id = self._awaited
        while True:
            received_on, data = self._connection.read_command()
            command = decode_command(data)
            if command.field == C_CANCEL_RQ:
                if self._other is not None:
                    self._other(command)
                continue
            if command.field != C_STORE_RQ | RESPONSE or command.message_id != message_id or received_on != context_id:
                raise ProtocolError("a response to something else")
            return command.status, command.error_comment
