"""A response's body from files to the client's socket, past the web server: sendfile in a thread, no copy of a byte in this process.

The server writes the head and ends the message; h11 is told how many bytes went by (its documented way for sendfile). A thread works only
while the socket takes something: a slow client is waited for in the event loop, and dropped when it takes nothing for its `read_deadline`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, cast

import h11
from starlette.types import Scope

from dicom_node.web.limits import CONNECTION, DeadlineProtocol

PATIENCE: Final = 0.05  # seconds that a thread waits for a socket before it gives up its place
_THREADS: Final = ThreadPoolExecutor(8, thread_name_prefix="sendfile")


class Extent:
    """`length` bytes at `offset` of a segment, with what is sent before them; `file`: where the Part 10 file begins that holds them."""

    __slots__ = ("file", "head", "length", "offset", "path")

    def __init__(self, head: bytes, path: Path, offset: int, length: int, file: int) -> None:
        self.head = head
        self.path = path
        self.offset = offset
        self.length = length
        self.file = file


def check_still_there(descriptor: int, extent: Extent) -> None:
    """A deletion punches a file's bytes: were they still there when the last of them was read? Raises OSError where not."""
    if os.pread(descriptor, 4, extent.file + 128) != b"DICM":
        raise OSError(f"what lay at {extent.offset} of {extent.path.name} was deleted meanwhile")


def wire_of(scope: Scope) -> DeadlineProtocol | None:
    """The connection of a request; None where something else serves it."""
    wire = scope.get("extensions", {}).get(CONNECTION)
    return wire if isinstance(wire, DeadlineProtocol) else None


async def send_extents(wire: DeadlineProtocol, extents: Sequence[Extent], end: bytes) -> None:
    """Send extents and what follows them; the head of a response with exactly this Content-Length has been written.

    Raises
    ------
    OSError
        The client is gone or does not read, or a file is not what it was; the connection is closed, the body not complete.
    """
    transport = wire.transport
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(wire.read_deadline):
            while transport.get_write_buffer_size():  # all but never: the head went out at once
                await asyncio.sleep(0.001)
        length = sum(len(each.head) + each.length for each in extents) + len(end)
        wire.conn.send_with_data_passthrough(h11.Data(data=cast(bytes, _SentElsewhere(length))))
        with transport.get_extra_info("socket").dup() as connection:
            sender = _Sender(connection, extents, end)
            try:
                while not await _in_thread(loop, sender):
                    async with asyncio.timeout(wire.read_deadline):
                        await _writable(loop, connection)
            finally:
                sender.close()
    except TimeoutError:
        transport.abort()
        raise OSError("the client does not read") from None
    except BaseException:
        transport.abort()
        raise


async def _in_thread(loop: asyncio.AbstractEventLoop, sender: _Sender) -> bool:
    """Let a thread send for a while; also where the request is canceled, it has ended when this returns."""
    working = loop.run_in_executor(_THREADS, sender.run)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        sender.stopped = True
        with contextlib.suppress(OSError):
            await working
        raise


async def _writable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(connection.fileno(), tell)
    try:
        await ready
    finally:
        loop.remove_writer(connection.fileno())


class _SentElsewhere:
    """Stands for bytes that h11 never sees."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


class _Sender:
    """What is left to send. Used by one thread at a time."""

    def __init__(self, connection: socket.socket, extents: Sequence[Extent], end: bytes) -> None:
        connection.setblocking(False)
        self.stopped = False
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLOUT)
        self._extents = iter(extents)
        self._current: Extent | None = None
        self._pending = memoryview(b"")
        self._end: bytes | None = end
        self._position = 0
        self._path: Path | None = None
        self._file = -1

    def run(self) -> bool:
        """Send until all is sent (True), or until the client has taken nothing for a moment."""
        while not self.stopped:
            try:
                if self._pending:
                    self._pending = self._pending[self._socket.send(self._pending, socket.MSG_MORE if self._current else 0) :]
                elif self._current is not None:
                    self._send_file(self._current)
                elif not self._next():
                    return True
            except BlockingIOError:
                if not self._poll.poll(1000 * PATIENCE):
                    return False
        return True

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _next(self) -> bool:
        self._current = next(self._extents, None)
        if self._current is None:
            self._pending, self._end = memoryview(self._end or b""), None
            return bool(self._pending)
        if self._current.path != self._path:
            self.close()
            self._file = os.open(self._current.path, os.O_RDONLY | os.O_CLOEXEC)
            self._path = self._current.path
        self._pending, self._position = memoryview(self._current.head), self._current.offset
        return True

    def _send_file(self, extent: Extent) -> None:
        left = extent.offset + extent.length - self._position
        if left:
            sent = os.sendfile(self._socket.fileno(), self._file, self._position, left)
            if not sent:
                raise OSError(f"{extent.path.name} ends at {self._position}")
            self._position += sent
        if sent_all := self._position == extent.offset + extent.length:
            check_still_there(self._file, extent)
        self._current = None if sent_all else extent
