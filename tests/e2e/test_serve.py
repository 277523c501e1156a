"""``dicom-node serve`` as a user starts it: its processes, its ready line, its pages, and what a death of any part changes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import pytest

from dicom_node.config import Config, load
from storage.database import open_database
from storage.errors import NotFound
from storage.timeline import Timeline, timeline
from tests.node import StepNode, bright_series, peer, rule, running, send_to, settings, uid_of
from tests.postgresql import private_cluster
from tests.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.xdist_group("serve")

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
T = TypeVar("T")


def eventually(look: Callable[[], T], *, within: float = 90.0) -> T:
    """Look until there is something to see."""
    until = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < until, "waited in vain"
        threading.Event().wait(0.05)
    return found


@dataclass
class Served:
    """A running ``dicom-node serve``."""

    process: subprocess.Popen[str]
    ready: str
    config: Config
    log: Path

    @property
    def port(self) -> int:
        return int(self.ready.partition(" port ")[2].partition(";")[0].split()[0])

    @property
    def url(self) -> str:
        return "http://" + self.ready.partition("http://")[2].split()[0].rstrip(";")

    def role(self, *arguments: str) -> psutil.Process | None:
        """The process of a role, by its arguments."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.Error):
                    if all(argument in child.cmdline() for argument in arguments):
                        return child
        return None

    def events(self) -> list[str]:
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line["event"] for line in lines]

    def story(self, study_uid: str) -> Timeline | None:
        database = open_database(self.config.database_url)
        try:
            return timeline(database, study_uid)
        except NotFound:
            return None
        finally:
            database.close()

    def delivered(self, study_uid: str) -> Timeline | None:
        story = self.story(study_uid)
        done = story is not None and [each.delivery.state for run in story.runs for each in run.deliveries] == ["DELIVERED"] * 2
        return story if done else None


@contextlib.contextmanager
def serving(folder: Path, config: Config) -> Iterator[Served]:
    log = folder / "log"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(folder / "node.toml")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("dicom-node ready"), log.read_text()[-3000:]
        yield Served(process, ready.strip(), config, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StepNode]:
    with running(settings(tmp_path / "pacs", title="PACS")) as node:
        yield node


def configured(folder: Path, pacs_port: int, *, more: str = "") -> Config:
    tiny_bundle(folder / "bundles")
    settings(folder, quiet="300ms", more=peer("pacs", pacs_port) + rule("pacs") + "\n[executor]\nthreads = 1\n" + more)
    file = folder / "node.toml"
    file.write_text(file.read_text().replace('lease = "30s"', 'lease = "3s"').replace("backoff = 0", 'backoff = "200ms"', 1))
    return load(file)


def results(pacs: StepNode, study_uid: str) -> list[str]:
    found = [stored.sop_class_uid for stored in pacs.node.archive.instances(study_uid)]
    return sorted(uid for uid in found if uid in (SEG, SR))


@pytest.mark.slow
def test_a_node_serves_survives_the_death_of_its_parts_and_ends_in_good_order(tmp_path: Path, pacs: StepNode) -> None:
    folder = tmp_path / "node"
    with serving(folder, configured(folder, pacs.port)) as node:
        _pages(node)

        first = bright_series()
        assert send_to(node.port, first, tmp_path / "1", called="NODE") == [0] * 6
        story = eventually(lambda: node.delivered(uid_of(first)))
        assert results(pacs, uid_of(first)) == [SEG, SR]
        assert story.study.state == "COMPLETE"

        for number, arguments in enumerate((("worker", "--io"), ("worker", "--device"), ("scheduler",), ("web",)), start=2):
            dead = node.role(*arguments)
            assert dead is not None
            dead.kill()
            images = bright_series()
            assert send_to(node.port, images, tmp_path / str(number), called="NODE") == [0] * 6
            uid = uid_of(images)
            eventually(lambda uid=uid: node.delivered(uid))
            assert results(pacs, uid_of(images)) == [SEG, SR]
            eventually(lambda arguments=arguments, dead=dead: (now := node.role(*arguments)) is not None and now.pid != dead.pid)

        text = node.log.read_text()
        assert "Doe" not in text, "no patient identity in logs"
        children = psutil.Process(node.process.pid).children(recursive=True)
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(30) == 0
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == [], "nothing is left running"
        assert "supervisor.stopped" in node.events()


