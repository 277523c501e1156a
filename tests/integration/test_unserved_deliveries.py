"""Results for a peer that was taken out of the configuration: they end with that reason, and go out once it is back."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.config import Config
from tests.node import StepNode, bright_series, command, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle


def configured(folder: Path, *, peers: str) -> Config:
    if not (folder / "bundles").exists():
        tiny_bundle(folder / "bundles")
    return settings(folder, more=peers)


def delivery_states(node: StepNode, study_uid: str) -> list[tuple[str, str, str | None]]:
    return [(each.delivery.peer, each.delivery.state, each.delivery.detail) for each in node.story(study_uid).runs[0].deliveries]


@pytest.mark.parametrize("run_before", [True, False], ids=["waits in its queue", "made after the peer went"])
def test_a_delivery_to_a_peer_that_went_ends_and_is_retried_once_it_is_back(tmp_path: Path, run_before: bool) -> None:
    images = bright_series()
    folder = tmp_path / "node"
    with running(settings(tmp_path / "pacs", title="PACS")) as pacs:
        there = peer("pacs", pacs.port) + rule("pacs")
        with running(configured(folder, peers=there)) as node:
            send(node, images, tmp_path / "files")
            node.complete()
            node.route.step()
            if run_before:
                node.infer.step()

        with running(configured(folder, peers=peer("other", 9) + rule())) as node:
            if not run_before:
                node.infer.step()
            other, waiting = node.node.queue().list(kind="deliver")
            assert (waiting.state, other.state) == ("SCHEDULED", "SCHEDULED")
            assert node.duties.end_unserved_deliveries() == 2
            assert node.duties.end_unserved_deliveries() == 0
            (name, state, detail), also = delivery_states(node, uid_of(images))
            assert (name, state) == also[:2] == ("pacs", "FAILED")
            assert detail is not None
            assert "peer 'pacs' is not configured any more; put its [[peer]] table with host and port back" in detail
            assert f"dicom-node job retry {waiting.pk}" in detail
            refused = command(node.node.config, "job", "retry", str(waiting.pk))
            assert refused.returncode == 1
            assert "not configured any more" in refused.stderr

        with running(configured(folder, peers=there)) as node:
            for job in (waiting, other):
                assert command(node.node.config, "job", "retry", str(job.pk)).returncode == 0
            assert node.duties.end_unserved_deliveries() == 0
            node.work()
            assert delivery_states(node, uid_of(images)) == [("pacs", "DELIVERED", "1 object answered")] * 2


def test_one_that_waits_for_its_backoff_ends_too_and_others_wait_on(tmp_path: Path) -> None:
    images = bright_series()
    folder = tmp_path / "node"
    with running(configured(folder, peers=peer("gone", 9) + peer("stays", 9) + rule("gone", "stays"))) as node:
        send(node, images, tmp_path / "files")
        node.complete()
        node.route.step()
        node.infer.step()
        assert sum(worker.step() for worker in node.deliveries) == 2  # one form each
    with running(configured(folder, peers=peer("stays", 9) + rule("stays"))) as node:
        assert node.duties.end_unserved_deliveries() == 2
        states = {name: state for name, state, _ in delivery_states(node, uid_of(images))}
        assert states == {"gone": "FAILED", "stays": "SCHEDULED"}
