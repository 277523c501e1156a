"""DCMTK's senders with their default settings (Nagle on), and Orthanc as the receiver of ours."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import BinaryIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import generate_uid

from dicom_node.dimse.contexts import VERIFICATION
from dicom_node.dimse.scu import StoreItem, associate
from dicom_node.dimse.testing import DiscardingSession
from tests.dimse import CT, EXPLICIT, IMPLICIT, receiver
from tests.peers.orthanc import Orthanc

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("TCP_NODELAY", "TCP_BUFFER_LENGTH")}
SIZES = {"ct": 526_000, "small": 10_000}
LEAST_PER_SECOND = 300
COUNT = 300


def write_instance(folder: Path, number: int, size: int, study: str = "1.2.3") -> Path:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.InstanceNumber = study, study + ".1", number
    ds.PatientID, ds.PatientName, ds.Modality = "P", "Test^Case", "CT"
    ds.add_new(0x7FE00010, "OW", bytes([number % 251]) * size)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = EXPLICIT
    path = folder / f"{number}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.peer("echoscu")
def test_echoscu() -> None:
    with receiver() as node:
        done = run("/usr/bin/echoscu", "-v", "-aec", "NODE", "127.0.0.1", str(node.port))
        assert done.returncode == 0, done.stderr
        assert run("/usr/bin/echoscu", "-aec", "OTHER", "127.0.0.1", str(node.port)).returncode != 0


@pytest.mark.peer("storescu")
def test_storescu_with_every_storage_context_and_several_syntaxes(tmp_path: Path) -> None:
    path = write_instance(tmp_path, 1, 300_000)
    with receiver() as node:
        for option in ("-R", "-xe", "-xi", "-xb"):
            done = run("/usr/bin/storescu", option, "-aec", "NODE", "127.0.0.1", str(node.port), path)
            assert done.returncode == 0, (option, done.stderr)
            assert len(node.archive.instances) == 1
            node.archive.instances.clear()  # another syntax has other bytes, which only the real archive can tell from other content


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("tool", [pytest.param(t, marks=pytest.mark.peer(t)) for t in ("dcmsend", "storescu")])
def test_nagle_senders_are_not_held_up(tool: str, kind: str, tmp_path: Path) -> None:
    """Without QUICKACK on our side each of these instances waits for a delayed ACK, 44 ms."""
    for number in range(COUNT):
        write_instance(tmp_path, number, SIZES[kind])
    command = [f"/usr/bin/{tool}", "-aec", "NODE", "+sd", "127.0.0.1"]
    if tool == "dcmsend":
        command[1:1] = ["-nh"]
    with receiver(open_session=DiscardingSession) as node:
        best = 0.0
        for _ in range(5):
            before = time.perf_counter()
            done = run(*command, str(node.port), tmp_path)
            best = max(best, COUNT / (time.perf_counter() - before))
            assert done.returncode == 0, done.stderr
            if best >= LEAST_PER_SECOND:
                break
    print(f"{tool} {kind}: {best:.0f} instances/s, the program's start included")
    assert best >= LEAST_PER_SECOND


@pytest.mark.peer("Orthanc")
def test_orthanc_keeps_what_we_send_and_sends_it_back(tmp_path: Path) -> None:
    paths = [write_instance(tmp_path, number, 200_000) for number in range(5)]
    items = [part10_item(path) for path in paths]
    with Orthanc(tmp_path / "orthanc") as orthanc, receiver() as node:
        contexts = [(CT, [EXPLICIT]), (VERIFICATION, [IMPLICIT])]
        with associate(orthanc.host, orthanc.dicom_port, calling_ae="NODE", called_ae="ORTHANC", contexts=contexts) as association:
            assert association.echo() == 0
            assert [result.status for result in association.store_many(items)] == [0] * 5
            assert association.store(items[0]).status == 0
        assert orthanc.statistics()["CountInstances"] == 5
        orthanc.add_modality("node", "NODE", node.port)
        assert orthanc.echo("node")
        (study,) = orthanc.studies()
        orthanc.store("node", study["ID"])
        assert {uid: stored.data for uid, stored in node.archive.instances.items()} == {
            item.sop_instance_uid: data_set(path) for item, path in zip(items, paths, strict=True)
        }


def data_set(path: Path) -> bytes:
    raw = path.read_bytes()
    return raw[meta_length(raw) :]


def meta_length(raw: bytes) -> int:
    return 132 + 12 + int.from_bytes(raw[140:144], "little")


def part10_item(path: Path) -> StoreItem:
    def opened() -> BinaryIO:
        file = path.open("rb")
        file.seek(start)
        return file

    raw = path.read_bytes()
    start = meta_length(raw)
    uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    return StoreItem(CT, uid, EXPLICIT, len(raw) - start, opened)
