"""Originals that a rule sends on without identity, to a real peer: nothing of the person arrives, and what arrives stays the same."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from dicom_node.datasets.deidentify import traces
from dicom_node.work.forward_copies import KEY_FILE
from storage import deliveries
from tests.node import StepNode, bright_series, command, peer, running, send, settings, uid_of
from tests.peers.orthanc import Orthanc

pytestmark = pytest.mark.peer("Orthanc")

RULE = '\n[[rule]]\nname = "research"\nforward = [{ to = ["orthanc"], deidentify = true }]\n'
IDENTITY: dict[str, Any] = {
    "PatientName": "Ximenez^Quentin",
    "PatientID": "PID-7741963",
    "AccessionNumber": "ACC-5527183",
    "StudyID": "SID-90017",
    "InstitutionName": "Saint Elsewhere",
    "ReferringPhysicianName": "Zebulon^Otto",
    "StudyDescription": "Brain of Ximenez",
}


def identified() -> list[Dataset]:
    images = bright_series(**IDENTITY)
    for image in images:
        block = image.private_block(0x0009, "VENDOR OF SCANNERS", create=True)
        block.add_new(1, "LO", "Ximenez, private")
    return images


def again(node: StepNode, uid: str) -> None:
    """Have the node send all of a study's delivery once more, as after a crash before the answers were kept."""
    (story,) = node.story(uid).deliveries
    with node.node.database.begin() as connection:
        rows = deliveries.instances_of(connection, story.delivery.pk)
        with_them = [row.sop_uid for row in rows]
        payload = next(each.job.payload for each in node.story(uid).jobs if each.job.kind == "deliver")
        more = {key: value for key, value in payload.items() if key != "delivery_pk"}
        queue = node.node.queue()
        deliveries.create_delivery(connection, None, uid, "orthanc", with_them, queue, max_attempts=3, more=more)
    node.work()


def test_nothing_of_the_person_arrives_and_what_is_sent_twice_is_one(tmp_path: Path) -> None:
    images = identified()
    uid = uid_of(images)
    words = {text for image in images for _, text in traces(image)} | set(IDENTITY.values()) | {"Ximenez", "VENDOR OF SCANNERS"}
    with Orthanc(tmp_path / "orthanc", ae_title="ORTHANC") as orthanc:
        more = peer("orthanc", orthanc.dicom_port, title="ORTHANC", more="commitment = true") + RULE
        with running(settings(tmp_path / "node", more=more)) as node:
            send(node, images, tmp_path / "files")
            node.work()
            before = {each["ID"]: orthanc.instance_bytes(each["ID"]) for each in orthanc.instances()}
            assert len(before) == len(images)
            for raw in before.values():
                assert not [word for word in words if word.encode() in raw]
            copies = [dcmread(BytesIO(raw)) for raw in before.values()]
            assert {(each.PatientIdentityRemoved, each.DeidentificationMethodCodeSequence[0].CodeValue) for each in copies} == {
                ("YES", "113100")
            }
            assert len({each.PatientID for each in copies}) == len({each.StudyInstanceUID for each in copies}) == 1
            assert not [element for each in copies for element in each if element.tag.is_private]
            assert {int(each.InstanceNumber): each.PixelData for each in copies} == {
                int(each.InstanceNumber): each.PixelData for each in images
            }

            again(node, uid)
            assert {each["ID"]: orthanc.instance_bytes(each["ID"]) for each in orthanc.instances()} == before
            assert [each.delivery.state for each in node.story(uid).deliveries] == ["DELIVERED"] * 2
            told = command(node.node.config, "study", "show", uid).stdout
            assert "6 objects answered, de-identified" in told
            assert "rule research to orthanc: 6 instances of 1 series without identity" in told
            assert (node.node.config.node.data_dir / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_what_may_have_text_in_its_pixels_does_not_go_unless_the_rule_says_so(tmp_path: Path) -> None:
    images = identified()
    images[0].BurnedInAnnotation = "YES"
    images[1].Modality = "OT"
    with Orthanc(tmp_path / "orthanc", ae_title="ORTHANC") as orthanc:
        there = peer("orthanc", orthanc.dicom_port, title="ORTHANC")
        with running(settings(tmp_path / "node", more=there + RULE)) as node:
            send(node, images, tmp_path / "files")
            node.work()
            (story,) = node.story(uid_of(images)).deliveries
            refused = {each.sop_uid: each.comment for each in story.instances if each.state == "REFUSED"}
            assert story.delivery.state == "FAILED"
            assert set(refused) == {str(image.SOPInstanceUID) for image in images[:2]}
            assert all(why is not None and "burned into its pixels" in why for why in refused.values())
            assert orthanc.statistics()["CountInstances"] == 4
        allowed = RULE.replace("true", '{ burned_in = "send" }')
        with running(settings(tmp_path / "other", more=there + allowed)) as node:
            send(node, images, tmp_path / "others")
            node.work()
            assert [each.delivery.state for each in node.story(uid_of(images)).deliveries] == ["DELIVERED"]
            assert orthanc.statistics()["CountInstances"] == 4 + 6, "another node has another key"
