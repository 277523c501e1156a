"""One TCP connection that speaks PDUs: framing in and out, deadlines, length caps.

Everything is received into one buffer that is reused for the life of the connection. A P-DATA-TF PDU is taken
apart where it lies; what is handed out are views into the buffer, valid until the next receive.
"""

from __future__ import annotations

import contextlib
import mmap
import select
import socket
import ssl
import time
from collections.abc import Sequence
from struct import Struct
from typing import Final, cast

from dicom_node.buffers import reserve
from dicom_node.dimse import pdu
from dicom_node.dimse.errors import (
    REASON_INVALID_PARAMETER,
    REASON_UNEXPECTED_PDU,
    REASON_UNRECOGNIZED_PDU,
    AssociationAborted,
    AssociationReleased,
    ConnectionLost,
    ProtocolError,
    Timeout,
)
from dicom_node.dimse.message import MAX_COMMAND

type_and_length: Final = Struct(">BxL").unpack_from
_pdv_header: Final = Struct(">LBB").unpack_from
_timeval: Final = Struct("@ll").pack
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
HEADER: Final = 6
DEFAULT_MAX_PDU: Final = 131_072
_BUFFERED_PDUS: Final = 4
_TLS_SLICE: Final = 0.5


def configure(sock: socket.socket) -> None:
    """Set what every DICOM socket needs: no Nagle, keepalive, no inheritance."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _timeout(seconds: float) -> bytes:
    return _timeval(int(seconds), max(int(seconds % 1 * 1_000_000), 1))


class Connection:
    """A connected socket, plain or TLS, and its receive buffer.

    Parameters
    ----------
    max_pdu
        Longest P-DATA-TF PDU taken; what we announce as our maximum length.
    stall
        Seconds without a byte, inside a message, after which the peer is given up.
    send_deadline
        Seconds that a send may wait for the peer to read; ``stall`` where it is not given.
    idle
        Seconds that the peer may be silent between messages.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        max_pdu: int = DEFAULT_MAX_PDU,
        stall: float = 60.0,
        idle: float = 600.0,
        send_deadline: float | None = None,
    ) -> None:
        self.sock = sock
        self.max_pdu = max_pdu
        self.idle = idle
        self.received = 0
        self._buffer = reserve(_BUFFERED_PDUS * (max_pdu + HEADER))
        self._view = memoryview(self._buffer)
        self._position = self._end = self._pdu_end = 0
        self._mid_message = False
        self._command = b""
        self._command_on = -1
        self._slow_since = 0.0
        self._interrupted = False
        self._quickack = _QUICKACK
        self._tls = isinstance(sock, ssl.SSLSocket)
        self.stall = self.send_deadline = stall if send_deadline is None else send_deadline
        self.set_stall(stall)

    def set_stall(self, seconds: float) -> None:
        """Set the deadline of each single receive.

        A plain socket stays a blocking one and the kernel keeps the time: that saves a poll before each receive.
        """
        self.stall = self._slice = seconds
        if self._tls:
            self._slice = min(max(seconds, 0.001), _TLS_SLICE)
            self.sock.settimeout(self._slice)
            return
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeout(seconds))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeout(self.send_deadline))

    # ------------------------------------------------------------------ out

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything, or raise Timeout or ConnectionLost."""
        try:
            if self._tls:
                self.sock.settimeout(self.send_deadline)
            self.sock.sendall(data)
            if self._tls:
                self.sock.settimeout(self._slice)
        except (BlockingIOError, TimeoutError, ssl.SSLWantWriteError) as error:
            raise Timeout("the peer stopped reading", step="send") from error
        except OSError as error:
            raise ConnectionLost(f"connection lost while sending: {error.strerror or type(error).__name__}") from error

    def send_gathered(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send several buffers as one, without joining them where the socket can."""
        if self._tls:
            self.send(b"".join(parts))
            return
        try:
            sent = self.sock.sendmsg(parts)
        except (BlockingIOError, TimeoutError) as error:
            raise Timeout("the peer stopped reading", step="send") from error
        except OSError as error:
            raise ConnectionLost(f"connection lost while sending: {error.strerror or type(error).__name__}") from error
        for part in parts:
            size = len(part)
            if sent >= size:
                sent -= size
                continue
            self.send(memoryview(part)[sent:] if sent else part)
            sent = 0

    def abort(self, source: int, reason: int) -> None:
        """Send an A-ABORT, if the peer still takes it, and nothing after it."""
        with contextlib.suppress(OSError):
            self.sock.settimeout(1.0)
            self.sock.sendall(pdu.encode_abort(source, reason))

    def close(self) -> None:
        self.sock.close()

    def interrupt(self, how: int = socket.SHUT_RD) -> None:
        """Wake the thread that waits in a receive (SHUT_RDWR: or in a send); may be called from another thread."""
        self._interrupted = True
        if self._tls and how == socket.SHUT_RD:
            return  # a TLS session that has met the end of its stream could send no A-ABORT; its receive looks at the flag
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, how)

    # ------------------------------------------------------------------- in

    def expect_data_set(self) -> None:
        """Say that the message goes on: silence is now a stall, not idleness."""
        self._mid_message = True

    def has_input(self, seconds: float = 0.0) -> bool:
        """Whether something has come in that was not read yet; waits for it at most ``seconds``."""
        return self._position < self._end or self._pending_tls() or self._readable(seconds)

    def _pending_tls(self) -> bool:
        return self._tls and bool(cast(ssl.SSLSocket, self.sock).pending())

    def _readable(self, seconds: float) -> bool:
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def read_command(self) -> tuple[int, bytes]:
        """Receive the next command set: its presentation context and its bytes.

        Raises
        ------
        AssociationReleased, AssociationAborted, ConnectionLost, Timeout, ProtocolError
        """
        while (received := self._whole_command()) is None:
            self._next_pdu(wait=True)
        return received

    def poll_command(self) -> tuple[int, bytes] | None:
        """Take the next command set where all of it has come in; never waits for the rest of one, which is kept for the next call.

        Raises
        ------
        AssociationReleased, AssociationAborted, ConnectionLost, ProtocolError
        """
        while (received := self._whole_command()) is None:
            if not self._next_pdu(wait=False, control=True) and not self._fill_now():
                return None
        return received

    def _whole_command(self) -> tuple[int, bytes] | None:
        """Read on in the PDU that is here; a command set that is not yet complete is kept."""
        view, buffer = self._view, self._buffer
        while self._position < self._pdu_end:
            start, stop, context_id, control = self._pdv(buffer)
            if not control & 1:
                if start == stop and self._command_on < 0:
                    continue
                raise ProtocolError("data where a command was expected", REASON_UNEXPECTED_PDU)
            if self._command_on < 0:
                self._command_on = context_id
            elif self._command_on != context_id:
                raise ProtocolError("a command spread over two presentation contexts")
            self._command = self._command + view[start:stop] if self._command else bytes(view[start:stop])
            if control & 2:
                whole, self._command, self._command_on, self._mid_message = self._command, b"", -1, False
                return context_id, whole
            if len(self._command) > MAX_COMMAND:
                raise ProtocolError("command set too long")
            self._mid_message = True
        return None

    def read_data(self, context: int) -> tuple[list[memoryview], bool]:
        """Receive what there is of the current message's data set: views, and whether that was the last of it.

        The views are valid until the next call.
        """
        view, buffer = self._view, self._buffer
        views: list[memoryview] = []
        while True:
            while self._position < self._pdu_end:
                start, stop, context_id, control = self._pdv(buffer)
                if control & 1 or context_id != context:
                    raise ProtocolError("a command inside a data set", REASON_UNEXPECTED_PDU)
                if stop > start:
                    views.append(view[start:stop])
                if control & 2:
                    self._mid_message = False
                    return views, True
            if not self._next_pdu(wait=not views):
                return views, False

    def _pdv(self, buffer: mmap.mmap) -> tuple[int, int, int, int]:
        position = self._position
        if self._pdu_end - position < HEADER:
            raise ProtocolError("P-DATA-TF ends inside a PDV")
        length, context_id, control = _pdv_header(buffer, position)
        stop = position + 4 + length
        if length < 2 or stop > self._pdu_end:
            raise ProtocolError("PDV length does not fit its PDU")
        self._position = stop
        return position + HEADER, stop, context_id, control

    def _next_pdu(self, *, wait: bool, control: bool = False) -> bool:
        """Make the next P-DATA-TF PDU the current one; False where it is not yet here and we shall not wait.

        One of another type raises what it means, where it is waited for, or is here and ``control`` says so.
        """
        while True:
            have, need = self._end - self._position, HEADER
            if have >= HEADER:
                kind, length = type_and_length(self._buffer, self._position)
                if kind == pdu.P_DATA:
                    if length > self.max_pdu:
                        raise ProtocolError("P-DATA-TF longer than the negotiated maximum")
                    need = HEADER + length
                    if have >= need:
                        self._position += HEADER
                        self._pdu_end = self._position + length
                        return True
                elif wait or (control and have >= HEADER + 4):
                    self._control_pdu(kind, length)
            if not wait:
                return False
            self._fill(need)

    def _control_pdu(self, kind: int, length: int) -> None:
        """Handle a PDU that is not P-DATA-TF: always by raising what it means."""
        if kind not in (pdu.RELEASE_RQ, pdu.RELEASE_RP, pdu.ABORT):
            known = kind in (pdu.ASSOCIATE_RQ, pdu.ASSOCIATE_AC, pdu.ASSOCIATE_RJ)
            raise ProtocolError(f"unexpected PDU of type {kind}", REASON_UNEXPECTED_PDU if known else REASON_UNRECOGNIZED_PDU)
        if length != 4:
            raise ProtocolError(f"PDU of type {kind} with length {length}", REASON_INVALID_PARAMETER)
        while self._end - self._position < HEADER + 4:
            self._fill(HEADER + 4)
        source, reason = self._buffer[self._position + 8], self._buffer[self._position + 9]
        self._position += HEADER + 4
        self._pdu_end = self._position
        if kind == pdu.RELEASE_RQ:
            raise AssociationReleased("released by the peer")
        if kind == pdu.ABORT:
            raise AssociationAborted(source, reason)
        raise ProtocolError("A-RELEASE-RP without a request", REASON_UNEXPECTED_PDU)

    def read_pdu(self, cap: int, *, deadline: float) -> tuple[int, bytes]:
        """Receive one whole PDU of any type, outside of P-DATA, by a deadline on the monotonic clock: type and body."""
        stall = self.stall
        try:
            return self._read_pdu(cap, deadline)
        finally:
            self.set_stall(stall)

    def _read_pdu(self, cap: int, deadline: float) -> tuple[int, bytes]:
        while self._end - self._position < HEADER:
            self._fill_by(HEADER, deadline)
        kind, length = type_and_length(self._buffer, self._position)
        if not pdu.ASSOCIATE_RQ <= kind <= pdu.ABORT:
            raise ProtocolError(f"unrecognized PDU of type {kind}", REASON_UNRECOGNIZED_PDU)
        if length > cap:
            raise ProtocolError(f"PDU of type {kind} longer than {cap} bytes", REASON_INVALID_PARAMETER)
        self._position += HEADER
        body = bytearray()
        while len(body) < length:
            if self._position == self._end:
                self._fill_by(1, deadline)
            taken = min(self._end - self._position, length - len(body))
            body += self._view[self._position : self._position + taken]
            self._position += taken
        self._pdu_end = self._position
        return kind, bytes(body)

    def _fill_by(self, need: int, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Timeout("no PDU within the deadline", step="association")
        self.set_stall(max(left, 0.001))
        self._mid_message = True
        try:
            self._fill(need)
        finally:
            self._mid_message = False

    def _fill_now(self) -> bool:
        """Receive what has come in; False where there is nothing, or no room for it."""
        end = self._make_room(HEADER + self.max_pdu)
        if end == len(self._buffer) or (not self._pending_tls() and not self._readable(0.0)):
            return False
        try:
            if self._tls:
                self.sock.settimeout(0.0)
            count = self.sock.recv_into(self._view[end:], 0, 0 if self._tls else socket.MSG_DONTWAIT)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError as error:
            raise ConnectionLost(f"connection lost: {error.strerror or type(error).__name__}") from error
        finally:
            if self._tls:
                self.sock.settimeout(self._slice)
        if not count:
            raise ConnectionLost
        self._end = end + count
        self.received += count
        return True

    def _fill(self, need: int) -> None:
        """Receive at least one byte behind what is there; ``need`` bytes from the current position must have room."""
        end = self._make_room(need)
        position = self._position
        inside = self._mid_message or end > position
        if inside and self._quickack is not None:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.IPPROTO_TCP, self._quickack, 1)
        count = self._receive(end, inside)
        self._end = end + count
        self.received += count
        if self._end - position >= need:
            self._slow_since = 0.0
        elif not self._slow_since:
            self._slow_since = time.monotonic()
        elif time.monotonic() - self._slow_since > 2 * self.stall:
            raise Timeout("a PDU took too long to arrive", step="receive")

    def _make_room(self, need: int) -> int:
        """Move what is there to the front where ``need`` bytes would not fit behind it; return where it ends."""
        position, end = self._position, self._end
        if position == end:
            position = end = 0
        elif position + need > len(self._buffer):
            self._view[: end - position] = self._view[position:end]
            position, end = 0, end - position
        self._position, self._end, self._pdu_end = position, end, position
        return end

    def _receive(self, end: int, inside: bool) -> int:
        waited = 0.0
        while True:
            try:
                count = self.sock.recv_into(self._view[end:])
            except (BlockingIOError, TimeoutError, ssl.SSLWantReadError) as error:
                waited += self._slice
                if self._interrupted:
                    raise ConnectionLost("interrupted") from error
                if waited >= (self.stall if inside else self.idle):
                    raise Timeout("the peer went silent", step="receive") from error
                continue
            except OSError as error:
                raise ConnectionLost(f"connection lost: {error.strerror or type(error).__name__}") from error
            if not count:
                raise ConnectionLost
            return count
