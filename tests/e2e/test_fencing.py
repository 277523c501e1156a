"""A worker that lost its lease commits nothing; and the proof that the fencing condition is what stops it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, bindparam, select, update

from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, template
from benchmarks.load import Plan
from storage import jobs
from storage.archive import Archive, EmittedObject
from storage.database import open_database
from storage.errors import StaleToken
from storage.jobs import ClaimedJob, JobQueue, JobSpec
from storage.schema import job

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # of the same length as CT Image Storage


def late_worker_commits(folder: Path) -> int:
    """Let a worker finish a run after another one has taken and finished it; return how many objects of the late one stand."""
    database = open_database(f"sqlite:///{folder / 'index.sqlite'}", create=True)
    Archive.create(folder / "archive", database)
    archive = Archive.open(folder / "archive", database, process="worker")
    now = [1000.0]
    queue = JobQueue(database, clock=lambda: now[0], lease=30.0)
    try:
        with database.begin() as connection:
            queue.enqueue(connection, JobSpec(kind="infer", queue="infer", dedupe_key="run", payload={}))
        late = queue.claim(["infer"], "late")
        now[0] += 60.0
        queue.reclaim()
        now[0] += 60.0
        other = queue.claim(["infer"], "other")
        assert late is not None
        assert other is not None
        finish(archive, queue, other, seed=1)
        with suppress(StaleToken):
            finish(archive, queue, late, seed=2)
        return len(archive.instances(next(Plan("small", seed=2).identities()).study))
    finally:
        archive.close()
        database.close()


def finish(archive: Archive, queue: JobQueue, claimed: ClaimedJob, *, seed: int) -> None:
    one = next(Plan("small", seed=seed).identities())
    emitted = EmittedObject(
        sop_class_uid=SECONDARY_CAPTURE,
        sop_instance_uid=one.sop,
        study_uid=one.study,
        series_uid=one.series,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        dataset_bytes=template("small").instance(one).replace(CT_IMAGE_STORAGE.encode(), SECONDARY_CAPTURE.encode()),
        run_key=f"run-{seed}",
    )

    def fenced(connection: Connection) -> None:
        queue.fence(connection, claimed)
        queue.complete(connection, claimed)

    archive.store_emitted([emitted], in_transaction=fenced)


def test_a_worker_that_lost_its_lease_commits_nothing(tmp_path: Path) -> None:
    assert late_worker_commits(tmp_path) == 0


def test_without_the_fencing_condition_it_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anybody = (job.c.pk == bindparam("held_pk")) & (bindparam("held_token") != "")
    monkeypatch.setattr(jobs, "_FENCE", select(job.c.pk).where(anybody))
    monkeypatch.setattr(jobs, "_CHANGE", update(job).where(anybody))
    assert late_worker_commits(tmp_path) == 1
