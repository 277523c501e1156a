"""Where a model runs: in the worker itself (tests, small nodes), or in a warm child process per device."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import structlog

from dicom_node.results.context import Outcome
from dicom_node.work.inference import Answer, Request, Runner

log = structlog.get_logger()

_START_DEADLINE = 120.0


class Executor(Protocol):
    """Carries out runs on one device, one at a time."""

    @property
    def device(self) -> str: ...

    def execute(self, request: Request, deadline: float, claim: str = "") -> Answer:
        """Carry out a run within ``deadline`` seconds; a crash, a hang and a cancel are answers as well.

        ``claim`` is what :meth:`cancel` knows the run by: the Transaction UID of its job's claim.
        """

    def warm_up(self) -> None:
        """Make ready what the first run would wait for."""

    def cancel(self, claim: str = "") -> None:
        """End the run of a claim, from another thread: in progress, or just about to begin. One that has ended is left alone."""

    def close(self) -> None: ...


class InlineExecutor:
    """Runs in the calling process: no isolation, no deadline, no limit on memory."""

    def __init__(self, device: str = "cpu", *, cache: Path | None = None, threads: int | None = None, memory: int | None = None) -> None:
        self._runner = Runner(device, cache=cache, threads=threads)

    @property
    def device(self) -> str:
        return self._runner.device

    def execute(self, request: Request, deadline: float, claim: str = "") -> Answer:
        return self._runner.run(request)

    def warm_up(self) -> None:
        self._runner.preload()

    def cancel(self, claim: str = "") -> None:
        return None

    def close(self) -> None:
        return None


class ProcessExecutor:
    """Runs in a child that stays warm; the child is killed at the deadline, and replaced when it dies."""

    def __init__(self, device: str = "cpu", *, cache: Path | None = None, threads: int | None = None, memory: int | None = None) -> None:
        self._device = device
        self._arguments = [device, str(cache) if cache else "", str(threads) if threads else "", str(memory) if memory else ""]
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        # Claims: of the run in progress, and of the last one that was canceled, which may be about to begin.
        self._running: str | None = None
        self._canceled: str | None = None

    @property
    def device(self) -> str:
        return self._device

    @property
    def pid(self) -> int | None:
        """Process id of the warm child, if there is one."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def execute(self, request: Request, deadline: float, claim: str = "") -> Answer:
        with self._lock:
            self._running = claim
        try:
            return self._execute(request, deadline)
        finally:
            with self._lock:
                self._running = None
                if self._canceled == claim:
                    self._canceled = None

    def _execute(self, request: Request, deadline: float) -> Answer:
        connection = self._ready()
        if self._was_canceled:  # before there was anything to kill; a cancel from here on finds the child
            return self._lost("") if connection is None else _canceled()
        if connection is None:
            return self._lost("the inference process did not start")
        try:
            connection.send(request)
            if not connection.poll(deadline):
                self._kill()
                return Answer(Outcome.FAILED, f"the run was ended at its deadline of {deadline:.0f} s", "deadline", passing=True)
            answer: Answer = connection.recv()
        except (EOFError, OSError):
            return self._lost("the inference process ended during the run")
        return answer

    @property
    def _was_canceled(self) -> bool:
        with self._lock:
            return self._canceled is not None and self._canceled == self._running

    def _lost(self, what: str) -> Answer:
        code = self._kill(grace=2.0)
        return _canceled() if self._was_canceled else Answer(Outcome.FAILED, f"{what}{_describe(code)}", "crash", passing=True)

    def _ready(self) -> Connection | None:
        with self._lock:
            if self._child is not None and self._child.poll() is None and self._connection is not None:
                return self._connection
            self._drop()
            ours, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, "-m", "dicom_node.work.child", str(theirs.fileno()), *self._arguments]
                self._child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
            self._connection = Connection(ours.detach())
            connection = self._connection
        log.info("child.started", device=self._device, pid=self._child.pid)
        try:
            if connection.poll(_START_DEADLINE) and connection.recv() == "ready":
                return connection
        except (EOFError, OSError):
            pass
        return None

    def warm_up(self) -> None:
        """Start the child before the first run needs it."""
        self._ready()

    def cancel(self, claim: str = "") -> None:
        with self._lock:
            self._canceled = claim
            if self._running == claim and self._child is not None:
                _kill_group(self._child)

    def close(self) -> None:
        self._kill()

    def _kill(self, grace: float = 0.0) -> int | None:
        """End the child; with ``grace`` it may first end by itself, so that its own exit code is what is told."""
        with self._lock:
            child = self._child
            if child is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(grace)
                _kill_group(child)
            self._drop()
            return child.returncode if child is not None else None

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._child is not None:
            self._child.wait()
            self._child = None


def _canceled() -> Answer:
    return Answer(Outcome.FAILED, "the run was canceled", "canceled", passing=True)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)


def _describe(code: int | None) -> str:
    if code is None:
        return ""
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f" (killed by {name}{', perhaps for lack of memory' if name == 'SIGKILL' else ''})"
    return f" (exit code {code})"
