"""The rules of a running node: taken anew when their file changes, kept when the new file is broken. What it came to is left in a small
file, for ``rule list`` and ``check``."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from dicom_node.clock import Clock
from dicom_node.config import Config, load
from dicom_node.config_rules import Rule
from dicom_node.errors import ConfigurationError
from dicom_node.kept_config import KEPT, keep
from storage.errors import StorageError

log = structlog.get_logger()

STATE_FILE = "rules.json"
INTERVAL = 1.0  # seconds between two looks at the file
Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class State:
    """The rules in use. ``problem``: why the file that lies there now is not in use; ``restart_for``: what it changes beside rules."""

    file: str
    taken_at: float
    rules: tuple[str, ...]
    problem: str = ""
    refused_at: float | None = None
    restart_for: tuple[str, ...] = ()
    pid: int = 0


class LiveRules:
    """The rules of the moment; called, it gives them."""

    def __init__(self, file: Path, config: Config, *, clock: Clock) -> None:
        self._file = file
        self._started = config
        self._clock = clock
        self._rules = config.rule
        self._seen = _stamp(file) if _readable(file) else None  # a broken one is told at the first look
        self._coming: Stamp | None = None
        self._asked = threading.Event()
        self._state = State(str(file), clock(), _names(config.rule), pid=os.getpid())
        self._write()

    def __call__(self) -> tuple[Rule, ...]:
        return self._rules

    @property
    def state(self) -> State:
        return self._state

    def ask(self) -> None:
        """Take the file anew at the next look, changed or not. Safe in a signal handler."""
        self._asked.set()

    def watch(self, stop: threading.Event) -> None:
        """Look again and again, until told to stop."""
        while not stop.wait(INTERVAL):
            self.look()

    def look(self) -> bool:
        """Take the file's rules where it has changed and lies still since the last look; whether they were taken."""
        now, asked = _stamp(self._file), self._asked.is_set()
        still, self._coming = now == self._coming, now
        if not asked and (now == self._seen or not still):
            return False
        self._asked.clear()
        try:
            fresh = load(self._file)
            self._check(fresh)
        except ConfigurationError as error:
            self._seen = now
            self._refuse(str(error))
            return False
        except StorageError as error:  # the index is away: judged at a later look
            log.warning("rules.waiting", why=str(error))
            return False
        self._seen = now
        self._take(fresh)
        return True

    def _check(self, fresh: Config) -> None:
        from dicom_node.checks import refuse_unknown_models

        served = {peer.name for peer in self._started.destinations}
        for rule in fresh.rule:
            for name in (*rule.deliver, *(name for forward in rule.forward for name in forward.to)):
                if name not in served:
                    raise ConfigurationError(f"rule '{rule.name}' sends to '{name}', a peer that the node was not started with: restart it")
        refuse_unknown_models(fresh)

    def _take(self, fresh: Config) -> None:
        changed = self._rules != fresh.rule
        self._rules = fresh.rule
        if KEPT in os.environ:
            keep(self._started, self._file)
        others = [name for name in Config.model_fields if name != "rule" and getattr(fresh, name) != getattr(self._started, name)]
        self._state = State(str(self._file), self._clock(), _names(fresh.rule), restart_for=tuple(others), pid=os.getpid())
        self._write()
        log.info("rules.taken", rules=list(self._state.rules), changed=changed, restart_for=others)

    def _refuse(self, problem: str) -> None:
        kept = self._state
        self._state = State(kept.file, kept.taken_at, kept.rules, problem, self._clock(), kept.restart_for, os.getpid())
        self._write()
        log.error("rules.refused", why=problem, kept=list(kept.rules))

    def _write(self) -> None:
        folder = self._started.runtime_dir
        with contextlib.suppress(OSError):  # a full disk stops no routing
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = folder / f"{STATE_FILE}.new"
            new.write_text(json.dumps(asdict(self._state)), encoding="utf-8")
            new.replace(folder / STATE_FILE)


def running_state(runtime_dir: Path) -> State | None:
    """The rules in use by the node that runs here; None where none does."""
    try:
        values = json.loads((runtime_dir / STATE_FILE).read_text(encoding="utf-8"))
        state = State(**{**values, "rules": tuple(values["rules"]), "restart_for": tuple(values["restart_for"])})
        os.kill(state.pid, 0)
    except PermissionError:
        return state  # it runs, as another user
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return state


def _names(rules: Iterable[Rule]) -> tuple[str, ...]:
    return tuple(rule.name for rule in rules)


def _readable(file: Path) -> bool:
    try:
        load(file)
    except ConfigurationError:
        return False
    return True


def _stamp(file: Path) -> Stamp | None:
    """What changes when a file is written or replaced."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
