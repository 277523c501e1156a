"""`peer probe` against real peers: Orthanc, which keeps, commits and answers queries, and storescp, which does nothing but store."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config import Config, load
from dicom_node.probe.objects import PATIENT_ID, probe_study
from dicom_node.results.files import part10
from dicom_node.results.forms import KINDS
from tests.dimse import until
from tests.node import command, peer, settings
from tests.peers.orthanc import Orthanc, free_ports
from tests.peers.tools import iod_errors, study_complaints


def config_for(folder: Path, port: int, title: str, own_port: int) -> Config:
    """A node that is not running, with one peer; the probe may listen on its port."""
    settings(folder, more=peer("target", port, title=title))
    file = folder / "node.toml"
    file.write_text(file.read_text().replace("port = 0", f"port = {own_port}", 1))
    return load(file)


def test_the_objects_of_a_probe_are_valid_consistent_and_never_the_same(tmp_path: Path) -> None:
    study, other = probe_study(1_763_848_800.0, "NODE"), probe_study(1_763_848_800.0, "NODE")
    assert set(study.objects) == {"IMAGE", *KINDS}
    paths = []
    for kind, objects in study.objects.items():
        assert objects
        for number, each in enumerate(objects):
            paths.append(tmp_path / f"{kind}{number}.dcm")
            paths[-1].write_bytes(part10(each))
            assert iod_errors(paths[-1]) == [], kind
    assert study_complaints(paths) == []
    uids = [{each.sop_instance_uid for objects in made.objects.values() for each in objects} for made in (study, other)]
    assert uids[0].isdisjoint(uids[1])


@pytest.mark.peer("Orthanc")
@pytest.mark.xdist_group("orthanc")
def test_orthanc_is_measured(tmp_path: Path) -> None:
    (own,) = free_ports(1)
    with Orthanc(tmp_path / "orthanc", modalities={}) as orthanc:
        orthanc.add_modality("node", "NODE", own, AllowStorageCommitment=True)
        config = config_for(tmp_path / "node", orthanc.dicom_port, "ORTHANC", own)
        done = command(config, "peer", "probe", "target", "--json")
        assert done.returncode == 0, done.stderr
        probed: dict[str, Any] = json.loads(done.stdout)
        (study,) = orthanc.studies()
        assert study["PatientMainDicomTags"]["PatientID"] == PATIENT_ID
        assert study["MainDicomTags"]["StudyInstanceUID"] == probed["study_uid"]
    kinds = {each["kind"]: each for each in probed["kinds"]}
    assert {kind for kind, each in kinds.items() if not each["taken"]} == {"LABELMAP"}  # Orthanc 1.10 does not know the class
    assert all(each["found"] and each["committed"] for each in kinds.values() if each["taken"])
    assert probed["commitment"]["offered"]
    assert {"rle", "jpeg_ls"} <= set(probed["syntaxes"])
    assert probed["recommended"] == ["SEG", "SR"]


@contextlib.contextmanager
def storescp(folder: Path) -> Iterator[int]:
    folder.mkdir()
    (port,) = free_ports(1)
    process = subprocess.Popen(["/usr/bin/storescp", "-aet", "STORESCP", "-od", str(folder), str(port)], stderr=subprocess.DEVNULL)
    try:
        until(lambda: subprocess.run(["/usr/bin/echoscu", "127.0.0.1", str(port)], capture_output=True, check=False).returncode == 0, 20.0)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.peer("storescp")
@pytest.mark.peer("echoscu")
def test_storescp_is_measured_and_its_profile_can_be_pasted(tmp_path: Path) -> None:
    (own,) = free_ports(1)
    with storescp(tmp_path / "received") as port:
        config = config_for(tmp_path / "node", port, "STORESCP", own)
        began = time.monotonic()
        done = command(config, "peer", "probe", "target")
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 60
        assert len(list((tmp_path / "received").iterdir())) == 11
    assert "#   LABELMAP: refused: the class is accepted in no transfer syntax" in done.stdout
    assert "#   query: cannot be asked" in done.stdout
    assert "NOT" not in done.stdout
    (profile,) = Config.model_validate(tomllib.loads(done.stdout)).peer
    assert (profile.name, profile.ae_title, profile.port) == ("target", "STORESCP", port)
    assert (profile.results, profile.suffices, profile.commitment) == (("SEG", "SR"), ("SR",), False)


def test_a_peer_that_is_not_there_is_said_and_not_measured(tmp_path: Path) -> None:
    (nobody,) = free_ports(1)
    done = command(config_for(tmp_path, nobody, "NOBODY", 0), "peer", "probe", "target")
    assert (done.returncode, done.stdout) == (1, "")
    assert "target cannot be probed: tcp:" in done.stderr
    assert command(config_for(tmp_path, nobody, "NOBODY", 0), "peer", "probe", "other").returncode == 2


def test_peers_are_listed_with_their_profiles(tmp_path: Path) -> None:
    more = 'results = ["SR", "SC"]\nmax_frames = 200\ntransfer_syntaxes = ["rle"]\ncommitment = true'
    config = settings(tmp_path, more=peer("ward", 104, more=more))
    plain = command(config, "peer", "list")
    assert plain.stdout == "ward\tPACS\t127.0.0.1:104\tSR SC\t200\trle\tyes\n"
    (listed,) = json.loads(command(config, "peer", "list", "--json").stdout)
    assert (listed["results"], listed["max_frames"]) == (["SR", "SC"], 200)
