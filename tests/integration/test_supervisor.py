"""The supervisor where the system or the index refuses for a while."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dicom_node.kept_config import KEPT, keep
from dicom_node.node import prepare
from dicom_node.roles import SUPERVISOR_PID
from dicom_node.serve import FIRST_WAIT, Role, Supervisor
from dicom_node.work.worker import SilentBell, Worker
from storage.database import open_database
from storage.errors import IndexUnavailable
from storage.jobs import ClaimedJob, JobQueue, JobSpec
from tests.node import settings


def test_a_role_that_cannot_be_started_is_started_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(settings(tmp_path), tmp_path / "node.toml")
    role = Role("help", ["--help"])
    supervisor._roles = [role]
    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patched:
        patched.setenv("TOO_LONG", "x" * 300_000)  # the system refuses to start a process with it
        supervisor._tend()
        assert role.process is None
        assert role.failures == 1
        first = role.start_at
        assert supervisor._tend() is None, "not tried again at once"
        assert role.start_at == first
        role.start_at = 0.0
        supervisor._tend()
        assert role.failures == 2
        assert role.start_at - first > FIRST_WAIT, "the waits grow"
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "no pipe is left"
    role.start_at = 0.0
    supervisor._tend()
    assert role.process is not None
    assert role.process.wait(60) == 0
    supervisor._stop_all()


def test_a_sqlite_file_that_cannot_be_made_ends_the_supervisor(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = settings(tmp_path, more=f'[database]\nurl = "sqlite:///{tmp_path}/file/index.sqlite"\n')
    with pytest.raises(IndexUnavailable, match="cannot be made"):
        Supervisor(config, tmp_path / "node.toml")._prepare(threading.Event())


class _Noting:
    """A handler that ends at once where it was canceled."""

    def __init__(self) -> None:
        self.canceled: list[str] = []

    def __call__(self, job: ClaimedJob) -> None:
        assert self.canceled == [job.transaction_uid]

    def cancel(self, job: ClaimedJob) -> None:
        self.canceled.append(job.transaction_uid)


def test_a_worker_told_to_stop_between_claim_and_run_ends_the_run(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'index.sqlite'}", create=True)
    handler = _Noting()

    class Interrupted(JobQueue):
        def claim(self, queues: object, worker: str) -> ClaimedJob | None:
            job = super().claim(["infer"], worker)
            made.stop()
            return job

    queue = Interrupted(database)
    with database.begin() as connection:
        queue.enqueue(connection, JobSpec("infer", "infer", "k"))
    made = Worker(queue, ["infer"], {"infer": handler}, name="w", bell=SilentBell())
    assert made.step()
    assert len(handler.canceled) == 1
    made.close()
    database.close()


@pytest.mark.parametrize("whose", ["another's", "its own"])
def test_a_role_ends_by_itself_when_its_parent_is_not_the_supervisor_that_started_it(tmp_path: Path, whose: str) -> None:
    waits = "import threading; from dicom_node.roles import await_stop; await_stop(threading.Event()); print('ended')"
    environment = {**os.environ, SUPERVISOR_PID: str(os.getpid() if whose == "its own" else 1 << 30)}
    role = subprocess.Popen([sys.executable, "-c", waits], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        if whose == "its own":
            with pytest.raises(subprocess.TimeoutExpired):
                role.wait(4)
        else:
            assert role.wait(60) == 0
    finally:
        role.kill()
        role.communicate()


def test_the_supervisor_tells_a_role_who_it_is(tmp_path: Path) -> None:
    supervisor = Supervisor(settings(tmp_path), tmp_path / "node.toml")
    role = Role("scheduler", ["scheduler"])
    supervisor._roles = [role]
    supervisor._tend()
    assert role.process is not None
    environment = Path(f"/proc/{role.process.pid}/environ").read_bytes().split(b"\0")
    supervisor._stop_all()
    assert f"{SUPERVISOR_PID}={os.getpid()}".encode() in environment


def test_a_role_that_starts_again_while_the_file_is_broken_takes_the_configuration_in_use(tmp_path: Path) -> None:
    config, file = settings(tmp_path), tmp_path / "node.toml"
    prepare(config)
    copy = keep(config, file)
    assert copy.stat().st_mode & 0o077 == 0, "secrets may stand in it"
    file.write_text("[nod")
    called = [sys.executable, "-m", "dicom_node", "scheduler", "--config", str(file)]
    alone = subprocess.run(called, capture_output=True, text=True, timeout=60, check=False)
    assert (alone.returncode, "is not valid TOML" in alone.stderr) == (2, True)
    role = subprocess.Popen(called, env={**os.environ, KEPT: str(copy)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert role.stdout is not None
        assert role.stdout.readline() == "scheduler ready\n"
    finally:
        role.terminate()
        _, told = role.communicate(timeout=60)
    assert role.returncode == 0
    assert "configuration.refused" in told