def _pages(node: Served) -> None:
    with httpx.Client(trust_env=False, timeout=10) as client:
        assert client.get(node.url + "/healthz").json() == {"status": "alive"}
        assert client.get(node.url + "/readyz").json() == {"status": "ready", "problems": []}
        metrics = client.get(node.url + "/metrics").text
    assert "dicom_node_instances 0.0" in metrics
    assert 'dicom_node_delivery_age_seconds{peer="pacs"} 0.0' in metrics


@pytest.mark.slow
def test_a_node_killed_with_a_run_in_progress_finishes_it_after_its_restart(tmp_path: Path, pacs: StepNode) -> None:
    folder = tmp_path / "node"
    config = configured(folder, pacs.port)
    images = bright_series()
    with serving(folder, config) as node:
        assert send_to(node.port, images, tmp_path / "files", called="NODE") == [0] * 6
        eventually(lambda: (story := node.story(uid_of(images))) is not None and story.runs)
        roles = psutil.Process(node.process.pid).children(recursive=True)
        node.process.kill()
        for role in roles:
            with contextlib.suppress(psutil.NoSuchProcess):
                role.kill()
        psutil.wait_procs(roles, timeout=10)
    with serving(folder, config) as node:
        eventually(lambda: node.delivered(uid_of(images)))
    assert results(pacs, uid_of(images)) == [SEG, SR]


def test_the_roles_end_when_their_supervisor_is_killed(tmp_path: Path, pacs: StepNode) -> None:
    folder = tmp_path / "node"
    with serving(folder, configured(folder, pacs.port)) as node:
        roles = psutil.Process(node.process.pid).children(recursive=True)
        assert len(roles) >= 5
        node.process.kill()
        _, alive = psutil.wait_procs(roles, timeout=30)
        assert alive == []


@pytest.mark.postgresql
def test_a_node_waits_for_its_database_server(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with tempfile.TemporaryDirectory() as short, private_cluster() as url:
        socket = Path(short) / "pg"  # a name for the server that leads nowhere at first
        config = configured(folder, 9, more=f'[database]\nurl = "postgresql://postgres@/postgres?host={socket}"\n')

        def server_comes_up() -> None:
            eventually(lambda: (folder / "log").exists() and "database.waiting" in (folder / "log").read_text())
            socket.symlink_to(url.partition("host=")[2])

        comes = threading.Thread(target=server_comes_up)
        comes.start()
        with serving(folder, config) as node:
            comes.join()
            assert node.events().index("database.waiting") < node.events().index("archive.created")


def test_a_broken_configuration_ends_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[dimse]\nprt = 3\n")
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "did you mean 'port'" in done.stderr


@pytest.mark.parametrize(("table", "key"), [("dimse", "'dimse.port'"), ("web", "'web.port'")])
def test_a_port_that_another_program_holds_is_named(tmp_path: Path, table: str, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings(tmp_path)
        file = tmp_path / "node.toml"
        head, mark, tail = file.read_text().partition(f"[{table}]")
        file.write_text(head + mark + tail.replace("port = 0", f"port = {port}", 1))
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert f"{key} = {port}: nothing can be" in done.stderr
    assert "Traceback" not in done.stderr
    assert "the node cannot start" in done.stderr.splitlines()[-1]


def test_tls_files_that_are_not_there_are_named_before_anything_starts(tmp_path: Path) -> None:
    settings(tmp_path, more="[dimse.tls]\ncertificate = 'no.crt'\nkey = 'no.key'\n")
    for command, code in (("serve", 2), ("check", 1)):
        line = [sys.executable, "-m", "dicom_node", command, "--config", str(tmp_path / "node.toml")]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code
        assert "no.crt" in done.stderr + done.stdout
    assert not (tmp_path / "data").exists()


def test_a_node_whose_archive_is_not_mounted_refuses_to_start(tmp_path: Path, pacs: StepNode) -> None:
    folder = tmp_path / "node"
    config = configured(folder, pacs.port)
    with running(config):
        pass
    config.archive_root.rename(folder / "elsewhere")
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(folder / "node.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "is its disk mounted?" in done.stderr
    assert not config.archive_root.exists(), "an absent archive is not taken for an empty one"
