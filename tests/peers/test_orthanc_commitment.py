"""Storage commitment with a real Orthanc, as user and as provider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dimse import until
from tests.node import StepNode, bright_series, peer, rule, running, send, settings, uid_of
from tests.peers.orthanc import Orthanc
from tests.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.peer("Orthanc")


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with Orthanc(tmp_path / "orthanc", ae_title="PACS") as started:
        yield started


@pytest.fixture
def node(tmp_path: Path, orthanc: Orthanc) -> Iterator[StepNode]:
    folder = tmp_path / "node"
    tiny_bundle(folder / "bundles")
    quick = '\n[commitment]\nreport_wait = "100ms"\n'
    config = settings(folder, more=peer("pacs", orthanc.dicom_port, more="commitment = true") + rule("pacs") + quick)
    with running(config) as started:
        orthanc.add_modality("node", "NODE", started.port, AllowStorageCommitment=True)
        yield started


def step(node: StepNode) -> None:
    for worker in (node.route, node.infer, *node.deliveries):
        worker.step()


def test_orthanc_asks_and_is_told_what_is_kept(node: StepNode, orthanc: Orthanc, tmp_path: Path) -> None:
    images = bright_series(4)
    send(node, images, tmp_path / "sent")
    pairs = [{"SOPClassUID": str(image.SOPClassUID), "SOPInstanceUID": str(image.SOPInstanceUID)} for image in images]
    unknown = {"SOPClassUID": pairs[0]["SOPClassUID"], "SOPInstanceUID": "1.2.3.4.5"}
    transaction = orthanc.post("/modalities/node/storage-commitment", {"DicomInstances": [*pairs, unknown]})["ID"]

    def told() -> Any:
        step(node)
        return orthanc.get(f"/storage-commitment/{transaction}")["Status"] != "Pending"

    until(told, 30.0)
    report = orthanc.get(f"/storage-commitment/{transaction}")
    assert report["Status"] == "Failure"
    assert {each["SOPInstanceUID"] for each in report["Success"]} == {each["SOPInstanceUID"] for each in pairs}
    (failure,) = report["Failures"]
    assert (failure["SOPInstanceUID"], failure["FailureReason"]) == ("1.2.3.4.5", 0x0112)


def test_a_delivery_is_final_when_orthanc_has_committed_it(node: StepNode, orthanc: Orthanc, tmp_path: Path) -> None:
    images = bright_series()
    send(node, images, tmp_path / "sent")

    def delivered() -> bool:
        node.complete()
        step(node)
        runs = node.story(uid_of(images)).runs
        return bool(runs and runs[0].deliveries) and {each.delivery.state for each in runs[0].deliveries} == {"DELIVERED"}

    until(delivered, 30.0)
    for story in node.story(uid_of(images)).runs[0].deliveries:
        assert {each.commitment for each in story.instances} == {"COMMITTED"}
        assert [each.state for each in story.commitments] == ["COMMITTED"]
    assert orthanc.statistics()["CountInstances"] == 2
