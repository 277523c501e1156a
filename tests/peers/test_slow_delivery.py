"""Results for an Orthanc behind a line that passes one byte a second: given up with a clear reason, tried again, and nobody else waits."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dimse import until
from tests.integration.test_forwarding_slow import at_work
from tests.node import PLAIN, StepNode, bright_series, peer, rule, running, send, settings, uid_of
from tests.peers.orthanc import Orthanc, free_ports
from tests.peers.test_forwarding import storescp
from tests.tiny_bundle import tiny_bundle

pytestmark = [pytest.mark.peer("Orthanc"), pytest.mark.peer("storescp")]
QUICK = PLAIN.replace('response_timeout = "10s"', 'response_timeout = "1s"')

WHY = {
    # Orthanc itself gives up a PDU that comes so slowly, after about a second: whoever is first says so.
    "requests": {"slow, store: the peer went silent", "slow, store: association aborted by the peer (source 0, reason 0)"},
    "answers": {"slow, store: a PDU took too long to arrive"},
}


class Line:
    """A way to a port. Once an association is accepted, one direction passes a byte a second, until the line is mended."""

    def __init__(self, port: int, slow: str) -> None:
        self.calls = 0
        self.mended = threading.Event()
        self._to = port
        self._slow = slow
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._listener.settimeout(0.1)
        self._closed = threading.Event()
        self.port = int(self._listener.getsockname()[1])

    def accept(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                self.calls += 1
                server = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [client, server]
                accepted = threading.Event()
                for source, target, name in ((client, server, "requests"), (server, client, "answers")):
                    self._threads.append(threading.Thread(target=self._pass, args=(source, target, name, accepted)))
                    self._threads[-1].start()

    def _pass(self, source: socket.socket, target: socket.socket, name: str, accepted: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while not self._closed.is_set():
                if not select.select([source], [], [], 0.1)[0]:
                    continue
                slow = name == self._slow and accepted.is_set() and not self.mended.is_set()
                data = source.recv(1 if slow else 65536)
                if not data:
                    break
                if name == "answers":
                    accepted.set()
                target.sendall(data)
                if slow:
                    self.mended.wait(1.0)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._closed.set()
        self.mended.set()

    def close(self) -> None:
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()


@contextlib.contextmanager
def line_to(port: int, slow: str) -> Iterator[Line]:
    line = Line(port, slow)
    accepting = threading.Thread(target=line.accept)
    accepting.start()
    try:
        yield line
    finally:
        line.stop()
        accepting.join()
        line.close()


def states(node: StepNode, uid: str) -> dict[tuple[str, str], str]:
    (run,) = node.story(uid).runs
    return {(each.delivery.peer, each.delivery.form): each.delivery.state for each in run.deliveries}


def errors(node: StepNode, uid: str) -> dict[str, str]:
    waiting = [each.job for each in node.story(uid).jobs if each.job.queue == "deliver:slow" and each.job.error]
    return {str(job.payload["form"]): job.error or "" for job in waiting}


@pytest.mark.parametrize("slow", ["requests", "answers"])
def test_a_slow_line_ends_by_its_timeout_is_tried_again_and_holds_up_nobody(tmp_path: Path, slow: str) -> None:
    images, (beside,) = bright_series(), free_ports(1)
    uid = uid_of(images)
    tiny_bundle(tmp_path / "node" / "bundles")
    with Orthanc(tmp_path / "orthanc") as orthanc, storescp(beside, tmp_path / "good"), line_to(orthanc.dicom_port, slow) as line:
        peers = peer("slow", line.port, title="ORTHANC") + peer("good", beside, title="STORESCP")
        with running(settings(tmp_path / "node", plain=QUICK, more=peers + rule("slow", "good"))) as node:
            send(node, images, tmp_path / "files")
            node.complete()
            node.route.step()
            node.infer.step()
            with at_work(node):
                until(lambda: states(node, uid)["good", "SR"] == states(node, uid)["good", "SEG"] == "DELIVERED", 5)
                assert states(node, uid)["slow", "SEG"] == states(node, uid)["slow", "SR"] == "SCHEDULED"
                until(lambda: line.calls >= 3 and len(errors(node, uid)) == 2, 60)
                assert set(errors(node, uid).values()) <= WHY[slow]
                assert states(node, uid)["slow", "SEG"] == "SCHEDULED"
                line.mended.set()
                until(lambda: set(states(node, uid).values()) == {"DELIVERED"}, 60)
        assert len(list((tmp_path / "good").iterdir())) == 2
        kinds = sorted(str(orthanc.tags(each["ID"])["Modality"]) for each in orthanc.instances())
        assert kinds == ["SEG", "SR"], "what was sent twice is there once"
