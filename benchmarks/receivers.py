"""The receivers under test: this node, Orthanc and DCMTK's storescp, each started fresh in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks.instances import Identity, template

STORESCP = "/usr/bin/storescp"
ORTHANC = "/usr/sbin/Orthanc"
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "overlay"}


class Receiver(Protocol):
    """A C-STORE SCP that a benchmark starts, measures, reads back and stops."""

    name: str
    port: int
    called: str

    def start(self, folder: Path) -> None: ...
    def process(self) -> psutil.Process: ...
    def settled(self) -> bool: ...
    def wrong(self, identities: Iterable[Identity]) -> list[str]: ...
    def stop(self) -> None: ...


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_true(condition: Callable[[], bool], what: str, deadline: float = 60.0, step: float = 0.02) -> None:
    """Poll `condition` until it holds; raise TimeoutError naming `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(step)


def listening(port: int) -> bool:
    """Return whether something accepts connections on `port`."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and all its children, those that ended included."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def await_idle(process: psutil.Process, deadline: float = 60.0) -> None:
    """Wait until a receiver that was just started has nothing to do any more: a model that warms up, a cache that fills."""
    last = cpu_seconds(process)
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        time.sleep(0.5)
        now = cpu_seconds(process)
        if now - last < 0.03:
            return
        last = now


def resident(process: psutil.Process) -> int:
    """Return the resident bytes of a process and its children, shared pages counted once a process."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def file_system(folder: Path) -> str:
    """Return the type of the file system that `folder` lies on."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind = line.split()[:3]
        inside = folder.resolve().is_relative_to(where)
        if inside and len(where) >= len(best[0]):
            best = (where, kind)
    return best[1]


class _Program:
    """What is the same for every receiver that is a program."""

    name = ""
    called = "ANY-SCP"

    def __init__(self) -> None:
        self.port = 0
        self._child: subprocess.Popen[bytes] | None = None

    def _launch(self, command: list[str], folder: Path, **environment: str) -> None:
        with (folder / "log").open("wb") as log:
            self._child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environment})

    def process(self) -> psutil.Process:
        assert self._child is not None
        return psutil.Process(self._child.pid)

    def settled(self) -> bool:
        return True

    def kill(self) -> None:
        """End the program and its children at once, as a crash would."""
        assert self._child is not None
        self.process().suspend()  # so that it starts no child again while its children die
        victims = [*self.process().children(recursive=True), self.process()]
        for victim in reversed(victims):
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue
        self._child.wait()

    def stop(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self._child = None


class Storescp(_Program):
    """DCMTK storescp with a process per association: no index, no fsync."""

    name = "DCMTK storescp"

    def start(self, folder: Path) -> None:
        self._folder, self.port = folder / "files", free_port()
        self._folder.mkdir(exist_ok=True)
        # Bit preserving, so that what it keeps can be compared byte for byte.
        self._launch([STORESCP, "--fork", "+B", "-od", str(self._folder), str(self.port)], folder, TCP_NODELAY="1")
        await_true(lambda: listening(self.port), "storescp is listening")

    def wrong(self, identities: Iterable[Identity]) -> list[str]:
        problems = []
        for identity in identities:
            path = self._folder / f"CT.{identity.sop}"
            if not path.exists():
                problems.append(f"missing {identity.sop}")
            elif not path.read_bytes().endswith(template(identity.kind).instance(identity)):
                problems.append(f"altered {identity.sop}")
        return problems


def orthanc_id(identity: Identity, patient: str = "BENCH0001") -> str:
    """Return Orthanc's identifier of an instance: a SHA-1 of the four identifiers, in five groups."""
    digest = hashlib.sha1("|".join((patient, identity.study, identity.series, identity.sop)).encode()).hexdigest()
    return "-".join(digest[at : at + 8] for at in range(0, 40, 8))


class Orthanc(_Program):
    """Orthanc as it comes: SQLite index, its default options."""

    name = "Orthanc"
    settings: Mapping[str, object] = {}  # further ones, of a benchmark

    def start(self, folder: Path) -> None:
        self.port, self.http = free_port(), free_port()
        store = folder / "store"
        settings = {
            "Name": "bench",
            "StorageDirectory": str(store),
            "IndexDirectory": str(store),
            "DicomAet": "ORTHANC",
            "DicomPort": self.port,
            "HttpPort": self.http,
            **self.settings,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
        # Without it Orthanc's answers wait for our delayed ACK (21 instances/s): the peer is measured at its best.
        self._launch([ORTHANC, str(folder / "orthanc.json")], folder, TCP_NODELAY="1")
        await_true(lambda: listening(self.port) and listening(self.http), "Orthanc is listening")

    def get(self, path: str) -> bytes:
        """Return what Orthanc's REST API answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=30) as answer:
            return bytes(answer.read())

    def wrong(self, identities: Iterable[Identity]) -> list[str]:
        problems = []
        for identity in identities:
            try:
                kept = self.get(f"/instances/{orthanc_id(identity)}/file")
            except OSError as problem:
                problems.append(f"missing {identity.sop}: {problem}")
                continue
            if not kept.endswith(template(identity.kind).instance(identity)):
                problems.append(f"altered {identity.sop}")
        return problems


class Node(_Program):
    """`dicom-node serve` with the configuration that `dicom-node init` writes; only ports and folder are its own."""

    name = "dicom-node"
    called = "DICOM_NODE"

    def __init__(self, settings: Callable[[str], str] = lambda text: text, arguments: tuple[str, ...] = ("serve",)) -> None:
        super().__init__()
        self._settings = settings
        self._arguments = arguments
        self.data_folder: Path | None = None  # where it is not in the receiver's own folder

    @property
    def config(self) -> Path:
        return self._folder / "node.toml"

    @property
    def data(self) -> Path:
        return self.data_folder or self._folder / "data"

    @property
    def index(self) -> Path:
        return next(path for path in self.data.glob("*.sqlite*") if not path.name.endswith(("-wal", "-shm", "-journal")))

    def configure(self, folder: Path) -> None:
        """Write the default configuration into `folder`, with free ports and the load generator as a known peer."""
        self._folder = folder
        subprocess.run(
            [sys.executable, "-m", "dicom_node", "init", "--config", str(self.config)], check=True, stdout=subprocess.DEVNULL, cwd=folder
        )
        self.port, self.http = free_port(), free_port()
        text = self.config.read_text(encoding="utf-8")
        text = re.sub(r"(?m)^#? ?data_dir *=.*$", f'data_dir = "{self.data}"', text, count=1)
        for table, port in (("dimse", self.port), ("web", self.http)):
            text = re.sub(rf"(?ms)^(\[{table}\].*?)^#? ?port *= *\d+", rf"\g<1>port = {port}", text, count=1)
        text += '\n[[peer]]\nname = "load"\nae_title = "LOAD"\n'
        self.config.write_text(self._settings(text), encoding="utf-8")

    def start(self, folder: Path) -> None:
        if not (folder / "node.toml").exists():
            self.configure(folder)
        self._folder = folder
        self.launch()

    def launch(self) -> None:
        """Start the node on the folder that was configured before."""
        self._launch([sys.executable, "-m", "dicom_node", *self._arguments, "--config", str(self.config)], self._folder)
        await_true(self._ready, "the node is ready")

    def _ready(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            raise RuntimeError(f"the node ended: {(self._folder / 'log').read_text(encoding='utf-8')[-2000:]}")
        return b"dicom-node ready" in (self._folder / "log").read_bytes()

    def command(self, *arguments: str) -> str:
        """Run one `dicom-node` command against this node and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "dicom_node", *arguments, "--config", str(self.config)], capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise RuntimeError(f"dicom-node {' '.join(arguments)}: {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
        return done.stdout

    def query(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Read from the index as an outsider: sqlite3, read-only."""
        with closing(sqlite3.connect(f"file:{self.index}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(statement, values).fetchall()

    def backlog(self) -> int:
        """Return how many instances still wait for their header JSON."""
        rows = self.query("SELECT (SELECT count(*) FROM instance) - (SELECT count(*) FROM instance_header)")
        return int(str(rows[0][0]))

    def settled(self) -> bool:
        return self.backlog() == 0

    def archive_root(self) -> Path:
        """Return the folder that holds the segments."""
        return next(self.data.rglob("archive-id")).parent

    def wrong(self, identities: Iterable[Identity]) -> list[str]:
        statement = (
            "SELECT i.sop_uid, s.name, l.offset, l.length, l.meta_length FROM instance i "
            "JOIN location l ON l.instance_pk = i.pk AND l.instance_revision = i.revision JOIN segment s ON s.pk = l.segment_pk"
        )
        where = {str(row[0]): row[1:] for row in self.query(statement)}
        root, problems = self.archive_root(), []
        for identity in identities:
            found = where.get(identity.sop)
            if found is None:
                problems.append(f"missing {identity.sop}")
                continue
            name, offset, length, meta = str(found[0]), *(int(str(value)) for value in found[1:])
            with (root / name).open("rb") as segment:
                segment.seek(offset + meta)
                kept = segment.read(length - meta)
            if kept != template(identity.kind).instance(identity):
                problems.append(f"altered {identity.sop}")
        return problems


def available() -> dict[str, type[_Program]]:
    """Return the peers that are installed here, and this node."""
    found: dict[str, type[_Program]] = {"node": Node}
    if Path(ORTHANC).exists():
        found["orthanc"] = Orthanc
    if Path(STORESCP).exists():
        found["storescp"] = Storescp
    return found


def fresh(folder: Path) -> Path:
    """Return `folder`, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
