"""Two retries of one job at once are one retry, of its job, its run and its workitem, on each kind of database."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from sqlalchemy import func, select

from dicom_node.actions import retry_job
from dicom_node.errors import CommandFailed
from storage import runs, workitem_runs
from storage.database import Database
from storage.jobs import JobQueue
from storage.schema import workitem
from tests.contract.fill import add_instance, add_study
from tests.node import settings

AT_ONCE = 8


def failed(database: Database, queue: JobQueue) -> tuple[int, int]:
    """A run that failed, with its workitem; its key and that of its job."""
    add_study(database, "1.2")
    add_instance(database, "1.2", "1.2.1.1")
    spec = runs.RunSpec("1.2", 1, ["1.2.1"], [("1.2.1.1", "00")], "rule", "brain", "1", "d")
    with database.begin() as connection:
        pk = runs.create_run(connection, spec, queue=queue, now=time.time())
        assert pk is not None
        workitem_runs.catch_up(connection, by="NODE", now=time.time())
    job = queue.claim(["infer"], "w")
    assert job is not None
    with database.begin() as connection:
        runs.start_run(connection, pk, "cpu")
        runs.fail_run(connection, pk, "no head")
        queue.fail(job, "no head", connection=connection)
        workitem_runs.catch_up(connection, by="NODE", now=time.time())
    return pk, job.pk


def test_two_retries_of_one_job_at_once_are_one_retry(database: Database, tmp_path: Path) -> None:
    queue, config = JobQueue(database), settings(tmp_path)
    run_pk, job_pk = failed(database, queue)
    together, said = threading.Barrier(AT_ONCE), []

    def retry(number: int) -> None:
        together.wait(30)
        try:
            retry_job(config, database, job_pk, who=f"person {number}")
            said.append("retried")
        except CommandFailed as error:
            said.append(str(error))

    people = [threading.Thread(target=retry, args=(number,)) for number in range(AT_ONCE)]
    for person in people:
        person.start()
    for person in people:
        person.join(60)
    assert said.count("retried") == 1
    assert len(said) == AT_ONCE
    assert all("only failed and canceled jobs are retried" in each for each in said if each != "retried")
    assert [str(event.detail).startswith("requeued") for event in queue.events(job_pk)].count(True) == 1
    with database.read() as connection:
        assert runs.get_run(connection, run_pk).state == "SCHEDULED"
        assert connection.scalar(select(func.count()).where(workitem.c.run_pk == run_pk)) == 2  # of the old attempts and the new
    assert queue.claim(["infer"], "w") is not None
    assert queue.claim(["infer"], "w") is None
