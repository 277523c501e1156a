"""A node that is killed between its answer to a request for storage commitment and its report: the report comes all the same."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from dicom_node.config import load
from tests.commitment import Reports, ask, listening, pairs_of, request_of, user
from tests.e2e.test_serve import eventually, serving
from tests.node import bright_series, peer, send_to, settings
from tests.tiny_bundle import tiny_bundle

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("serve")]


def test_a_report_survives_the_death_of_the_whole_node(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    tiny_bundle(folder / "bundles")
    reports = Reports()
    with listening(reports) as port:
        settings(folder, more=peer("client", port, title="CLIENT") + '\n[commitment]\nreport_wait = "1s"\n')
        images = bright_series(4)
        with serving(folder, load(folder / "node.toml")) as node:
            assert send_to(node.port, images, tmp_path / "sent", called="NODE") == [0] * 4
            stopped = [part for part in (node.role("worker", "--io"),) if part is not None]
            for part in stopped:
                part.send_signal(signal.SIGSTOP)  # nobody judges or reports before the node is killed
            with user(node.port, reports) as association:
                assert ask(association, request_of(pairs_of(images))) == 0x0000
            children = [child.pid for child in _children(node.process.pid)]
            for pid in (node.process.pid, *children):
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: not any(_alive(pid) for pid in children))
        assert reports.got == []
        with serving(folder, load(folder / "node.toml")):
            eventually(lambda: reports.got)
            assert reports.committed() == {image.SOPInstanceUID for image in images}


def _children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(psutil.Process(pid).status()) != psutil.STATUS_ZOMBIE
    return False
