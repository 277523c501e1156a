"""The main job with the index on PostgreSQL: two receivers on one port, two io workers, and deaths among them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from dicom_node.config import Config, load
from storage.database import open_database
from storage.jobs import JobQueue, JobState
from tests.e2e.test_serve import SEG, SR, eventually, results, serving
from tests.node import StepNode, bright_series, peer, rule, running, send_to, settings, uid_of
from tests.peers.orthanc import free_ports
from tests.postgresql import private_cluster
from tests.tiny_bundle import tiny_bundle

pytestmark = [pytest.mark.postgresql, pytest.mark.slow, pytest.mark.xdist_group("serve")]

STUDIES = 6


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StepNode]:
    with running(settings(tmp_path / "pacs", title="PACS")) as node:
        yield node


def configured(folder: Path, url: str, pacs_port: int) -> Config:
    """Two receivers share a port, so it must be a known one."""
    tiny_bundle(folder / "bundles")
    more = peer("pacs", pacs_port) + rule("pacs") + f'\n[executor]\nthreads = 1\n[database]\nurl = "{url}"\n'
    settings(folder, quiet="500ms", more=more)
    file = folder / "node.toml"
    text = file.read_text().replace('lease = "30s"', 'lease = "3s"').replace("backoff = 0", 'backoff = "200ms"', 1)
    file.write_text(text.replace("port = 0\nunknown", f"port = {free_ports(1)[0]}\nreceivers = 2\nunknown"))
    return load(file)


@contextlib.contextmanager
def another_io_worker(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "dicom_node", "worker", "--io", "--config", str(folder / "node.toml")]
    with (folder / "io.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("io worker ready")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def test_the_main_job_on_postgresql_survives_the_death_of_an_io_worker_and_a_receiver(tmp_path: Path, pacs: StepNode) -> None:
    folder = tmp_path / "node"
    with private_cluster() as url:
        config = configured(folder, url.replace("+psycopg", ""), pacs.port)
        with serving(folder, config) as node, another_io_worker(folder) as other:
            studies = [bright_series() for _ in range(STUDIES)]
            with ThreadPoolExecutor(STUDIES) as senders:
                sent = [senders.submit(send_to, node.port, images, tmp_path / str(n), called="NODE") for n, images in enumerate(studies)]
                assert [each.result() for each in sent] == [[0] * 6] * STUDIES
            eventually(lambda: _done(config, "route"))
            dead = node.role("worker", "--io")
            receiver = node.role("receiver")
            assert dead is not None
            assert receiver is not None
            dead.kill()
            receiver.kill()
            for images in studies:
                uid = uid_of(images)
                eventually(lambda uid=uid: node.delivered(uid))
                assert results(pacs, uid) == [SEG, SR]
            eventually(lambda: (now := node.role("receiver")) is not None and now.pid != receiver.pid)
            other.send_signal(signal.SIGTERM)
            assert other.wait(30) == 0

            late = bright_series()
            assert send_to(node.port, late, tmp_path / "late", called="NODE") == [0] * 6
            eventually(lambda: node.delivered(uid_of(late)))
            story = _shown(folder, uid_of(late))
            assert story["study"]["state"] == "COMPLETE"
            assert _unfinished(config) == []
            children = psutil.Process(node.process.pid).children(recursive=True)
            node.process.send_signal(signal.SIGTERM)
            assert node.process.wait(30) == 0
            assert psutil.wait_procs(children, timeout=10)[1] == []


def _done(config: Config, kind: str) -> bool:
    database = open_database(config.database_url)
    try:
        return any(job.state == JobState.COMPLETED.value for job in JobQueue(database).list(kind=kind))
    finally:
        database.close()


def _unfinished(config: Config) -> list[str]:
    database = open_database(config.database_url)
    try:
        return [f"{job.kind} {job.state}" for job in JobQueue(database).list() if job.state != JobState.COMPLETED.value]
    finally:
        database.close()


def _shown(folder: Path, study_uid: str) -> dict[str, dict[str, str]]:
    command = [sys.executable, "-m", "dicom_node", "study", "show", study_uid, "--json", "--config", str(folder / "node.toml")]
    story: dict[str, dict[str, str]] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    return story
