"""Sockets that have no association yet, and those that have no more: one selector, no thread each.

A socket waits here until its A-ASSOCIATE-RQ is whole (or, with TLS, until its first byte), or its deadline passes.
After a rejection, abort or release it comes back, so that the peer can read the last PDU and close from its side.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from dicom_node.dimse import pdu
from dicom_node.dimse.connection import HEADER, configure, type_and_length
from dicom_node.dimse.errors import (
    ABORT_BY_PROVIDER,
    REASON_INVALID_PARAMETER,
    REASON_UNEXPECTED_PDU,
    REASON_UNRECOGNIZED_PDU,
)
from dicom_node.dimse.faults import describe

log = structlog.get_logger()

_FAREWELL: Final = 2.0
_LAST_LINGER: Final = 0.2
_ACCEPT_AT_ONCE: Final = 64
_CHUNK: Final = 65_536
_PAUSE: Final = 0.05
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
LIMIT_EXCEEDED: Final = (2, 3, 2)  # transient, presentation service provider, local limit exceeded
REJECT_LIMIT: Final = pdu.encode_associate_reject(*LIMIT_EXCEEDED)


class ReceptionSettings(Protocol):
    """What the reception reads of the server's settings."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def backlog(self) -> int: ...
    @property
    def reuse_port(self) -> bool: ...
    @property
    def per_address(self) -> int: ...
    @property
    def max_pending(self) -> int: ...
    @property
    def pre_association_deadline(self) -> float: ...
    @property
    def request_pdu_cap(self) -> int: ...


@dataclass(slots=True, eq=False)
class Arrival:
    """A socket whose request is here: ``body`` is that of the A-ASSOCIATE-RQ, None with TLS."""

    sock: socket.socket
    address: str
    deadline: float
    body: bytes | None = None


@dataclass(slots=True, eq=False)
class _Waiting:
    sock: socket.socket
    address: str
    deadline: float
    data: bytearray = field(default_factory=bytearray)
    leaving: bool = False
    registered: bool = False


