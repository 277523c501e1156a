"""A whole node in one process, driven step by step: real sockets, real index, real archive, a real (tiny) model."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from dicom_node.config import Config, parse
from dicom_node.config_rules import Rule
from dicom_node.dimse.server import Server
from dicom_node.node import LeasedAssociations, Node, build_inference_worker, build_io_workers, build_server, open_node, prepare
from dicom_node.schedule import Duties
from dicom_node.sending import send_files, store_item
from dicom_node.work.executors import Executor, InlineExecutor
from dicom_node.work.worker import Worker
from storage.timeline import Timeline, timeline
from tests.imaging import as_file, series

_numbers = itertools.count(1)

PLAIN = """
[node]
ae_title = "{title}"
data_dir = "data"
bundles = ["bundles"]
[dimse]
host = "127.0.0.1"
port = 0
unknown_peers = "store"
[web]
port = 0
[archive]
min_free = 0
[study]
quiet_period = "{quiet}"
{late}
[delivery]
backoff = 0
connect_timeout = "5s"
response_timeout = "10s"
[jobs]
lease = "30s"
"""
RULE = """
[[rule]]
name = "bright"
match = {{ Modality = "MR" }}
run = ["tiny"]
deliver = {deliver}
{more}
"""
PEER = """
[[peer]]
name = "{name}"
ae_title = "{title}"
host = "127.0.0.1"
port = {port}
{more}
"""


def settings(folder: Path, *, title: str = "NODE", quiet: str = "0s", late: str = "", more: str = "", plain: str = PLAIN) -> Config:
    """The configuration of a node in ``folder``, whose bundles lie in ``folder/bundles``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "node.toml"
    file.write_text(plain.format(title=title, quiet=quiet, late=late) + more)
    return parse(file.read_text(), where=file)


def peer(name: str, port: int, *, title: str = "PACS", more: str = "") -> str:
    return PEER.format(name=name, title=title, port=port, more=more)


def rule(*deliver: str, more: str = "") -> str:
    return RULE.format(deliver=list(deliver), more=more)


@dataclass
class StepNode:
    """A node whose workers and duties run when the test says so."""

    node: Node
    server: Server
    executor: Executor
    duties: Duties
    route: Worker
    deliveries: Sequence[Worker]
    infer: Worker
    hooks: LeasedAssociations
    _closers: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def port(self) -> int:
        return self.server.port

    def complete(self) -> int:
        """Complete what is quiet, once the associations of senders that have gone are closed."""
        until = time.monotonic() + 10
        while self.server.associations:
            assert time.monotonic() < until, "an association does not end"
            threading.Event().wait(0.002)
        return self.duties.complete_studies()

    def work(self) -> int:
        """Complete, route, run and deliver until nothing is due; the number of jobs carried out."""
        done = 0
        self.complete()
        for _ in range(100):
            steps = [worker.step() for worker in (self.route, self.infer, *self.deliveries)]
            if not any(steps):
                return done
            done += sum(steps)
        raise AssertionError("work without end")

    def story(self, study_uid: str) -> Timeline:
        return timeline(self.node.database, study_uid)


@contextlib.contextmanager
def running(config: Config, *, executor: Executor | None = None, rules: Callable[[], tuple[Rule, ...]] | None = None) -> Iterator[StepNode]:
    """Open a node; its receiver listens, everything else waits for the test."""
    prepare(config)
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(open_node(config, f"test{next(_numbers)}"))
        node.archive.recover()
        hooks = LeasedAssociations(node)
        server = build_server(node, hooks)
        server.start()
        stack.callback(server.stop, 2.0)
        made = executor or InlineExecutor("cpu", threads=1)
        io = build_io_workers(node, rules)
        infer = build_inference_worker(node, made)
        for worker in (*io, infer):
            stack.callback(worker.close)
        yield StepNode(node, server, made, Duties(node), io[0], io[1:], infer, hooks)


def bright_series(slices: int = 6, *, description: str = "T1", bright: bool = True, **attributes: Any) -> list[Dataset]:
    """An MR series with a bright block of 3 x 3 voxels in two of its slices."""
    values = np.full((slices, 12, 10), 100, dtype=np.int16)
    if bright:
        values[2:4, 3:6, 4:7] = 1500
    return series(values, SeriesDescription=description, **attributes)


def send(node: StepNode, images: Sequence[Dataset], folder: Path, *, calling: str = "SCANNER") -> list[int]:
    """Send images by C-STORE; the statuses answered."""
    return send_to(node.port, images, folder, called=node.node.config.node.ae_title, calling=calling)


def send_to(port: int, images: Sequence[Dataset], folder: Path, *, called: str, calling: str = "SCANNER") -> list[int]:
    from dicom_node.config import Peer

    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number, image in enumerate(images):
        path = folder / f"{number}.dcm"
        path.write_bytes(as_file(image).getvalue())
        items.append(store_item(path))
    target = Peer(name="target", ae_title=called, host="127.0.0.1", port=port)
    sender = Config.model_validate({"node": {"ae_title": calling}})
    return [answer.status for _, answer in send_files(sender, target, items)]


def uid_of(images: Sequence[Dataset]) -> str:
    return str(images[0].StudyInstanceUID)


def command(config: Config, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``dicom-node ...`` as a user calls it, on the node of a configuration that `settings` wrote."""
    file = config.node.data_dir.parent / "node.toml"
    called = [sys.executable, "-m", "dicom_node", *arguments, "--config", str(file)]
    return subprocess.run(called, capture_output=True, text=True, timeout=120, check=False)
