"""Reading ahead of the socket: while one instance is sent and answered, a thread reads, checks and, where needed, transcodes the next."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from dicom_node.buffers import Buffers
from dicom_node.dimse.errors import ContextNotAccepted
from dicom_node.dimse.suboperations import Outbound
from dicom_node.errors import NodeError
from dicom_node.retrieve import SequentialReader
from storage.archive import Archive, StoredInstance
from storage.errors import StorageError

READERS: Final = 2
"""Instances in memory at once: the one that is sent, and the one that is read meanwhile."""

LOOK: Final = 0.1  # seconds between two looks at what else there is, while an instance is awaited

Prepare = Callable[[SequentialReader, StoredInstance], Outbound]


@dataclass(frozen=True, slots=True)
class Ready:
    """An instance that was read and is in the transfer syntax in which it goes; valid until its reader is given back."""

    stored: StoredInstance
    outbound: Outbound
    reader: SequentialReader


@dataclass(frozen=True, slots=True)
class Unready:
    """An instance that cannot be sent, and why."""

    stored: StoredInstance
    why: str


Item = Ready | Unready


class ReadAhead:
    """Yields instances in their order, each read before it is asked for where there was time.

    Every reader has a buffer of its own; it reads the next instance once the one before it was given back by :meth:`sent`. The first
    is read by the thread as well: it may take long to transcode, and a C-CANCEL is heard meanwhile.

    Parameters
    ----------
    prepare
        Reads an instance; what it raises of StorageError, NodeError and ContextNotAccepted makes that instance one that cannot be sent.
    canceled
        Called again and again while an instance takes long to be ready; True ends the iteration.
    """

    def __init__(
        self,
        archive: Archive,
        instances: Sequence[StoredInstance],
        prepare: Prepare,
        buffers: Buffers | None = None,
        canceled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._instances = instances
        self._prepare = prepare
        self._canceled = canceled
        self._stopping = False
        self._readers = [SequentialReader(archive, buffers) for _ in range(READERS)]
        self._free: SimpleQueue[SequentialReader | None] = SimpleQueue()
        self._read: SimpleQueue[Item | BaseException] = SimpleQueue()
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._work,), name="read-ahead", daemon=True)

    def __iter__(self) -> Iterator[Item]:
        if not self._instances:
            return
        for reader in self._readers:
            self._free.put(reader)
        self._thread.start()
        for _ in self._instances:
            item = self._next()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _next(self) -> Item | BaseException | None:
        while True:
            try:
                return self._read.get(timeout=LOOK)
            except Empty:
                if self._canceled():
                    return None

    def sent(self, item: Ready) -> None:
        """Give back what an instance was read into: its bytes are out."""
        self._free.put(item.reader)

    def stop(self) -> None:
        """Read no more; does not wait for what is being read."""
        self._stopping = True
        self._free.put(None)

    def close(self) -> None:
        """Await the end of the thread, and close the segments."""
        self.stop()
        if self._thread.ident is not None:
            self._thread.join()
        for reader in self._readers:
            reader.close()

    def _work(self) -> None:
        try:
            for stored in self._instances:
                reader = self._free.get()
                if reader is None or self._stopping:
                    return
                self._read.put(self._item(reader, stored))
        except BaseException as error:  # noqa: BLE001 - raised again where the instance is asked for
            self._read.put(error)

    def _item(self, reader: SequentialReader, stored: StoredInstance) -> Item:
        try:
            return Ready(stored, self._prepare(reader, stored), reader)
        except (StorageError, NodeError, ContextNotAccepted) as error:
            self._free.put(reader)
            return Unready(stored, str(error))