class Reception:
    """Listens, and hands over each socket that has asked for an association.

    Parameters
    ----------
    arrived
        Called in the reception's thread; False says that there is no room, and the peer is told so.
    first_byte_only
        Hand over at the first byte, not at the whole request (TLS).
    """

    def __init__(self, settings: ReceptionSettings, arrived: Callable[[Arrival], bool], *, first_byte_only: bool = False) -> None:
        self._settings = settings
        self._arrived = arrived
        self._first_byte_only = first_byte_only
        self._selector = selectors.DefaultSelector()
        self._listener = _listen(settings)
        self.port = int(self._listener.getsockname()[1])
        self._waker, self._wakes = socket.socketpair()
        self._pending: dict[_Waiting, None] = {}
        self._by_address: dict[str, dict[_Waiting, None]] = {}
        self._leaving: dict[_Waiting, None] = {}
        self._inbox: collections.deque[socket.socket] = collections.deque()
        self._paused_until = 0.0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="dimse-reception", daemon=True)

    @property
    def pending(self) -> int:
        return len(self._pending)

    def start(self) -> None:
        for sock in (self._listener, self._wakes):
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, sock)
        self._listener.listen(self._settings.backlog)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and drop every socket that has no association."""
        self._stopping = True
        self._wake()
        self._thread.join()

    def farewell(self, sock: socket.socket) -> None:
        """Take a socket whose last PDU is sent; close it when the peer has, or soon."""
        if self._stopping:
            _linger(sock)
            return
        self._inbox.append(sock)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    # -------------------------------------------------------------- the loop

    def _run(self) -> None:
        while not self._stopping:
            try:
                for key, _ in self._selector.select(self._timeout()):
                    self._ready(key.data)
                self._expire()
            except Exception as error:  # noqa: BLE001 - the receiver goes on, whatever one socket did
                log.error("reception.failed", **describe(error))
        self._close_all()

    def _timeout(self) -> float | None:
        now = time.monotonic()
        nearest = [next(iter(waiting)).deadline for waiting in (self._pending, self._leaving) if waiting]
        if self._paused_until:
            nearest.append(self._paused_until)
        return max(min(nearest) - now, 0.0) if nearest else None

    def _ready(self, what: socket.socket | _Waiting) -> None:
        if what is self._listener:
            self._accept()
        elif what is self._wakes:
            with contextlib.suppress(OSError):
                self._wakes.recv(_CHUNK)
            while self._inbox:
                self._leave(_Waiting(self._inbox.popleft(), "", 0.0), b"")
        elif isinstance(what, _Waiting) and (what in self._pending or what in self._leaving):
            try:
                self._read(what)
            except BlockingIOError:
                return
            except OSError:
                self._drop(what)

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._make_room()
                    return
                continue
            sock.setblocking(False)
            configure(sock)
            waiting = _Waiting(sock, address[0], time.monotonic() + self._settings.pre_association_deadline)
            same = self._by_address.setdefault(waiting.address, {})
            if len(same) >= self._settings.per_address:
                self._evict(next(iter(same)))
            if len(self._pending) >= self._settings.max_pending:
                self._evict(next(iter(self._pending)))
            self._pending[waiting] = None
            self._by_address.setdefault(waiting.address, {})[waiting] = None
            self._register(waiting)

    def _register(self, waiting: _Waiting) -> None:
        self._selector.register(waiting.sock, selectors.EVENT_READ, waiting)
        waiting.registered = True

    def _unregister(self, waiting: _Waiting) -> None:
        if waiting.registered:
            waiting.registered = False
            self._selector.unregister(waiting.sock)

    def _make_room(self) -> None:
        """Out of descriptors: give up the oldest waiting socket, or leave the backlog alone for a moment."""
        if self._pending:
            self._evict(next(iter(self._pending)))
            return
        log.warning("reception.out_of_descriptors")
        self._selector.unregister(self._listener)
        self._paused_until = time.monotonic() + _PAUSE

    def _evict(self, waiting: _Waiting) -> None:
        log.debug("reception.evicted", address=waiting.address)
        self._drop(waiting)

    def _read(self, waiting: _Waiting) -> None:
        if waiting.leaving:
            if not socket.socket.recv(waiting.sock, _CHUNK):
                self._drop(waiting)
            return
        if self._first_byte_only:
            if waiting.sock.recv(1, socket.MSG_PEEK):
                self._hand_over(waiting)
            else:
                self._drop(waiting)
            return
        need = HEADER if len(waiting.data) < HEADER else HEADER + type_and_length(waiting.data, 0)[1]
        data = waiting.sock.recv(min(need - len(waiting.data), _CHUNK))
        if not data:
            self._drop(waiting)
            return
        waiting.data += data
        if len(waiting.data) < HEADER or not self._acceptable(waiting):
            return
        if len(waiting.data) == HEADER + type_and_length(waiting.data, 0)[1]:
            self._hand_over(waiting)

    def _acceptable(self, waiting: _Waiting) -> bool:
        kind, length = type_and_length(waiting.data, 0)
        reason = None
        if kind == pdu.ABORT:
            self._drop(waiting)
            return False
        if kind != pdu.ASSOCIATE_RQ:
            known = pdu.ASSOCIATE_RQ < kind <= pdu.ABORT
            reason = REASON_UNEXPECTED_PDU if known else REASON_UNRECOGNIZED_PDU
        elif length > self._settings.request_pdu_cap:
            reason = REASON_INVALID_PARAMETER
        if reason is None:
            return True
        log.info("reception.refused", address=waiting.address, pdu_type=kind, length=length)
        self._leave(waiting, pdu.encode_abort(ABORT_BY_PROVIDER, reason))
        return False

    def _hand_over(self, waiting: _Waiting) -> None:
        self._forget(waiting)
        self._unregister(waiting)
        body = None if self._first_byte_only else bytes(waiting.data[HEADER:])
        if not self._arrived(Arrival(waiting.sock, waiting.address, waiting.deadline, body)):
            log.warning("association.limit_reached", address=waiting.address)
            self._leave(waiting, b"" if self._first_byte_only else REJECT_LIMIT)

    def _leave(self, waiting: _Waiting, last: bytes) -> None:
        """Send a last PDU, close our direction, and wait a little for the peer to close its own."""
        self._forget(waiting)
        sock = waiting.sock
        waiting.leaving, waiting.deadline = True, time.monotonic() + _FAREWELL
        try:
            sock.setblocking(False)
            if last:
                sock.send(last)
            if isinstance(sock, ssl.SSLSocket):
                with contextlib.suppress(OSError, ValueError):
                    sock.unwrap()
            socket.socket.shutdown(sock, socket.SHUT_WR)
            if not waiting.registered:
                self._register(waiting)
            self._leaving[waiting] = None
            if len(self._leaving) > self._settings.max_pending:
                self._drop(next(iter(self._leaving)))
        except (OSError, ValueError):
            self._drop(waiting)

    def _forget(self, waiting: _Waiting) -> None:
        if self._pending.pop(waiting, waiting) is waiting:
            return
        same = self._by_address[waiting.address]
        del same[waiting]
        if not same:
            del self._by_address[waiting.address]

    def _drop(self, waiting: _Waiting) -> None:
        self._forget(waiting)
        self._leaving.pop(waiting, None)
        with contextlib.suppress(KeyError, ValueError):
            self._unregister(waiting)
        with contextlib.suppress(OSError):
            waiting.sock.close()

    def _expire(self) -> None:
        now = time.monotonic()
        if self._paused_until and now >= self._paused_until:
            self._paused_until = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ, self._listener)
        for waiting in (self._pending, self._leaving):
            while waiting and (first := next(iter(waiting))).deadline <= now:
                self._drop(first)

    def _close_all(self) -> None:
        for waiting in [*self._pending, *self._leaving]:
            self._drop(waiting)
        while self._inbox:
            _linger(self._inbox.popleft())
        self._selector.close()
        for sock in (self._listener, self._waker, self._wakes):
            sock.close()


def _linger(sock: socket.socket) -> None:
    """Let the peer read the last PDU: a close with unread data would reset the connection."""
    with sock, contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_WR)
        sock.settimeout(_LAST_LINGER)
        while socket.socket.recv(sock, _CHUNK):
            pass


def _listen(settings: ReceptionSettings) -> socket.socket:
    family = socket.getaddrinfo(settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((settings.host, settings.port))
    except OSError:
        sock.close()
        raise
    return sock
