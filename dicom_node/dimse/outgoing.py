"""A data set on its way out: cut into P-DATA-TF PDUs of the peer's size, never held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct
from typing import BinaryIO, Final, cast

from dicom_node.dimse import pdu
from dicom_node.dimse.connection import DEFAULT_MAX_PDU, HEADER, Connection
from dicom_node.dimse.errors import DimseError

Chunks = Iterable[bytes | bytearray | memoryview]

_PDV: Final = 12  # PDU header and PDV header
_LAST: Final = 2
_GATHERED: Final = 512  # buffers in one sendmsg; systems take 1024
_pack_head = Struct(">BBLLBB").pack_into


class ShortDataSet(DimseError):
    """A data set ended before the length that was announced for it."""

    step = "store"


class Outgoing:
    """Sends data sets over one connection.

    Parameters
    ----------
    max_length
        The peer's maximum length; 0 means that it has none.
    """

    def __init__(self, connection: Connection, max_length: int) -> None:
        self._connection = connection
        room = max_length if 0 < max_length <= DEFAULT_MAX_PDU else DEFAULT_MAX_PDU
        self._room = max((room - HEADER) & ~1, 2)  # fragments have even length: PS3.8 E.1
        together = min(max(DEFAULT_MAX_PDU // self._room, 1), _GATHERED // 2 - 1)
        self._data = memoryview(bytearray(together * self._room))
        self._heads = memoryview(bytearray(together * _PDV))
        self.begun = False

    def send(self, head: bytes, context_id: int, length: int, source: Callable[[], BinaryIO | Chunks]) -> None:
        """Send ``head``, the command's PDU, and the data set; ``begun`` says whether anything of it is out.

        Raises
        ------
        ShortDataSet, ConnectionLost, Timeout, and whatever reading the source raises
        """
        self.begun = False
        opened = source()
        try:
            if hasattr(opened, "readinto"):
                self._send_file(head, context_id, cast(BinaryIO, opened), length)
            else:
                self._send_chunks(head, context_id, opened, length)
        finally:
            if hasattr(opened, "close"):
                opened.close()

    def _send_file(self, head: bytes, context_id: int, source: BinaryIO, left: int) -> None:
        """As many PDUs a read as the buffer takes, which leave together: a peer of short PDUs costs no read and no send for each."""
        room = self._room
        parts: list[bytes | bytearray | memoryview] = [head]
        while left or not self.begun:
            batch = min(left, len(self._data))
            self._fill(source, batch, left)
            for number, start in enumerate(range(0, max(batch, 1), room)):
                size = min(batch - start, room)
                left -= size
                header = self._heads[number * _PDV : (number + 1) * _PDV]
                self._head(header, size, context_id, left)
                parts += (header, self._data[start : start + size])
            self.begun = True
            self._connection.send_gathered(parts)
            parts = []

    def _fill(self, source: BinaryIO, size: int, left: int) -> None:
        got = 0
        while got < size:
            count = source.readinto(self._data[got:size])  # type: ignore[attr-defined]
            if not count:
                raise ShortDataSet(f"{left - got} bytes fewer than announced")
            got += count

    def _send_chunks(self, head: bytes, context_id: int, source: Chunks, left: int) -> None:
        """Cut chunks to PDVs; what they hold leaves as it lies, gathered with its headers."""
        parts: list[bytes | bytearray | memoryview] = [head]
        chunks = iter(source)
        pending = memoryview(b"")
        while left or not self.begun:
            size = min(left, self._room)
            left -= size
            header = bytearray(_PDV)
            self._head(header, size, context_id, left)
            parts.append(header)
            while size:
                while not pending:
                    chunk = next(chunks, None)
                    if chunk is None:
                        raise ShortDataSet(f"{left + size} bytes fewer than announced")
                    pending = memoryview(chunk)
                parts.append(pending[:size])
                size -= len(parts[-1])
                pending = pending[len(parts[-1]) :]
            self.begun = True
            self._connection.send_gathered(parts if len(parts) <= _GATHERED else [b"".join(parts)])
            parts = []

    def _head(self, into: bytearray | memoryview, size: int, context_id: int, left: int) -> None:
        _pack_head(into, 0, pdu.P_DATA, 0, size + HEADER, size + 2, context_id, 0 if left else _LAST)
