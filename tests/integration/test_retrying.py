"""``job retry``: the job and what it was about are put back together, or not at all."""

from __future__ import annotations

from pathlib import Path

from storage.jobs import JobSpec, JobState
from tests.node import bright_series, command, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle


def test_a_failed_run_is_put_back_with_its_job(tmp_path: Path) -> None:
    images = bright_series()
    tiny_bundle(tmp_path / "node" / "bundles", fault="raise")
    with running(settings(tmp_path / "node", more=rule() + "[executor]\nattempts = 1\n")) as node:
        send(node, images, tmp_path / "files")
        node.work()
        failed = node.story(uid_of(images)).runs[0].run
        assert failed.state == "FAILED"
        assert command(node.node.config, "job", "retry", str(failed.job_pk)).returncode == 0
        again = node.story(uid_of(images)).runs[0].run
        assert (again.state, again.reason) == ("SCHEDULED", None)
        assert node.node.queue().get(int(failed.job_pk or 0)).state == "SCHEDULED"


def test_a_job_whose_subject_cannot_be_put_back_stays_failed(tmp_path: Path) -> None:
    with running(settings(tmp_path / "node")) as node:
        queue = node.node.queue()
        with node.node.database.begin() as connection:
            pk = queue.enqueue(connection, JobSpec("infer", "infer", "without a run"))
        job = queue.claim(["infer"], "w")
        assert job is not None
        assert pk is not None
        queue.fail(job, "broken")
        assert command(node.node.config, "job", "retry", str(pk)).returncode != 0
        assert queue.get(pk).state == JobState.FAILED.value
