"""Earlier studies from Orthanc: asked for by C-FIND, sent to this node by C-MOVE, used for comparison and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from tests.node import StepNode, peer, running, send, send_to, settings, uid_of
from tests.peers.orthanc import Orthanc, free_ports
from tests.priors import RULE, comparing_bundle, study

pytestmark = pytest.mark.peer("Orthanc")


@contextmanager
def beside_orthanc(folder: Path, *studies: list[Dataset], more: str = "", knows_us: bool = True) -> Iterator[tuple[StepNode, Orthanc]]:
    """A node that may ask an Orthanc which holds some studies."""
    comparing_bundle(folder / "bundles", more=more)
    dicom, http = free_ports(2)
    config = settings(folder, more=peer("archive", dicom, title="ORTHANC", more="priors = true") + RULE)
    with running(config) as opened:
        modalities = {"NODE": ("NODE", "127.0.0.1", opened.port)} if knows_us else {}
        with Orthanc(folder / "orthanc", modalities=modalities, dicom_port=dicom, http_port=http) as orthanc:
            for number, images in enumerate(studies):
                assert set(send_to(dicom, images, folder / f"old{number}", called="ORTHANC")) == {0}
            yield opened, orthanc


def compared(opened: StepNode, images: list[Dataset], folder: Path) -> tuple[Any, str]:
    """The run of a study, and what is said about its prior."""
    send(opened, images, folder / "now")
    opened.work()
    story = opened.story(uid_of(images))
    (run,) = [each.run for each in story.runs]
    assert run.state == "COMPLETED", run.reason
    (said,) = [each.detail["reason"] for each in story.audit if each.event.startswith("prior.")]
    return run, said


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
        assert not any(each.event.startswith("route.") for each in fetched.audit)
        assert any("no rule is asked" in str(event.detail) for each in fetched.jobs for event in each.events)
        again = study("20250601", bright=False)  # the next comparison finds what is here, whether the peer is there or not
        orthanc.stop()
        _, said = compared(opened, again, tmp_path)
        assert said == f"study {uid_of(now)}, which is here"


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    other, huge = study("20240301", PatientBirthDate="19800101"), study("20240201", slices=9)
    with beside_orthanc(tmp_path, other, huge, more="max_instances = 8") as (opened, orthanc):
        run, said = compared(opened, study("20250102"), tmp_path)
        assert f"study {uid_of(other)} at archive is another patient's" in said
        assert "has 9 images, at most 8 are taken" in said
        assert [each["voxels"] for each in run.findings["segments"]] == [18, 0]
        orthanc.stop()
        _, said = compared(opened, study("20250103", PatientID="P2"), tmp_path)
        assert said.startswith("archive: ")


def test_a_peer_that_does_not_know_us_sends_nothing(tmp_path: Path) -> None:
    with beside_orthanc(tmp_path, study("20240101"), knows_us=False) as (opened, _):
        run, said = compared(opened, study("20250102"), tmp_path)
    assert said.startswith("archive")  # Orthanc aborts the association that asks for a destination that it does not know
    assert run.parameters["prior"] == said
