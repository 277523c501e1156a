"""Stored instances on their way out: read a segment at a time, whole instances at once, checked against their digest before they leave.

::

    with SequentialReader(archive) as reader:
        for stored in select_instances(archive, keys):
            loaded = reader.load(stored)
            send(loaded.chunks())

C-MOVE and C-GET read this way, with two readers, so that one instance is loaded while another is sent.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import blake3

from dicom_node.buffers import Buffers, reserve
from storage.archive import Archive, StoredInstance
from storage.errors import Damaged

WHOLE: Final = 16 << 20
"""Largest data set that is read as a whole, in bytes; a larger one is read in chunks of ``CHUNK``, while it is sent."""
CHUNK: Final = 4 << 20


class SequentialReader:
    """Reads instances one after the other through one buffer and, within a segment, one descriptor. Not thread-safe.

    Parameters
    ----------
    buffers
        Where the buffer comes from, and goes to at the end.
    """

    def __init__(self, archive: Archive, buffers: Buffers | None = None) -> None:
        self._archive = archive
        self._buffers = Buffers() if buffers is None else buffers
        self._memory: mmap.mmap | None = None
        self._path: Path | None = None
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def load(self, stored: StoredInstance) -> Loaded:
        """Read an instance; what was loaded before is no longer valid.

        Raises
        ------
        Damaged
            Its bytes are not those that were stored.
        NotFound
            It was deleted meanwhile.
        IndexUnavailable
        """
        if stored.damaged:
            raise Damaged("the instance is marked as damaged")
        try:
            return self._load(stored)
        except (Damaged, FileNotFoundError, ValueError):
            pass
        except OSError as error:
            raise Damaged(f"its segment cannot be read: {error.strerror}") from error
        return self._load_again(stored)

    def _load_again(self, stored: StoredInstance) -> Loaded:
        """Look it up anew: compacting moves an instance, deleting takes it away."""
        now = self._archive.open_instance(stored.sop_uid)
        self._close_segment()
        try:
            return self._load(now)
        except OSError as error:
            raise Damaged(f"its segment cannot be read: {error.strerror}") from error

    def _load(self, stored: StoredInstance) -> Loaded:
        descriptor = self._open(stored.path)
        length, start = stored.length - stored.meta_length, stored.offset + stored.meta_length
        if length > WHOLE:
            return Loaded(stored, length, self._in_chunks(descriptor, start, length, stored.digest))
        view = memoryview(self._room(length))[:length]
        read_into(descriptor, view, start)
        if blake3.blake3(view).hexdigest() != stored.digest:
            raise Damaged("the data set is not the one that was stored")
        return Loaded(stored, length, iter((view,)))

    def _in_chunks(self, descriptor: int, start: int, length: int, digest: str) -> Iterator[memoryview]:
        """The last chunk is given out only where all of them have the digest: what is damaged or deleted is never whole at the peer."""
        memory = memoryview(self._room(CHUNK))
        hasher = blake3.blake3()
        for offset in range(0, length, CHUNK):
            view = memory[: min(CHUNK, length - offset)]
            read_into(descriptor, view, start + offset)
            hasher.update(view)
            if offset + len(view) == length and hasher.hexdigest() != digest:
                raise Damaged("the data set is not the one that was stored")
            yield view

    def _room(self, length: int) -> mmap.mmap:
        if self._memory is None:
            self._memory = self._buffers.take()
        if length > len(self._memory):
            self._buffers.give(self._memory)
            self._memory = reserve(length)
        return self._memory

    def _open(self, path: Path) -> int:
        if path is not self._path and path != self._path:
            self._close_segment()
            self._descriptor, self._path = os.open(path, os.O_RDONLY | os.O_CLOEXEC), path
            if hasattr(os, "posix_fadvise"):
                with contextlib.suppress(OSError):
                    os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return self._descriptor

    def close(self) -> None:
        """Close the segment and give the buffer back; what was loaded is no longer valid. The reader may be used again."""
        self._close_segment()
        if self._memory is not None:
            self._buffers.give(self._memory)
            self._memory = None

    def _close_segment(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._path = -1, None


class Loaded:
    """An instance that was read.

    Attributes
    ----------
    length
        Bytes of the data set, without file meta.
    """

    __slots__ = ("_chunks", "length", "stored")

    def __init__(self, stored: StoredInstance, length: int, chunks: Iterator[memoryview]) -> None:
        self.stored = stored
        self.length = length
        self._chunks = chunks

    def chunks(self) -> Iterator[memoryview]:
        """The data set's bytes, once; each view is valid until the next, or until the next load.

        Raises
        ------
        Damaged
            Before the last chunk of one that is too large to be read as a whole first.
        """
        return self._chunks


def read_into(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill a view from a file; raises Damaged where the file ends before."""
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            raise Damaged("its segment ends inside it")
        done += count
