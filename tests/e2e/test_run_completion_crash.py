"""kill -9 at every step of a run's completion: its objects, their rows and the job's end appear together, and once."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from benchmarks.campaigns.check import rebuilt_differs
from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, template
from benchmarks.load import Plan
from storage.archive import Archive, EmittedObject
from storage.database import open_database
from storage.integrity import verify
from storage.jobs import JobQueue, JobSpec, JobState
from storage.schema import job_event
from tests.e2e.crashing import DyingDisk, open_archive

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # of the same length as CT Image Storage
LONGEST = 100
CLAIMED_AT, LATER = 1000.0, 2000.0


def objects() -> list[EmittedObject]:
    """Return the two objects of the run, the same at every attempt."""
    return [
        EmittedObject(
            sop_class_uid=SECONDARY_CAPTURE,
            sop_instance_uid=one.sop,
            study_uid=one.study,
            series_uid=one.series,
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
            dataset_bytes=template("small").instance(one).replace(CT_IMAGE_STORAGE.encode(), SECONDARY_CAPTURE.encode()),
            run_key="run",
        )
        for one in Plan("small", studies=1, per_study=2, seed=31).identities()
    ]


def complete_run(archive: Archive, now: float, disk: DyingDisk | None = None) -> bool:
    """Take the job and complete its run; False when there is nothing to take. With a `disk`, the transaction has two steps more."""
    queue = JobQueue(archive.database, clock=lambda: now, lease=30.0)
    queue.reclaim()
    claimed = queue.claim(["infer"], "worker")
    if claimed is None:
        return False

    def fenced(connection: Connection) -> None:
        queue.fence(connection, claimed)
        queue.complete(connection, claimed)
        if disk:
            disk._step(lambda: None)

    archive.store_emitted(objects(), in_transaction=fenced)
    if disk:
        disk._step(lambda: None)
    return True


def run_and_die(folder: Path, last: int, when: str) -> None:
    disk = DyingDisk(last, when)
    archive = open_archive(folder, disk)
    assert complete_run(archive, CLAIMED_AT, disk)
    archive.close()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """An empty archive with a run waiting."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    database = open_database(f"sqlite:///{folder / 'index.sqlite'}", create=True)
    Archive.create(folder / "archive", database)
    with database.begin() as connection:
        JobQueue(database, clock=lambda: CLAIMED_AT).enqueue(connection, JobSpec(kind="infer", queue="infer", dedupe_key="run"))
    database.close()
    return folder


@pytest.mark.parametrize("when", ["before", "after", "half"])
def test_a_run_is_completed_once_whenever_its_worker_dies(prepared: Path, tmp_path: Path, when: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.e2e.crashing"])
    for last in range(1, LONGEST):
        place = tmp_path / f"{when}-{last}"
        shutil.copytree(prepared, place)
        process = context.Process(target=run_and_die, args=(place, last, when))
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        finished_by_another(place)
        if process.exitcode == 0:
            assert last > 5
            return
    pytest.fail("the completion never ended")


def finished_by_another(place: Path) -> None:
    """Recover, let another worker do what is left, and find everything there once."""
    archive = open_archive(place)
    try:
        archive.recover()
        before = {one.sop_uid for one in archive.instances(objects()[0].study_uid)}
        again = complete_run(archive, LATER)
        assert len(before) == (0 if again else 2), "objects and job did not go together"
        found = archive.instances(objects()[0].study_uid)
        assert sorted(one.sop_uid for one in found) == sorted(one.sop_instance_uid for one in objects())
        with archive.database.read() as connection:
            ends = select(func.count()).where(job_event.c.state == JobState.COMPLETED.value)
            assert connection.scalar(ends) == 1
        report = verify(archive)
        assert report.ok, report
    finally:
        archive.close()
    assert not rebuilt_differs(place / "index.sqlite", place / "archive")
