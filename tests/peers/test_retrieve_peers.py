"""DCMTK's and Orthanc's clients of C-GET and C-MOVE, and ours against Orthanc."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from benchmarks.receivers import free_port, listening
from dicom_node.cli.main import main
from storage.archive import Source
from tests.dimse import CT, EXPLICIT, until
from tests.integration.test_dimse_archive import data_set
from tests.node import StepNode, peer, running, settings
from tests.peers.orthanc import Orthanc
from tests.peers.test_dcmtk_store import write_instance

STUDY = "1.2.3"
CLIENTS = "".join(f'[[peer]]\nname = "{title.lower()}"\nae_title = "{title}"\n' for title in ("GETSCU", "MOVESCU"))


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "TCP_NODELAY": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def fill(node: StepNode, count: int) -> dict[str, bytes]:
    session = node.node.archive.session(Source(None, "TEST", "NODE", "127.0.0.1", "received"))
    stored = {}
    for number in range(count):
        uid = f"{STUDY}.{number + 1}"
        stored[uid] = data_set(uid, 20_000, STUDY, InstanceNumber=number, PatientID="P1")
        writer = session.begin(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT)
        writer.write([stored[uid]])
        assert writer.commit().outcome.name == "STORED"
    session.close()
    return stored


def pixels(folder: Path) -> dict[str, bytes]:
    read = [dcmread(path) for path in folder.iterdir() if path.is_file()]
    return {str(each.SOPInstanceUID): bytes(each.PixelData) for each in read}


def expected(stored: dict[str, bytes]) -> dict[str, bytes]:
    return {uid: data[-20_000:] for uid, data in stored.items()}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StepNode]:
    with running(settings(tmp_path / "node", more=CLIENTS)) as node:
        yield node


@pytest.mark.peer("getscu")
@pytest.mark.parametrize("root", ["-S", "-P"])
@pytest.mark.parametrize("bits", ["+B", None], ids=["bit preserving", "parsed"])
def test_getscu(root: str, bits: str | None, node: StepNode, tmp_path: Path) -> None:
    stored = fill(node, 12)
    out = tmp_path / "out"
    out.mkdir()
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}", "-k", "PatientID=P1"]
    if root == "-S":
        del keys[-2:]
    command = ["/usr/bin/getscu", root, *([bits] if bits else []), "-aec", "NODE", "-od", out, *keys, "127.0.0.1", str(node.port)]
    run(*command)
    assert pixels(out) == expected(stored)


@pytest.mark.peer("movescu")
@pytest.mark.peer("storescp")
def test_movescu_to_storescp(tmp_path: Path) -> None:
    out, port = tmp_path / "out", free_port()
    out.mkdir()
    receiver = subprocess.Popen(
        ["/usr/bin/storescp", "-aet", "STORESCP", "-od", str(out), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: listening(port))
        with running(settings(tmp_path / "node", more=CLIENTS + peer("storescp", port, title="STORESCP"))) as node:
            stored = fill(node, 12)
            keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
            said = run("/usr/bin/movescu", "-v", "-S", "-aec", "NODE", "-aem", "STORESCP", *keys, "127.0.0.1", str(node.port))
            assert "Success" in said
        assert pixels(out) == expected(stored)
    finally:
        receiver.terminate()
        receiver.wait(10)


@pytest.mark.peer("Orthanc")
def test_orthanc_moves_a_study_to_itself(tmp_path: Path) -> None:
    with Orthanc(tmp_path / "orthanc") as orthanc:
        more = peer("orthanc", orthanc.dicom_port, title="ORTHANC")
        with running(settings(tmp_path / "node", more=more)) as node:
            stored = fill(node, 12)
            orthanc.add_modality("node", "NODE", node.port)
            wanted = {"Level": "Study", "Resources": [{"StudyInstanceUID": STUDY}], "TargetAet": "ORTHANC", "Synchronous": True}
            orthanc.post("/modalities/node/move", wanted)
            assert orthanc.statistics()["CountInstances"] == len(stored)


@pytest.mark.peer("Orthanc")
def test_our_own_commands_against_orthanc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    always = {"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True}
    with Orthanc(tmp_path / "orthanc", settings=always) as orthanc:
        config = settings(tmp_path / "node", more=peer("orthanc", orthanc.dicom_port, title="ORTHANC"))
        files = [write_instance(tmp_path, number, 20_000) for number in range(5)]
        for path in files:
            orthanc.upload(path.read_bytes())
        at = ["--config", str(tmp_path / "node" / "node.toml")]
        out = tmp_path / "out"
        assert main(["get", "orthanc", "--study", STUDY, "--out", str(out), *at]) == 0
        assert "5 instances written" in capsys.readouterr().out
        assert pixels(out) == {str(dcmread(path).SOPInstanceUID): bytes(dcmread(path).PixelData) for path in files}
        with running(config) as node:
            orthanc.add_modality("node", "NODE", node.port)
            assert main(["move", "orthanc", "NODE", "--study", STUDY, *at]) == 0
            assert "5 instances sent to NODE, 0 failed (0000)" in capsys.readouterr().out
            assert len(node.node.archive.instances(STUDY)) == 5
            assert main(["move", "orthanc", "NOBODY", "--study", STUDY, *at]) == 1
