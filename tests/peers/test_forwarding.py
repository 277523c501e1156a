"""Originals routed to real peers at once: one takes them, the others are down, refuse, abort halfway or are full. None holds up another."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.receivers import listening
from dicom_node.config import parse
from tests.dimse import until
from tests.node import StepNode, bright_series, peer, running, send, settings, uid_of
from tests.peers.orthanc import Orthanc, free_ports

pytestmark = [pytest.mark.peer("Orthanc"), pytest.mark.peer("storescp")]

PEERS = ("orthanc", "down", "refusing", "aborting", "full")


@contextlib.contextmanager
def storescp(port: int, out: Path, *options: str) -> Iterator[None]:
    """DCMTK's storescp, as it misbehaves with some options."""
    out.mkdir(exist_ok=True)
    called = ["/usr/bin/storescp", *options, "-aet", "STORESCP", "-od", str(out), str(port)]
    process = subprocess.Popen(called, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: listening(port))
        yield
    finally:
        process.terminate()
        process.wait(10)


def deliver(node: StepNode) -> None:
    for worker in node.deliveries:
        worker.step()


def states(node: StepNode, uid: str) -> dict[str, str]:
    return {each.delivery.peer: each.delivery.state for each in node.story(uid).deliveries}


def errors(node: StepNode, uid: str) -> dict[str, str]:
    jobs = {each.job.queue.partition(":")[2]: each.job.error or "" for each in node.story(uid).jobs if each.job.kind == "deliver"}
    return {name: error for name, error in jobs.items() if error}


def test_four_peers_in_trouble_hold_up_nobody_and_get_it_later(tmp_path: Path) -> None:
    images = bright_series()
    uid = uid_of(images)
    down, refusing, aborting = free_ports(3)
    without_space = settings(tmp_path / "full", title="FULL")
    text = (tmp_path / "full" / "node.toml").read_text().replace("min_free = 0", 'min_free = "100000TB"')
    with contextlib.ExitStack() as stack:
        orthanc = stack.enter_context(Orthanc(tmp_path / "orthanc", ae_title="ORTHANC"))
        full = stack.enter_context(running(parse(text, where=without_space.node.data_dir.parent / "node.toml")))
        stack.enter_context(storescp(refusing, tmp_path / "refusing", "--refuse"))
        aborts = stack.enter_context(contextlib.ExitStack())
        aborts.enter_context(storescp(aborting, tmp_path / "aborting", "--abort-during"))
        ports = dict(zip(PEERS, (orthanc.dicom_port, down, refusing, aborting, full.port), strict=True))
        more = "".join(peer(name, port, title=name.upper()) for name, port in ports.items())
        more += f'[[rule]]\nname = "keep"\nforward = {list(PEERS)}\n'
        with running(settings(tmp_path / "node", more=more)) as node:
            send(node, images, tmp_path / "files")
            node.complete()
            node.route.step()
            deliver(node)
            assert states(node, uid) == {name: "DELIVERED" if name == "orthanc" else "SCHEDULED" for name in PEERS}
            assert orthanc.statistics()["CountInstances"] == len(images)
            told = errors(node, uid)
            assert set(told) == set(PEERS) - {"orthanc"}
            assert told["down"].startswith("down, tcp: ")
            assert told["refusing"].startswith("refusing, association: ")
            assert told["full"] == "full has not taken 6 of 6 objects yet: A700"

            aborts.close()
            stack.enter_context(storescp(aborting, tmp_path / "aborting"))
            stack.enter_context(storescp(down, tmp_path / "down"))
            deliver(node)
            assert {name: states(node, uid)[name] for name in ("aborting", "down")} == {"aborting": "DELIVERED", "down": "DELIVERED"}
            for name in ("aborting", "down"):
                assert len(list((tmp_path / name).iterdir())) == len(images)
            assert states(node, uid)["refusing"] == states(node, uid)["full"] == "SCHEDULED"
            assert orthanc.statistics()["CountInstances"] == len(images)
