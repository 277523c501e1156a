"""While a run is under way everybody can see by when it is due; afterwards nobody is told a deadline that is over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dicom_node.cli.output import moment
from dicom_node.work.executors import InlineExecutor
from dicom_node.work.inference import Answer, Request
from tests.node import bright_series, command, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle
from tests.webserver import serving


class Watched(InlineExecutor):
    """Lets the test look while a run is under way."""

    look: Callable[[], None]

    def execute(self, request: Request, deadline: float, claim: str = "") -> Answer:
        self.look()
        return super().execute(request, deadline, claim)


def test_the_deadline_of_the_model_is_shown_while_it_runs(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundles")
    file = bundle / "dicom.toml"
    file.write_text(file.read_text() + "\n[run]\ndeadline = 4321.0\n")
    config, executor, seen = settings(tmp_path, more=rule()), Watched("cpu", threads=1), dict[str, Any]()
    images = bright_series()
    with running(config, executor=executor) as node, serving(config) as web:

        def look() -> None:
            job = next(each for each in node.node.queue().list(kind="infer"))
            seen["job"], seen["at"] = job, time.time()
            seen["shown"] = command(config, "job", "show", str(job.pk)).stdout
            seen["told"] = json.loads(command(config, "job", "show", str(job.pk), "--json").stdout)["job"]
            seen["study"] = command(config, "study", "show", uid_of(images)).stdout
            root = f"http://127.0.0.1:{web.port}"
            seen["api"] = web.client.get(f"{root}/api/jobs/{job.pk}").json()["job"]
            seen["pages"] = [web.client.get(f"{root}{path}").text for path in ("/jobs?state=IN_PROGRESS", f"/jobs/{job.pk}")]

        executor.look = look
        send(node, images, tmp_path / "files")
        node.work()
        due = seen["job"].due_by
        assert abs(due - 4321.0 - seen["at"]) < 60
        assert f"due by {moment(due)}, else it is ended" in seen["shown"]
        assert f", due by {moment(due)}" in seen["study"]
        assert seen["told"]["due_at"] == seen["api"]["due_at"] == due
        assert all("Due by" in page for page in seen["pages"])
        ended = node.node.queue().get(seen["job"].pk)
        assert (ended.state, ended.due_by) == ("COMPLETED", None)
        assert "due by" not in command(config, "study", "show", uid_of(images)).stdout


def test_another_attempt_has_its_own(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    with running(settings(tmp_path, more=rule())) as node:
        send(node, bright_series(), tmp_path / "files")
        node.complete()
        node.route.step()
        queue = node.node.queue()
        first = queue.claim(["infer"], "one")
        assert first is not None
        queue.due(first, 5.0)
        assert queue.get(first.pk).due_by == 5.0
        queue.release(first, "stopped")
        assert queue.get(first.pk).due_by is None
        second = queue.claim(["infer"], "two")
        assert second is not None
        assert queue.get(second.pk).due_by is None, "its own is not known yet"
