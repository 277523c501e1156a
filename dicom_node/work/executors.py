"""Where a model runs: in the worker itself (tests, small nodes), or in a warm child process per device."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import structlog

from dicom_node.results.context import Outcome
from dicom_node.work.inference import Answer, Request, Runner

log = structlog.get_logger()

_START_DEADLINE = 120.0


@dataclass(frozen=True)
class Asked:
    """A run to be carried out within ``deadline`` seconds; ``claim`` as in :meth:`Executor.execute`."""

    request: Request
    deadline: float
    claim: str = ""


class Executor(Protocol):
    """Carries out runs on one device, one at a time, or several of one bundle that takes them together."""

    @property
    def device(self) -> str: ...

    def execute(self, request: Request, deadline: float, claim: str = "") -> Answer:
        """Carry out a run within ``deadline`` seconds; a crash, a hang and a cancel are answers as well.

        ``claim`` is what :meth:`cancel` knows the run by: the Transaction UID of its job's claim.
        """

    def together(self, asked: Sequence[Asked]) -> Iterator[tuple[str, Answer]]:
        """Carry out several runs of one bundle together; each claim with its answer, as they come.

        A crash, a hang and a cancel concern the one run that they come from: what the others lose by it is carried out again, one by one.
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

    def together(self, asked: Sequence[Asked]) -> Iterator[tuple[str, Answer]]:
        for number, answer in self._runner.together([each.request for each in asked]):
            yield asked[number].claim, answer

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
        # Claims: of the runs in progress, and of those that were canceled, which may be about to begin.
        self._running: set[str] = set()
        self._canceled: set[str] = set()
        self._most: dict[str, int] = {}  # of a release's runs together, where more of them ended the child

    @property
    def device(self) -> str:
        return self._device

    @property
    def pid(self) -> int | None:
        """Process id of the warm child, if there is one."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def execute(self, request: Request, deadline: float, claim: str = "") -> Answer:
        ((_, answer),) = self.together([Asked(request, deadline, claim)])
        return answer

    def together(self, asked: Sequence[Asked]) -> Iterator[tuple[str, Answer]]:
        left = {each.claim: each for each in asked}
        with self._lock:
            self._running = set(left)
            self._canceled &= self._running
        try:
            release, blamed, lost = asked[0].request.release_digest, False, 0
            while left:
                # What the child was doing when it ended is not known: after that each on its own, so that only one can be to blame.
                attempt = list(left.values())[: 1 if lost else self._most.get(release, len(left))]
                for each, answer in self._answers(attempt):
                    del left[each.claim]
                    blamed = blamed or answer.code in ("crash", "deadline")
                    yield each.claim, _canceled() if self._ended(each.claim) else answer
                for claim in [claim for claim in left if self._was_canceled(claim)]:
                    del left[claim]
                    yield claim, _canceled()
                lost = lost or (len(attempt) if any(each.claim in left for each in attempt) else 0)
            if lost and not blamed:  # it was their number: a system that lacks memory ends a process without a word
                self._most[release] = max(1, lost // 2)
        finally:
            if left:  # nobody listens any more
                self._kill()
            with self._lock:
                self._canceled -= {each.claim for each in asked}
                self._running = set()

    def _answers(self, asked: Sequence[Asked]) -> Iterator[tuple[Asked, Answer]]:
        """Answers of one attempt. One that was made for several and ended early answers but some; which of the others was to blame
        is not known."""
        connection = self._ready()
        if all(self._was_canceled(each.claim) for each in asked):
            return  # before there was anything to kill; a cancel from here on finds the child
        if connection is None:
            answer = self._lost("the inference process did not start")
            yield from ((each, answer) for each in asked)
            return
        waiting, patience = dict(enumerate(asked)), min(each.deadline for each in asked)
        with contextlib.suppress(OSError):  # of a child that has ended; the next line finds that out
            connection.send([each.request for each in asked])
        while waiting:
            started = time.monotonic()
            got = self._next(connection, patience)
            patience = max(0.0, patience - (time.monotonic() - started))  # the node's own time between two answers does not count
            if got is None or isinstance(got, str):
                failed = self._late(min(each.deadline for each in asked)) if got is None else self._lost(got)
                if len(waiting) == 1:
                    yield from ((each, failed) for each in waiting.values())
                return
            number, answer = got
            yield waiting.pop(number), answer
            if waiting and all(self._was_canceled(each.claim) for each in waiting.values()):
                self._kill()
                return

    def _next(self, connection: Connection, patience: float) -> tuple[int, Answer] | str | None:
        """The child's next answer; why there is none, or None at the deadline."""
        try:
            return connection.recv() if connection.poll(patience) else None
        except (EOFError, OSError):
            return "the inference process ended during the run"

    def _was_canceled(self, claim: str) -> bool:
        with self._lock:
            return claim in self._canceled

    def _ended(self, claim: str) -> bool:
        """Whether a run that is answered was canceled; from here on a cancel comes too late."""
        with self._lock:
            self._running.discard(claim)
            return claim in self._canceled

    def _late(self, deadline: float) -> Answer:
        self._kill()
        return Answer(Outcome.FAILED, f"the run was ended at its deadline of {deadline:.0f} s", "deadline", passing=True)

    def _lost(self, what: str) -> Answer:
        code = self._kill(grace=2.0)
        return Answer(Outcome.FAILED, f"{what}{_describe(code)}", "crash", passing=True)

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
            self._canceled.add(claim)
            if self._running and self._running <= self._canceled and self._child is not None:
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
