"""Executors on a real bundle: the child answers, stays warm, and dies alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dicom_node.results.context import ResultContext
from dicom_node.work.executors import InlineExecutor, ProcessExecutor
from dicom_node.work.inference import FilePart, Request
from models.bundle import load_bundle
from tests.dimse import until
from tests.imaging import as_file, series
from tests.tiny_bundle import tiny_bundle


def request_for(root: Path, folder: Path, **changes: object) -> Request:
    values = np.zeros((6, 12, 10), dtype=np.int16)
    values[2:4, 3:6, 4:7] = 1500
    images = series(values, SeriesDescription="T1")
    data = folder / "images"
    parts, offset = [], 0
    with data.open("wb") as stream:
        for image in images:
            file = as_file(image).getvalue()
            stream.write(file)
            parts.append(FilePart(str(data), offset, len(file)))
            offset += len(file)
    study = str(images[0].StudyInstanceUID)
    context = ResultContext("key", study, "tiny", "2.25.1", "0", 1_700_000_000.0)
    return Request(str(root), load_bundle(root).digest, tuple(parts), context)


@pytest.fixture
def executor() -> Iterator[ProcessExecutor]:
    made = ProcessExecutor("cpu", threads=1)
    yield made
    made.close()


def test_the_child_finds_what_is_there_and_stays_warm(executor: ProcessExecutor, tmp_path: Path) -> None:
    request = request_for(tiny_bundle(tmp_path), tmp_path)
    first = executor.execute(request, 120)
    assert (first.outcome, first.reason) == ("findings", "")
    assert [item.kind for item in first.objects] == ["SEG", "SR"]
    assert first.findings["segments"] == [{"label": "Bright", "voxels": 18}]
    pid = executor.pid
    second = executor.execute(request, 120)
    assert executor.pid == pid
    assert [item.dataset_bytes for item in second.objects] == [item.dataset_bytes for item in first.objects]
    assert second.timings["load"] == 0.0


def test_inline_gives_the_same_bytes(executor: ProcessExecutor, tmp_path: Path) -> None:
    request = request_for(tiny_bundle(tmp_path), tmp_path)
    here, there = InlineExecutor("cpu").execute(request, 120), executor.execute(request, 120)
    assert [item.dataset_bytes for item in here.objects] == [item.dataset_bytes for item in there.objects]


def test_a_crash_ends_the_child_only(executor: ProcessExecutor, tmp_path: Path) -> None:
    answer = executor.execute(request_for(tiny_bundle(tmp_path / "a", fault="crash"), tmp_path), 120)
    assert (answer.outcome, answer.code, answer.passing) == ("failed", "crash", True)
    assert "exit code 3" in answer.reason
    assert executor.execute(request_for(tiny_bundle(tmp_path / "b"), tmp_path), 120).outcome == "findings"


def test_a_hang_is_ended_at_the_deadline(executor: ProcessExecutor, tmp_path: Path) -> None:
    executor.warm_up()
    answer = executor.execute(request_for(tiny_bundle(tmp_path, fault="hang"), tmp_path), 1.0)
    assert (answer.outcome, answer.code) == ("failed", "deadline")
    assert executor.pid is None


@pytest.mark.parametrize(("fault", "code"), [("memory", "out-of-memory"), ("raise", "failed-load")])
def test_what_a_model_raises_is_an_answer(executor: ProcessExecutor, tmp_path: Path, fault: str, code: str) -> None:
    answer = executor.execute(request_for(tiny_bundle(tmp_path, fault=fault), tmp_path), 120)
    assert (answer.outcome, answer.code) == ("failed", code)
    assert executor.pid is not None


def test_a_killed_child_is_told_apart_and_replaced(executor: ProcessExecutor, tmp_path: Path) -> None:
    executor.warm_up()
    pid = executor.pid
    assert pid is not None
    hanging = request_for(tiny_bundle(tmp_path / "a", fault="hang"), tmp_path)
    killer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
    killer.start()
    answer = executor.execute(hanging, 120)
    assert answer.code == "crash"
    assert "SIGKILL" in answer.reason
    assert executor.execute(request_for(tiny_bundle(tmp_path / "b"), tmp_path), 120).outcome == "findings"


def test_a_run_can_be_canceled(executor: ProcessExecutor, tmp_path: Path) -> None:
    executor.warm_up()
    threading.Timer(0.3, executor.cancel).start()
    answer = executor.execute(request_for(tiny_bundle(tmp_path, fault="hang"), tmp_path), 120)
    assert answer.code == "canceled"


def test_a_cancel_before_the_run_begins_is_not_lost(executor: ProcessExecutor, tmp_path: Path) -> None:
    hanging = request_for(tiny_bundle(tmp_path / "a", fault="hang"), tmp_path)
    executor.cancel("claim 1")
    assert executor.execute(hanging, 60, "claim 1").code == "canceled"
    whole = request_for(tiny_bundle(tmp_path / "b"), tmp_path)
    assert executor.execute(whole, 120, "claim 2").outcome == "findings"


def test_a_cancel_while_the_child_starts_is_not_lost(executor: ProcessExecutor, tmp_path: Path) -> None:
    hanging = request_for(tiny_bundle(tmp_path, fault="hang"), tmp_path)
    answers: list[str] = []
    run = threading.Thread(target=lambda: answers.append(executor.execute(hanging, 60, "claim").code))
    run.start()
    until(lambda: executor.pid is not None)
    executor.cancel("claim")
    run.join()
    assert answers == ["canceled"]


def test_a_cancel_after_the_run_leaves_the_child_warm(executor: ProcessExecutor, tmp_path: Path) -> None:
    request = request_for(tiny_bundle(tmp_path), tmp_path)
    assert executor.execute(request, 120, "claim 1").outcome == "findings"
    pid = executor.pid
    executor.cancel("claim 1")
    assert executor.execute(request, 120, "claim 2").outcome == "findings"
    assert executor.pid == pid


def test_a_bundle_that_changed_is_refused(executor: ProcessExecutor, tmp_path: Path) -> None:
    root = tiny_bundle(tmp_path)
    request = request_for(root, tmp_path)
    with (root / "dicom.toml").open("a") as stream:
        stream.write("\n# another release\n")
    answer = executor.execute(request, 120)
    assert (answer.outcome, answer.passing) == ("failed", False)


def test_images_that_make_no_volume_are_not_applicable(executor: ProcessExecutor, tmp_path: Path) -> None:
    request = request_for(tiny_bundle(tmp_path), tmp_path)
    doubled = Request(request.bundle_root, request.release_digest, (*request.images, request.images[0]), request.context)
    answer = executor.execute(doubled, 120)
    assert (answer.outcome, answer.code) == ("not_applicable", "duplicate-slices")
