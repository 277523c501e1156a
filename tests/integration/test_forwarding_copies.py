"""Copies without identity among nodes: one that comes back triggers nothing, each peer has its own, and compressed originals go too."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread

import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from dicom_node.config_rules import Deidentify
from dicom_node.transcode import ChildrenBusy, Transcoder
from dicom_node.work.forward_copies import KEY_FILE, Copies, secret_of
from tests.node import StepNode, bright_series, command, peer, running, send, settings, uid_of


def stored(node: StepNode, uid: str) -> dict[str, str]:
    """Of a study: SOP Instance UID > Patient ID."""
    return {each.sop_uid: str(dcmread(each.file()).PatientID) for each in node.node.archive.instances(uid)}


def studies(node: StepNode) -> list[str]:
    listed = command(node.node.config, "study", "list", "--json")
    return [str(each["study_uid"]) for each in json.loads(listed.stdout)]


def test_a_copy_that_comes_back_triggers_nothing_more(tmp_path: Path) -> None:
    images = bright_series(PatientID="PID-7741963")
    uid = uid_of(images)
    for image in images[3:]:
        image.compress(RLELossless, generate_instance_uid=False)
    with running(settings(tmp_path / "other", title="OTHER")) as other:
        rules = '\n[[rule]]\nname = "research"\nforward = [{ to = ["other"], deidentify = true }]\n'
        rules += '[[rule]]\nname = "keep"\nforward = ["vault"]\n'
        more = peer("other", other.port, title="OTHER") + peer("vault", 9, title="VAULT") + rules
        with running(settings(tmp_path / "node", more=more)) as node:
            send(node, images, tmp_path / "files")
            node.work()
            (copy_uid,) = studies(other)
            copies = stored(other, copy_uid)
            assert copy_uid != uid
            assert len(copies) == len(images)
            assert set(copies.values()) != {"PID-7741963"}

            returned = [dcmread(each.file()) for each in other.node.archive.instances(copy_uid)]
            assert set(send(node, returned, tmp_path / "returned", calling="OTHER-GATEWAY")) == {0}
            node.complete()
            node.route.step()
            story = node.story(copy_uid)
            assert (story.deliveries, story.runs) == ((), ())
            (why,) = [str(each.detail["reason"]) for each in story.audit if each.event == "route.nothing_applies"]
            assert "refused: it has copies without identity that this node made" in why
            assert "refused: it has copies" in command(node.node.config, "rule", "test", copy_uid).stdout
            assert len(node.story(uid).deliveries) == 2


def test_what_comes_late_belongs_to_what_the_peer_has_and_two_peers_cannot_compare(tmp_path: Path) -> None:
    images = bright_series(PatientID="PID-7741963")
    with running(settings(tmp_path / "one", title="ONE")) as one, running(settings(tmp_path / "two", title="TWO")) as two:
        rule = '\n[[rule]]\nname = "research"\nforward = [{ to = ["one", "two"], deidentify = { keep = ["patient"] } }]\n'
        more = peer("one", one.port, title="ONE") + peer("two", two.port, title="TWO") + rule
        with running(settings(tmp_path / "node", more=more)) as node:
            send(node, images[:4], tmp_path / "files")
            node.work()
            send(node, images[4:], tmp_path / "late")
            node.work()
            found = {}
            for each in (one, two):
                (uid,) = studies(each)
                found[uid] = stored(each, uid)
                assert len(found[uid]) == len(images)
                assert len(set(found[uid].values())) == 1
            first, second = found.values()
            assert len(found) == 2
            assert not set(first) & set(second)
            assert set(first.values()) != set(second.values())


def test_a_busy_moment_is_no_refusal(tmp_path: Path) -> None:
    images = bright_series(1)
    images[0].compress(RLELossless, generate_instance_uid=False)
    with running(settings(tmp_path / "node", more=peer("other", 9))) as node:
        send(node, images, tmp_path / "files")
        (stored_one,) = node.node.archive.instances(uid_of(images))
        none_free = Transcoder(children=1, wait=0.01)
        none_free._pool._places.acquire()
        try:
            copies = Copies(node.node.config, node.node.config.peer_named("other"), Deidentify(), none_free)
            with pytest.raises(ChildrenBusy):
                copies.item(stored_one)
        finally:
            none_free._pool._places.release()
            none_free.close()


def test_whoever_asks_first_makes_the_one_secret(tmp_path: Path) -> None:
    got: list[bytes] = []
    threads = [Thread(target=lambda: got.append(secret_of.__wrapped__(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(got) == {(tmp_path / KEY_FILE).read_bytes().strip()}
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
