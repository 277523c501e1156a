"""``dicom-node serve``: the supervisor of the roles. A role that dies is started again, with growing waits; the others go on."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from sqlalchemy import make_url

from dicom_node import log as logging
from dicom_node.checks import refuse_unknown_models
from dicom_node.config import Config
from dicom_node.errors import EXIT_USAGE, ConfigurationError
from dicom_node.kept_config import COPY, KEPT, keep
from dicom_node.node import prepare
from dicom_node.roles import READY_FD, SUPERVISOR_PID, announce, until_signal
from storage.errors import IndexUnavailable

log = structlog.get_logger()

FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0
REFUSALS = 3  # of a role that says its configuration cannot work, before the node was ever ready; a port may just be on its way to be free
STEADY = 30.0  # seconds after which a role that dies is started again without delay
STOP_GRACE = 10.0


@dataclass
class Role:
    """One process that is to be there."""

    name: str
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    pipe: int = -1
    started_at: float = 0.0
    start_at: float = 0.0
    failures: int = 0
    ready: str = ""
    buffer: bytearray = field(default_factory=bytearray)


def roles_of(config: Config) -> list[Role]:
    """The roles that a configuration asks for."""
    roles = [Role("scheduler", ["scheduler"]), Role("io", ["worker", "--io"])]
    roles += [Role(f"receiver-{number + 1}" if number else "receiver", ["receiver"]) for number in range(config.dimse.receivers)]
    roles += [Role(f"inference-{device}", ["worker", "--device", device]) for device in config.executor.devices]
    if config.web.enabled:
        roles.append(Role("web", ["web"]))
    return roles


def _wait_after(failures: int) -> float:
    """Seconds before the next attempt, after so many that failed in a row."""
    return float(min(FIRST_WAIT * 2.0 ** min(max(failures - 1, 0), 16), LONGEST_WAIT))


class Supervisor:
    """Keeps the roles of a node running until told to stop."""

    def __init__(self, config: Config, file: Path) -> None:
        self._config = config
        self._file = file
        self._roles = roles_of(config)
        self._selector = selectors.DefaultSelector()
        self._announced = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        logging.configure(self._config.log.level, role="supervisor")
        with until_signal() as stop:
            if not os.isatty(0):  # a terminal that is closed ends what runs in it
                signal.signal(signal.SIGHUP, lambda number, frame: self._reload())
            if not self._prepare(stop):
                return
            refuse_unknown_models(self._config)
            keep(self._config, self._file)
            for role in self._roles:
                self._start(role)
            try:
                while not stop.is_set():
                    self._listen(0.2)
                    self._tend()
                    if not self._announced and all(role.ready for role in self._roles):
                        self._announced = True
                        announce(f"dicom-node ready: {self._summary()}")
            finally:
                self._stop_all()

    def _prepare(self, stop: threading.Event) -> bool:
        """Prepare the node, waiting for a database server that is away; False when told to stop meanwhile.

        A SQLite file that cannot be opened is a wrong path or a wrong owner: waiting would hide that.
        """
        failures = 0
        while not stop.is_set():
            try:
                prepare(self._config)
                return True
            except IndexUnavailable as error:
                if make_url(self._config.database_url).get_backend_name() == "sqlite":
                    raise
                failures += 1
                wait = _wait_after(failures)
                log.error("database.waiting", why=str(error), again_in=round(wait, 1))
                stop.wait(wait)
        return False

    def _summary(self) -> str:
        shown = [role.ready for role in self._roles if role.name.startswith(("receiver", "web"))]
        return "; ".join(line.partition(" ready: ")[2] or line for line in shown)

    def _start(self, role: Role) -> None:
        try:
            self._spawn(role)
        except OSError as error:  # no process, no pipe, no memory to be had: perhaps later; the other roles go on
            role.failures += 1
            wait = _wait_after(role.failures)
            role.process, role.start_at = None, time.monotonic() + wait
            log.error("role.not_started", name=role.name, why=error.strerror, again_in=round(wait, 1))
            return
        assert role.process is not None
        log.info("role.started", name=role.name, pid=role.process.pid)

    def _spawn(self, role: Role) -> None:
        reading, writing = os.pipe()
        try:
            os.set_blocking(reading, False)
            command = [sys.executable, "-m", "dicom_node", *role.arguments, "--config", str(self._file)]
            kept = str(self._config.runtime_dir / COPY)
            environment = {**os.environ, READY_FD: str(writing), SUPERVISOR_PID: str(os.getpid()), KEPT: kept}
            role.process = subprocess.Popen(command, pass_fds=[writing], env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        role.pipe, role.started_at, role.buffer = reading, time.monotonic(), bytearray()
        self._selector.register(reading, selectors.EVENT_READ, role)

    def _listen(self, seconds: float) -> None:
        if not self._selector.get_map():
            time.sleep(seconds)
            return
        for key, _ in self._selector.select(seconds):
            role: Role = key.data
            data = b""
            with contextlib.suppress(BlockingIOError):
                data = os.read(role.pipe, 4096)
                if not data:
                    self._forget_pipe(role)
            role.buffer += data
            if b"\n" in role.buffer:
                role.ready = role.buffer.partition(b"\n")[0].decode()

    def _forget_pipe(self, role: Role) -> None:
        if role.pipe >= 0:
            self._selector.unregister(role.pipe)
            os.close(role.pipe)
            role.pipe = -1

    def _tend(self) -> None:
        now = time.monotonic()
        for role in self._roles:
            if role.process is not None and role.process.poll() is not None:
                self._died(role, now)
            if role.process is None and now >= role.start_at:
                self._start(role)

    def _died(self, role: Role, now: float) -> None:
        assert role.process is not None
        code = role.process.returncode
        role.failures = 0 if now - role.started_at > STEADY else role.failures + 1
        wait = _wait_after(role.failures)
        log.error("role.died", name=role.name, code=code, again_in=round(wait, 1))
        self._forget_pipe(role)
        role.process, role.start_at = None, now + wait
        if code == EXIT_USAGE and role.failures >= REFUSALS and not self._announced:
            raise ConfigurationError(f"the node cannot start: its {role.name} says why above")

    def _reload(self) -> None:
        """Have the rules taken anew, without waiting until their file is seen to have changed."""
        for role in self._roles:
            if role.name == "io" and role.process is not None and role.ready:
                with contextlib.suppress(ProcessLookupError):
                    role.process.send_signal(signal.SIGHUP)

    def _stop_all(self) -> None:
        for process in self._processes():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        until = time.monotonic() + self._config.dimse.stop_deadline + STOP_GRACE
        for process in self._processes():
            try:
                process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                log.error("role.killed", pid=process.pid)
                process.kill()
                process.wait()
        for role in self._roles:
            self._forget_pipe(role)
        self._selector.close()
        log.info("supervisor.stopped")

    def _processes(self) -> Iterator[subprocess.Popen[bytes]]:
        yield from (role.process for role in self._roles if role.process is not None)
