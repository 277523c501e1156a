"""Originals of which a peer does not take all, or of which one is damaged here: the others go, and what did not is told."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import evt

from dicom_node.config import load
from storage.jobs import JobQueue
from tests.mr_peer import mr_peer
from tests.node import bright_series, peer, running, send, settings, uid_of

KEEP = '\n[[rule]]\nname = "keep"\nforward = ["pacs"]\n'


def only_mr(received: list[str]) -> contextlib.AbstractContextManager[int]:
    """A peer that keeps the SOP Instance UIDs of what it takes."""

    def store(event: evt.Event) -> int:
        received.append(str(event.dataset.SOPInstanceUID))
        return 0x0000

    return mr_peer(store)


def test_what_a_peer_refuses_for_good_is_told_though_it_took_the_rest(tmp_path: Path) -> None:
    images = bright_series(12)
    for image in images[:4]:
        image.SOPClassUID = CTImageStorage
    received: list[str] = []
    with only_mr(received) as port, running(settings(tmp_path / "node", more=peer("pacs", port) + KEEP)) as node:
        send(node, images, tmp_path / "files")
        node.work()
        (sent,) = node.story(uid_of(images)).deliveries
        assert sorted(received) == sorted(str(image.SOPInstanceUID) for image in images[4:])
        assert sent.delivery.state == "FAILED"
        assert sent.delivery.detail is not None
        assert sent.delivery.detail.endswith("; 4 of 12 objects refused")


def test_what_a_peer_says_of_a_patient_stays_in_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = bright_series(3)

    def refuse(event: evt.Event) -> Dataset:
        answer = Dataset()
        answer.Status, answer.ErrorComment = 0xC123, "no order for JANE DOE"
        return answer

    with mr_peer(refuse) as port, running(settings(tmp_path / "node", more=peer("pacs", port) + KEEP)) as node:
        send(node, images, tmp_path / "files")
        node.work()
        story = node.story(uid_of(images))
        (sent,) = story.deliveries
        assert [each.comment for each in sent.instances] == ["no order for JANE DOE"] * 3
        assert (sent.delivery.state, "C123" in str(sent.delivery.detail)) == ("FAILED", True)
        jobs = JobQueue(node.node.database)
        elsewhere = [sent.delivery.detail, story.audit, [(each, jobs.events(each.pk)) for each in jobs.list()], capsys.readouterr()]
        assert "DOE" not in str(elsewhere)


def test_an_original_that_is_damaged_here_holds_up_no_other(tmp_path: Path) -> None:
    images = bright_series(12)
    received: list[str] = []
    limits = '[delivery]\nbackoff = 0\nattempts = 3\nconnect_timeout = "5s"\nresponse_timeout = "10s"\n'
    with only_mr(received) as port:
        settings(tmp_path / "node", more=peer("pacs", port) + KEEP)
        file = tmp_path / "node" / "node.toml"
        before, _, after = file.read_text().partition("[delivery]")
        file.write_text(before + limits + after.partition("[jobs]")[1] + after.partition("[jobs]")[2])
        with running(load(file)) as node:
            send(node, images, tmp_path / "files")
            node.complete()
            bad = min(node.node.archive.instances(uid_of(images)), key=lambda stored: stored.sop_uid)  # the first that is sent
            with open(bad.path, "r+b") as segment:
                segment.seek(bad.offset + bad.length - 8)
                segment.write(b"\xff" * 8)
            node.work()
            (sent,) = node.story(uid_of(images)).deliveries
            assert sorted(received) == sorted(str(image.SOPInstanceUID) for image in images if image.SOPInstanceUID != bad.sop_uid)
            assert sent.delivery.state in ("SCHEDULED", "FAILED")
            left = {each.sop_uid: (each.state, each.comment) for each in sent.instances if each.state != "ACCEPTED"}
            assert left == {bad.sop_uid: ("SCHEDULED", "its bytes are not those that were archived")}
            node.duties.reclaim_jobs()
            assert node.story(uid_of(images)).deliveries[0].delivery.state == "FAILED"
