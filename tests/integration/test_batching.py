"""Films that wait at the same time go through the network together: the same results, and each its own run, record and failure."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from dicom_node.results.context import EncodedObject
from dicom_node.results.files import part10
from dicom_node.work.executors import Asked, ProcessExecutor
from dicom_node.work.inference import Answer, Request, Runner
from models.bundle import SHIPPED, load_bundle
from models.predict import Predictor
from models.stack import read_inputs
from storage.schema import job as job_table
from tests.dimse import until
from tests.films import CRASHES, HANGS, RAISES, RULE, chest, faulty_bundle, film, requests_for
from tests.node import StepNode, running, send, settings, uid_of
from tests.planar_bundle import planar_bundle, shadows
from tests.tiny_bundle import tiny_bundle

LUNGS = SHIPPED / "cxr_lungs"


@pytest.fixture
def executor() -> Iterator[ProcessExecutor]:
    made = ProcessExecutor("cpu", threads=1)
    yield made
    made.close()


def asked(requests: Sequence[Request], deadline: float = 120) -> list[Asked]:
    return [Asked(request, deadline, f"claim {number}") for number, request in enumerate(requests)]


def answers(executor: ProcessExecutor, requests: Sequence[Request], deadline: float = 120) -> list[Answer]:
    """The answer to each, in their order; each is answered once."""
    found = list(executor.together(asked(requests, deadline)))
    assert sorted(claim for claim, _ in found) == sorted(f"claim {number}" for number in range(len(requests)))
    by_claim = dict(found)
    return [by_claim[f"claim {number}"] for number in range(len(requests))]


def mask_of(objects: Sequence[EncodedObject]) -> NDArray[np.uint8]:
    (found,) = (each for each in objects if each.kind == "SEG")
    pixels: NDArray[np.uint8] = dcmread(io.BytesIO(part10(found))).pixel_array
    return pixels


def test_the_networks_output_is_the_same_to_float_precision(tmp_path: Path) -> None:
    bundle = load_bundle(LUNGS)
    requests = requests_for(LUNGS, [film(chest(seed, 150 + 10 * seed, 140)) for seed in range(5)], tmp_path)
    predictor = Predictor(bundle, "cpu", threads=1)
    volumes = [read_inputs(bundle.dicom, [[part.open for part in each.images]]) for each in requests]
    alone = [predictor.raw_output(volume).numpy() for volume in volumes]
    prepared = [predictor.prepare(volume) for volume in volumes]
    predictor.apply(prepared)
    together = [each.data["pred"].numpy() for each in prepared]
    assert [each.together for each in prepared] == [5] * 5
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)
    assert np.abs(alone[0] - alone[1]).max() > 0.1  # else it would prove nothing


def test_the_results_of_the_shipped_model_are_the_same(tmp_path: Path) -> None:
    requests = requests_for(LUNGS, [film(chest(seed), PixelSpacing=[0.2, 0.2]) for seed in range(4)], tmp_path)
    runner = Runner("cpu", threads=1)
    alone = [runner.run(each) for each in requests]
    together = dict(runner.together(requests))
    for number, one in enumerate(alone):
        other = together[number]
        assert (one.outcome, one.together, other.together) == (other.outcome, 1, 4)
        assert one.outcome == "findings"
        assert [each.kind for each in other.objects] == [each.kind for each in one.objects]
        assert [each.sop_instance_uid for each in other.objects] == [each.sop_instance_uid for each in one.objects]
        here, there = mask_of(one.objects), mask_of(other.objects)
        assert (here != there).mean() < 1e-4
        areas = [[each["value"] for each in answer.findings["measurements"]] for answer in (one, other)]
        np.testing.assert_allclose(areas[1], areas[0], rtol=1e-3)
    sizes = {mask_of(each.objects).sum() for each in alone}
    assert len(sizes) > 1


def test_films_that_wait_are_carried_out_together(executor: ProcessExecutor, tmp_path: Path) -> None:
    planar_bundle(tmp_path / "bundles")
    films = [film(shadows(128, 64 + 8 * number)) for number in range(5)]
    config = settings(tmp_path, more="[executor]\nbatch = 4\n" + RULE % "halves")
    with running(config, executor=executor) as node:
        for number, image in enumerate(films):
            assert send(node, [image], tmp_path / f"in-{number}") == [0]
        node.complete()
        while node.route.step():
            pass
        assert [node.infer.step(), node.infer.step(), node.infer.step()] == [True, True, False]
        stories = [node.story(uid_of([image])) for image in films]
        runs = [each.run for story in stories for each in story.runs]
        assert [run.state for run in runs] == ["COMPLETED"] * 5
        assert all(run.started_at and run.finished_at and run.timings for run in runs)
        queue = node.infer._queue
        told = [queue.events(run.job_pk or 0)[-1].detail for run in runs]
        assert told == ["findings: 2 objects, one of 4 images in one pass"] * 4 + ["findings: 2 objects"]
        tokens = {queue.get(run.job_pk or 0).transaction_uid for run in runs}
        assert len(tokens) == 5
        for image, run in zip(films, runs, strict=True):
            assert made_of(node, image) == 2, run


def made_of(node: StepNode, image: Dataset) -> int:
    """How many results of a film are in the archive."""
    return len([each for each in node.node.archive.instances(uid_of([image])) if each.sop_uid != image.SOPInstanceUID])


def test_a_film_that_cannot_be_used_fails_alone(executor: ProcessExecutor, tmp_path: Path) -> None:
    films = [film(shadows()), film(shadows(), ViewPosition="LL"), film(shadows(128, RAISES)), film(shadows())]
    broken = film(shadows())
    broken.PixelData = broken.PixelData[:100]
    requests = requests_for(faulty_bundle(tmp_path), [*films, broken], tmp_path)
    executor.warm_up()
    pid = executor.pid
    found = answers(executor, requests)
    assert [each.outcome for each in found] == ["findings", "not_applicable", "failed", "findings", "not_applicable"]
    assert [each.code for each in found[1:3]] == ["wrong-view", "failed-preprocess"]
    assert [found[0].together, found[3].together] == [2, 2]
    assert executor.pid == pid


def test_a_film_that_ends_the_process_ends_no_other_run(executor: ProcessExecutor, tmp_path: Path) -> None:
    films = [film(shadows()), film(shadows(128, CRASHES)), film(shadows())]
    found = answers(executor, requests_for(faulty_bundle(tmp_path), films, tmp_path))
    assert [each.outcome for each in found] == ["findings", "failed", "findings"]
    assert (found[1].code, found[1].passing) == ("crash", True)
    assert "exit code 3" in found[1].reason


def test_a_film_that_hangs_is_ended_at_its_deadline_and_the_others_are_done(executor: ProcessExecutor, tmp_path: Path) -> None:
    root = faulty_bundle(tmp_path)
    (warm,) = requests_for(root, [film(shadows())], tmp_path)
    assert executor.execute(warm, 120).outcome == "findings"
    films = [film(shadows()), film(shadows(128, HANGS)), film(shadows())]
    found = answers(executor, requests_for(root, films, tmp_path), 15.0)
    assert [(each.outcome, each.code) for each in found] == [("findings", ""), ("failed", "deadline"), ("findings", "")]


def test_films_that_do_not_fit_together_go_in_smaller_numbers(executor: ProcessExecutor, tmp_path: Path) -> None:
    requests = requests_for(faulty_bundle(tmp_path, most=2), [film(shadows()) for _ in range(7)], tmp_path)
    found = answers(executor, requests)
    assert [each.outcome for each in found] == ["findings"] * 7
    assert [each.together for each in found] == [1, 2, 2, 2, 2, 2, 2]
    assert {each.reason for each in found} == {""}
    course = found[1].course
    assert course is not None
    assert course.shown()["voxels"] == 2 * 32 * 64
    assert course.choice.why.startswith("2 images in one pass")


def test_a_number_that_ends_the_process_is_not_tried_again(executor: ProcessExecutor, tmp_path: Path) -> None:
    requests = requests_for(faulty_bundle(tmp_path, ends=2), [film(shadows()) for _ in range(5)], tmp_path)
    first = answers(executor, requests)
    assert [(each.outcome, each.together) for each in first] == [("findings", 1)] * 5
    pid = executor.pid
    second = answers(executor, requests)
    assert [(each.outcome, each.together) for each in second] == [("findings", 2)] * 4 + [("findings", 1)]
    assert executor.pid == pid


def test_one_film_that_ends_the_process_does_not_keep_later_ones_apart(executor: ProcessExecutor, tmp_path: Path) -> None:
    root = faulty_bundle(tmp_path)
    answers(executor, requests_for(root, [film(shadows()), film(shadows(128, CRASHES)), film(shadows())], tmp_path))
    found = answers(executor, requests_for(root, [film(shadows()) for _ in range(3)], tmp_path))
    assert [each.together for each in found] == [3] * 3


def test_inputs_of_other_shapes_go_in_passes_of_their_own(tmp_path: Path) -> None:
    root = planar_bundle(tmp_path)
    file = root / "configs" / "inference.json"
    file.write_text(file.read_text().replace('[32, 64]', '[32, -1]'))
    films = [film(shadows(128, 64)), film(shadows(64, 64)), film(shadows(128, 64))]
    found = dict(Runner("cpu", threads=1).together(requests_for(root, films, tmp_path)))
    assert [found[number].outcome for number in range(3)] == ["findings"] * 3
    assert [found[number].together for number in range(3)] == [2, 1, 2]


def test_a_child_killed_in_the_middle_loses_and_doubles_nothing(executor: ProcessExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    faulty_bundle(tmp_path / "bundles", gate=str(gate))
    films = [film(shadows()) for _ in range(4)]
    config = settings(tmp_path, more=RULE % "halves")
    with running(config, executor=executor) as node:
        for number, image in enumerate(films):
            assert send(node, [image], tmp_path / f"in-{number}") == [0]
        node.complete()
        while node.route.step():
            pass
        entered = Path(f"{gate}.entered")
        killed: list[int] = []

        def kill() -> None:
            until(entered.exists, 60)
            assert executor.pid is not None
            killed.append(executor.pid)
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        assert node.infer.step()
        killer.join()
        assert killed
        assert not node.infer.step()
        for image in films:
            (told,) = node.story(uid_of([image])).runs
            assert (told.run.state, told.run.reason) == ("COMPLETED", None)
            assert made_of(node, image) == 2
            assert node.infer._queue.get(told.run.job_pk or 0).attempts == 1


def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    faulty_bundle(tmp_path / "bundles", gate=str(gate))
    films = [film(shadows()) for _ in range(4)]
    config = settings(tmp_path, more=RULE % "halves")
    with running(config) as node:
        for number, image in enumerate(films):
            assert send(node, [image], tmp_path / f"in-{number}") == [0]
        node.complete()
        while node.route.step():
            pass
        called = [sys.executable, "-m", "dicom_node", "worker", "--device", "cpu", "--config", str(tmp_path / "node.toml")]
        worker = subprocess.Popen(called, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(Path(f"{gate}.entered").exists, 120)
        finally:
            worker.kill()
            worker.wait()
        jobs = [node.story(uid_of([image])).runs[0].run.job_pk or 0 for image in films]
        assert [node.infer._queue.get(job).state for job in jobs] == ["IN_PROGRESS"] * 4
        with node.node.database.begin() as connection:
            connection.execute(job_table.update().values(lease_until=0.0))  # as if that long had gone by
        assert node.infer._queue.reclaim() == 4
        gate.touch()
        node.work()
        for image, job in zip(films, jobs, strict=True):
            (told,) = node.story(uid_of([image])).runs
            assert told.run.state == "COMPLETED"
            assert made_of(node, image) == 2
            states = [event.state for event in node.infer._queue.events(job)]
            assert states == ["SCHEDULED", "IN_PROGRESS", "SCHEDULED", "IN_PROGRESS", "COMPLETED"]


def test_a_canceled_run_ends_alone(executor: ProcessExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    requests = requests_for(faulty_bundle(tmp_path, gate=str(gate)), [film(shadows()) for _ in range(3)], tmp_path)

    def cancel() -> None:
        until(Path(f"{gate}.entered").exists, 60)
        executor.cancel("claim 1")
        gate.touch()

    canceler = threading.Thread(target=cancel)
    canceler.start()
    found = answers(executor, requests)
    canceler.join()
    assert [each.code for each in found] == ["", "canceled", ""]
    assert [each.outcome for each in found][::2] == ["findings"] * 2
    assert executor.pid is not None


def test_when_all_are_canceled_nobody_is_waited_for(executor: ProcessExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    requests = requests_for(faulty_bundle(tmp_path, gate=str(gate)), [film(shadows()) for _ in range(3)], tmp_path)

    def cancel() -> None:
        until(Path(f"{gate}.entered").exists, 60)
        for number in range(3):
            executor.cancel(f"claim {number}")

    canceler = threading.Thread(target=cancel)
    canceler.start()
    found = answers(executor, requests)
    canceler.join()
    assert [each.code for each in found] == ["canceled"] * 3


def test_which_bundles_take_several_images_at_once(tmp_path: Path) -> None:
    assert load_bundle(LUNGS).batches
    assert not load_bundle(tiny_bundle(tmp_path)).batches
    root = planar_bundle(tmp_path)
    assert load_bundle(root).batches
    text = (root / "dicom.toml").read_text()
    (root / "dicom.toml").write_text(text.replace("[run]", "[run]\nbatch = false"))
    assert not load_bundle(root).batches
