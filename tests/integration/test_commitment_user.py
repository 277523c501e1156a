"""Storage commitment asked by us: a delivery to a peer that commits is final when it has committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset

from storage.timeline import DeliveryStory
from tests.commitment import Provider, pairs_of, provider
from tests.dimse import until
from tests.node import StepNode, bright_series, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle


@pytest.fixture
def pacs() -> Iterator[Provider]:
    with provider() as running_pacs:
        yield running_pacs


def node_for(folder: Path, pacs: Provider, more: str = "") -> Iterator[StepNode]:
    tiny_bundle(folder / "bundles")
    profile = 'commitment = true\nresults = ["SEG"]\nmax_frames = 1'  # two objects of one form
    config = settings(folder, more=peer("pacs", pacs.port, more=profile) + rule("pacs") + more)
    with running(config) as node:
        pacs.node_port = node.port
        yield node


@pytest.fixture
def node(tmp_path: Path, pacs: Provider) -> Iterator[StepNode]:
    yield from node_for(tmp_path / "node", pacs)


@pytest.fixture
def images(node: StepNode, tmp_path: Path) -> list[Dataset]:
    made = bright_series()
    assert set(send(node, made, tmp_path / "sent")) == {0}
    return made


def sent(node: StepNode, images: list[Dataset]) -> DeliveryStory:
    (run,) = node.story(uid_of(images)).runs
    return next(each for each in run.deliveries if each.delivery.form == "SEG")


def commitments(node: StepNode, images: list[Dataset]) -> set[str | None]:
    return {each.commitment for each in sent(node, images).instances}


def test_a_delivery_is_final_when_the_peer_reports_on_its_own_association(node: StepNode, images: list[Dataset], pacs: Provider) -> None:
    node.work()
    before = sent(node, images)
    assert before.delivery.state == "SCHEDULED"
    assert {each.state for each in before.instances} == {"ACCEPTED"}
    assert commitments(node, images) == {"REQUESTED"}
    (asked,) = pacs.asked
    assert {item.ReferencedSOPInstanceUID for item in asked.ReferencedSOPSequence} == pacs.stored
    assert pacs.answer(asked) == 0x0000
    node.work()
    after = sent(node, images)
    assert after.delivery.state == "DELIVERED"
    assert after.delivery.detail == "2 objects answered, 2 committed"
    assert commitments(node, images) == {"COMMITTED"}
    assert pacs.answer(asked) == 0x0000  # told again: nothing new


def test_a_report_on_the_same_association_is_taken(node: StepNode, images: list[Dataset], pacs: Provider) -> None:
    pacs.same_association = True
    node.work()
    assert sent(node, images).delivery.state == "DELIVERED"
    assert len(pacs.asked) == 1


def test_what_is_not_committed_is_sent_again_with_its_reason_and_the_delivery_fails_at_last(
    tmp_path: Path, pacs: Provider
) -> None:
    pacs.same_association = True
    pacs.refuse = lambda uid: 0x0110
    for node in node_for(tmp_path / "node", pacs, "\n[commitment]\nresend = 2\n"):
        images = bright_series()
        send(node, images, tmp_path / "sent")
        node.work()
        story = sent(node, images)
        assert story.delivery.state == "FAILED"
        assert story.delivery.detail == "pacs did not commit 2 of 2 objects (0110)"
        assert [(each.failure_reason, each.commit_attempts, each.attempts) for each in story.instances] == [(0x0110, 2, 3)] * 2
        assert len(pacs.asked) == 3


def test_a_failure_that_passes_is_healed_by_sending_again(node: StepNode, images: list[Dataset], pacs: Provider) -> None:
    pacs.same_association = True
    lost: list[str] = []

    def forget_once(uid: str) -> int:
        if uid in lost or len(lost) == 1:
            return 0
        lost.append(uid)
        return 0x0112

    pacs.refuse = forget_once
    node.work()
    story = sent(node, images)
    assert story.delivery.state == "DELIVERED"
    assert sorted(each.commit_attempts for each in story.instances) == [0, 1]
    assert [len(each.ReferencedSOPSequence) for each in pacs.asked] == [2, 1]


def test_a_peer_that_does_not_report_is_asked_again_and_a_late_report_still_counts(tmp_path: Path, pacs: Provider) -> None:
    for node in node_for(tmp_path / "node", pacs, '\n[commitment]\ntimeout = "50ms"\n'):
        images = bright_series()
        send(node, images, tmp_path / "sent")

        def asked_twice(node: StepNode = node) -> bool:
            node.complete()
            for worker in (node.route, node.infer, *node.deliveries):
                worker.step()
            return len(pacs.asked) >= 2

        until(asked_twice, 30.0)
        first, second = pacs.asked[:2]
        assert first.TransactionUID != second.TransactionUID
        assert pacs.answer(first) == 0x0000
        node.work()
        assert sent(node, images).delivery.state == "DELIVERED"


def test_a_report_of_something_that_was_not_asked_is_refused(node: StepNode, images: list[Dataset], pacs: Provider) -> None:
    from tests.commitment import request_of

    node.work()
    pacs.stored.update(uid for _, uid in pairs_of(images))
    assert pacs.answer(request_of(pairs_of(images))) == 0x0115
    assert pacs.answer(pacs.asked[0], title="STRANGER") == 0x0124
    assert commitments(node, images) == {"REQUESTED"}


def test_a_peer_that_takes_no_commitment_leaves_the_delivery_open_with_the_reason(tmp_path: Path) -> None:
    with provider(commits=False) as pacs:
        for node in node_for(tmp_path / "node", pacs, ""):
            images = bright_series()
            send(node, images, tmp_path / "sent")
            node.complete()
            for _ in range(3):
                for worker in (node.route, node.infer, *node.deliveries):
                    worker.step()
            story = node.story(uid_of(images))
            (job,) = [each.job for each in story.jobs if each.job.payload.get("form") == "SEG"]
            assert job.state == "SCHEDULED"
            assert "no presentation context for 1.2.840.10008.1.20.1" in (job.error or "")
            assert sent(node, images).delivery.state == "SCHEDULED"
