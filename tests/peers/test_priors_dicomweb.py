"""Earlier studies from Orthanc's DICOMweb plugin: found by QIDO-RS, brought by WADO-RS, used for comparison and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node.checks import check_all
from tests.node import StepNode, running, send_to, settings, uid_of
from tests.peers.orthanc import DICOMWEB_PLUGIN, Orthanc, free_ports
from tests.peers.test_priors import compared
from tests.priors import RULE, comparing_bundle, study

pytestmark = [
    pytest.mark.peer("Orthanc"),
    pytest.mark.skipif(not DICOMWEB_PLUGIN.exists(), reason="Orthanc's DICOMweb plugin is not installed (package orthanc-dicomweb)"),
]
PEER = """
[[peer]]
name = "archive"
ae_title = "ORTHANC"
priors = true
dicomweb = "http://127.0.0.1:{http}/dicom-web"
"""


@contextmanager
def beside_orthanc(folder: Path, *studies: list[Dataset], more: str = "") -> Iterator[tuple[StepNode, Orthanc]]:
    """A node that may ask an Orthanc over DICOMweb alone: Orthanc does not know it, and would send nothing by C-MOVE."""
    comparing_bundle(folder / "bundles", more=more)
    dicom, http = free_ports(2)
    with running(settings(folder, more=PEER.format(http=http) + RULE)) as opened:
        with Orthanc(folder / "orthanc", dicom_port=dicom, http_port=http, plugins=[DICOMWEB_PLUGIN]) as orthanc:
            for number, images in enumerate(studies):
                assert set(send_to(dicom, images, folder / f"old{number}", called="ORTHANC")) == {0}
            yield opened, orthanc


def test_the_newest_earlier_study_is_fetched_and_only_compared_with(tmp_path: Path) -> None:
    older, then, now = study("20180101", bright=False), study("20230101"), study("20250102", bright=False)
    with beside_orthanc(tmp_path, older, then) as (opened, orthanc):
        run, said = compared(opened, now, tmp_path)
        assert said == f"study {uid_of(then)}, fetched from archive"
        assert [each["voxels"] for each in run.findings["segments"]] == [0, 18]
        assert str(then[0].SOPInstanceUID) in {uid for uid, _ in run.input_set}
        opened.work()
        fetched = opened.story(uid_of(then))
        assert (fetched.study.state, fetched.study.instances) == ("COMPLETE", 6)
        assert not fetched.runs
        assert any("no rule is asked" in str(event.detail) for each in fetched.jobs for event in each.events)
        orthanc.stop()
        _, said = compared(opened, study("20250601", bright=False), tmp_path)
        assert said == f"study {uid_of(now)}, which is here"


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    other, huge = study("20240301", PatientBirthDate="19800101"), study("20240201", slices=9)
    with beside_orthanc(tmp_path, other, huge, more="max_instances = 8") as (opened, orthanc):
        run, said = compared(opened, study("20250102"), tmp_path)
        assert f"study {uid_of(other)} at archive is another patient's" in said
        assert f"study {uid_of(huge)} at archive has 9 images, at most 8 are taken" in said
        assert [each["voxels"] for each in run.findings["segments"]] == [18, 0]
        _, said = compared(opened, study("20250102", PatientID="P3"), tmp_path)
        assert said == "archive has no earlier study"
        orthanc.stop()
        _, said = compared(opened, study("20250103", PatientID="P2"), tmp_path)
        assert said == "archive: no connection: Connection refused"


def test_check_asks_the_archive(tmp_path: Path) -> None:
    with beside_orthanc(tmp_path) as (opened, orthanc):
        config = opened.node.config
        said = {each.subject: each for each in check_all(config)}["DICOMweb of archive"]
        assert (said.ok, said.detail.endswith("/dicom-web answered a search")) == (True, True), said.detail
        orthanc.stop()
        said = {each.subject: each for each in check_all(config)}["DICOMweb of archive"]
        assert (said.ok, said.detail) == (False, "no connection: Connection refused")
