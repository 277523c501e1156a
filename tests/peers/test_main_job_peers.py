"""The main job between real peers: DCMTK sends, Orthanc is the PACS; and a response that is lost on the way."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.imaging import as_file
from tests.node import bright_series, peer, rule, running, send, settings, uid_of
from tests.peers.orthanc import Orthanc
from tests.tiny_bundle import tiny_bundle

pytestmark = [pytest.mark.peer("Orthanc"), pytest.mark.xdist_group("orthanc")]

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with Orthanc(tmp_path / "orthanc") as running_orthanc:
        yield running_orthanc


def held(orthanc: Orthanc) -> list[str]:
    """SOP classes of what the PACS holds."""
    return sorted(str(orthanc.tags(each["ID"])["SOPClassUID"]) for each in orthanc.instances())


@pytest.mark.peer("dcmsend")
def test_dcmsend_in_orthanc_out(tmp_path: Path, orthanc: Orthanc) -> None:
    images = bright_series()
    folder = tmp_path / "files"
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number}.dcm").write_bytes(as_file(image).getvalue())
    tiny_bundle(tmp_path / "node" / "bundles")
    config = settings(tmp_path / "node", more=peer("pacs", orthanc.dicom_port, title="ORTHANC") + rule("pacs"))
    with running(config) as node:
        command = ["/usr/bin/dcmsend", "-aec", "NODE", "+sd", "127.0.0.1", str(node.port), str(folder)]
        sent = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert sent.returncode == 0, sent.stderr
        node.work()
        assert held(orthanc) == [SEG, SR]
        study = orthanc.studies()[0]["MainDicomTags"]["StudyInstanceUID"]
        assert study == uid_of(images)
        # Orthanc sends them back: nothing changes on either side.
        before = node.story(uid_of(images)).study
        orthanc.add_modality("node", "NODE", node.port)
        orthanc.store("node", [each["ID"] for each in orthanc.instances()])
        assert node.work() == 0
        after = node.story(uid_of(images)).study
        assert (after.revision, after.instances) == (before.revision, before.instances)


@contextlib.contextmanager
def losing_first_response(port: int) -> Iterator[int]:
    """A way to ``port`` that cuts the first connection instead of passing on what follows the association's acceptance."""
    listener = socket.create_server(("127.0.0.1", 0))
    lost = threading.Event()

    def forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def answers(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client.sendall(server.recv(65536))
            server.recv(65536)
            lost.set()
            client.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                back = forward if lost.is_set() else answers
                threading.Thread(target=forward, args=(client, server), daemon=True).start()
                threading.Thread(target=_then_close, args=(back, server, client), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
        assert lost.is_set(), "no response was lost"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _then_close(work: object, server: socket.socket, client: socket.socket) -> None:
    assert callable(work)
    work(server, client)
    server.close()
    client.close()


def test_a_lost_response_leaves_one_object_of_each_kind(tmp_path: Path, orthanc: Orthanc) -> None:
    images = bright_series()
    tiny_bundle(tmp_path / "node" / "bundles")
    with losing_first_response(orthanc.dicom_port) as port:
        config = settings(tmp_path / "node", more=peer("pacs", port, title="ORTHANC") + rule("pacs"))
        with running(config) as node:
            send(node, images, tmp_path / "files")
            node.work()
            assert [each.delivery.state for each in node.story(uid_of(images)).runs[0].deliveries] == ["DELIVERED"] * 2
            assert held(orthanc) == [SEG, SR]
            attempts = [each.job.attempts for each in node.story(uid_of(images)).jobs if each.job.kind == "deliver"]
            assert attempts == [2, 1], "the SR is not held up by what happened to the SEG"
