"""A model that needs more memory than there is: it is applied in smaller pieces, and says so, or fails with a reason; never for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.inferers.inferer import SimpleInferer, SlidingWindowInferer

from dicom_node.work.executors import ProcessExecutor
from models.ladder import Configured, Rung, rungs
from tests.integration.test_executors import request_for
from tests.node import bright_series, command, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle

HUNGRY = """
import torch

class Hungry(torch.nn.Module):
    '''The identity, for a price: so many bytes for every window of a batch.'''

    def __init__(self, price: int, most: int):
        super().__init__()
        self.price, self.most = price, most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError('as a device says it')
        taken = torch.empty(len(x) * self.price, dtype=torch.uint8)
        taken[::4096] = 1
        return x
"""
WINDOWS = {"_target_": "SlidingWindowInferer", "roi_size": [4, 4, 4], "sw_batch_size": 8, "overlap": 0.0}
GIB = 1 << 30


def hungry_bundle(folder: Path, *, price: int = 1, most: int = 1000, inferer: Any = WINDOWS, deadline: float | None = None) -> Path:
    root = tiny_bundle(folder)
    (root / "scripts").mkdir()
    (root / "scripts" / "__init__.py").write_text("")
    (root / "scripts" / "hungry.py").write_text(HUNGRY)
    file = root / "configs" / "inference.json"
    network = {"_target_": "scripts.hungry.Hungry", "price": price, "most": most}
    file.write_text(json.dumps({**json.loads(file.read_text()), "network_def": network, "inferer": inferer}))
    if deadline is not None:
        with (root / "dicom.toml").open("a") as stream:
            stream.write(f"\n[run]\ndeadline = {deadline}\n")
    return root


@pytest.fixture
def limited() -> Iterator[ProcessExecutor]:
    made = ProcessExecutor("cpu", threads=1, memory=6 * GIB)
    yield made
    made.close()


def test_what_does_not_fit_is_done_a_window_at_a_time_and_next_time_at_once(limited: ProcessExecutor, tmp_path: Path) -> None:
    request = request_for(hungry_bundle(tmp_path, price=GIB), tmp_path)
    first = limited.execute(request, 120)
    assert (first.outcome, first.reason) == ("findings", "too little memory as configured: one window at a time")
    pid = limited.pid
    second = limited.execute(request, 120)
    assert (second.reason, limited.pid) == (first.reason, pid)
    assert [each.dataset_bytes for each in second.objects] == [each.dataset_bytes for each in first.objects]
    free = ProcessExecutor("cpu", threads=1)
    try:
        plain = free.execute(request_for(hungry_bundle(tmp_path / "b"), tmp_path), 120)
    finally:
        free.close()
    assert plain.reason == ""
    assert first.findings == plain.findings


def test_what_never_fits_fails_with_what_was_tried(limited: ProcessExecutor, tmp_path: Path) -> None:
    answer = limited.execute(request_for(hungry_bundle(tmp_path, price=16 * GIB), tmp_path), 120)
    assert (answer.outcome, answer.code) == ("failed", "out-of-memory")
    assert "(as configured; one window at a time)" in answer.reason
    small = limited.execute(request_for(tiny_bundle(tmp_path / "small"), tmp_path), 120)
    assert small.outcome == "findings"


def test_a_study_says_what_its_run_had_to_do(tmp_path: Path) -> None:
    hungry_bundle(tmp_path / "bundles", most=1)
    images = bright_series()
    config = settings(tmp_path, more=rule())
    with running(config) as node:
        send(node, images, tmp_path / "in")
        node.work()
        (run,) = node.story(uid_of(images)).runs
    assert (run.run.state, run.run.reason) == ("COMPLETED", "too little memory as configured: one window at a time")
    assert "one window at a time" in command(config, "study", "show", uid_of(images)).stdout


def test_a_model_has_a_deadline_of_its_own(limited: ProcessExecutor, tmp_path: Path) -> None:
    from models.bundle import load_bundle

    assert load_bundle(hungry_bundle(tmp_path, deadline=7.5)).dicom.run.deadline == 7.5


def test_the_rungs_of_a_device() -> None:
    windows = SlidingWindowInferer([4, 4, 4], sw_batch_size=4)
    cpu, cuda = torch.device("cpu"), torch.device("cuda:0")
    assert rungs(windows, cpu) == (Rung.AS_CONFIGURED, Rung.ONE_WINDOW)
    assert rungs(windows, cuda) == (Rung.AS_CONFIGURED, Rung.ONE_WINDOW, Rung.STITCHED, Rung.ON_CPU)
    assert rungs(SimpleInferer(), cpu) == (Rung.AS_CONFIGURED,)
    assert rungs(SimpleInferer(), cuda) == (Rung.AS_CONFIGURED, Rung.ON_CPU)
    configured = Configured.of(windows)
    assert configured is not None
    configured.apply(windows, Rung.STITCHED, cuda)
    assert (windows.sw_batch_size, windows.device, windows.sw_device) == (1, cpu, cuda)
    configured.apply(windows, Rung.AS_CONFIGURED, cuda)
    assert (windows.sw_batch_size, windows.device, windows.sw_device) == (4, None, None)
