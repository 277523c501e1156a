"""Warm child processes for pixels: given a request and bytes, they give an answer and bytes, or are ended at a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any, Final

import structlog

from dicom_node.errors import NodeError

log = structlog.get_logger()

_START_DEADLINE: Final = 60.0


class TranscodeError(NodeError):
    """A data set that cannot be had in another transfer syntax, or a frame that cannot be decoded; says why, without any value."""


class ChildrenBusy(TranscodeError):
    """No child was free in time; it may be so later."""


class ChildPool:
    """At most ``size`` children, each started when there is work for it and kept; thread-safe.

    Parameters
    ----------
    limit
        Most bytes of decoded pixels; what a child may use of memory follows from it.
    deadline
        Seconds after which a child is ended.
    wait
        Seconds for which a request waits for a child that is free.
    """

    def __init__(self, size: int, *, limit: int, deadline: float, wait: float) -> None:
        self._limit = limit
        self._deadline = deadline
        self._wait = wait
        self._free: list[_Child] = []
        self._places = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._closed = False

    def call(self, request: dict[str, Any], data: bytes | memoryview) -> tuple[dict[str, Any], bytes]:
        """Have a request carried out.

        Raises
        ------
        ChildrenBusy
            None of them was free in time.
        TranscodeError
            The child says why not; or it ended, or was ended at the deadline.
        """
        if not self._places.acquire(timeout=self._wait):
            raise ChildrenBusy("all processes that decode are busy")
        try:
            head, body = self._carry_out(request, data)
        finally:
            self._places.release()
        if not head["ok"]:
            raise TranscodeError(head["why"])
        return head, body

    def _carry_out(self, request: dict[str, Any], data: bytes | memoryview) -> tuple[dict[str, Any], bytes]:
        child = self._take()
        try:
            answer = child.call(request, data, self._deadline)
        except (EOFError, OSError, ValueError) as error:
            code = child.end()
            log.warning("pixels.child_lost", exit_code=code, error=type(error).__name__)
            raise TranscodeError("the process that decodes ended or took too long") from error
        except BaseException:
            child.end()
            raise
        self._put(child)
        return answer

    def _take(self) -> _Child:
        with self._lock:
            while self._free:
                child = self._free.pop()
                if child.alive:
                    return child
                child.end()
        return _Child(self._limit)

    def _put(self, child: _Child) -> None:
        with self._lock:
            if not self._closed:
                self._free.append(child)
                return
        child.end()

    def close(self) -> None:
        """End the children that have no work; those that have are ended when they are done with it."""
        with self._lock:
            self._closed = True
            children, self._free = self._free, []
        for child in children:
            child.end()


class _Child:
    """One child process."""

    def __init__(self, limit: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "dicom_node.pixels.child", str(theirs.fileno()), str(limit)]
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, env=environment
            )
        self._connection = Connection(ours.detach())
        log.info("pixels.child_started", pid=self._process.pid)
        try:
            if not self._connection.poll(_START_DEADLINE) or self._connection.recv_bytes() != b"ready":
                raise TranscodeError("the process that decodes did not start")
        except (EOFError, OSError) as error:
            self.end()
            raise TranscodeError("the process that decodes did not start") from error
        except BaseException:
            self.end()
            raise

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(self, request: dict[str, Any], data: bytes | memoryview, deadline: float) -> tuple[dict[str, Any], bytes]:
        """Send a request, await its answer; one that takes too long is ended, which ends the waiting."""
        timer = threading.Timer(deadline, self._kill)
        timer.daemon = True
        timer.start()
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            self._connection.send_bytes(data)
            return json.loads(self._connection.recv_bytes()), self._connection.recv_bytes()
        finally:
            timer.cancel()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> int:
        """End it and wait for that; its exit code."""
        if self.alive:
            self._kill()
        self._connection.close()
        return self._process.wait()
