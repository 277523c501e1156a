"""Storage commitment with a peer that was taken out of the configuration: what waits for it ends with that reason, and can be revived."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import select

from dicom_node.config import Config
from storage.schema import commitment
from storage.timeline import DeliveryStory
from tests.commitment import Reports, ask, listening, pairs_of, provider, request_of, user
from tests.dimse import until
from tests.node import StepNode, bright_series, command, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle

OTHER = peer("other", 9, title="OTHER")


def transactions(node: StepNode) -> list[tuple[str, str | None]]:
    with node.node.database.read() as connection:
        return [(row.state, row.detail) for row in connection.execute(select(commitment.c.state, commitment.c.detail))]


def asked_for(config: Config, images: list[Dataset], files: Path, reports: Reports) -> int:
    """Let CLIENT ask for commitment and go; the job that nobody has carried out."""
    with running(config) as node:
        send(node, images, files)
        with user(node.port, reports) as association:
            assert ask(association, request_of(pairs_of(images))) == 0x0000
        until(lambda: node.server.associations == 0)
        (job,) = node.node.queue().list(kind="commit")
        return job.pk


@pytest.mark.parametrize("instead", ["", peer("client", 9, title="CLIENT", more="may_commit = false")], ids=["gone", "barred"])
def test_a_transaction_of_a_peer_that_went_ends_and_is_reported_once_it_is_back(tmp_path: Path, instead: str) -> None:
    images, reports, folder = bright_series(3), Reports(), tmp_path / "node"
    with listening(reports) as port:
        there = peer("client", port, title="CLIENT")
        job = asked_for(settings(folder, more=there), images, tmp_path / "sent", reports)

        with running(settings(folder, more=OTHER + instead)) as node:
            assert node.duties.end_unserved_commitments() == 1
            assert node.duties.end_unserved_commitments() == 0
            ((state, detail),) = transactions(node)
            assert state == "FAILED"
            assert detail is not None
            assert "no peer 'client' that may ask for storage commitment is configured any more" in detail
            assert f"dicom-node job retry {job}" in detail
            refused = command(node.node.config, "job", "retry", str(job))
            assert refused.returncode == 1
            assert "put its [[peer]] table with may_commit back" in refused.stderr

        with running(settings(folder, more=there)) as node:
            assert command(node.node.config, "job", "retry", str(job)).returncode == 0
            assert node.duties.end_unserved_commitments() == 0
            node.work()
            assert [state for state, _ in transactions(node)] == ["REPORTED"]
            assert reports.committed() == {image.SOPInstanceUID for image in images}


def test_a_transaction_whose_job_is_canceled_ends(tmp_path: Path) -> None:
    images, config = bright_series(2), settings(tmp_path / "node", more=peer("client", 9, title="CLIENT"))
    job = asked_for(config, images, tmp_path / "sent", Reports())
    with running(config) as node:
        assert command(config, "job", "cancel", str(job), "--reason", "not wanted").returncode == 0
        node.duties.reclaim_jobs()
        ((state, detail),) = transactions(node)
        assert state == "FAILED"
        assert detail is not None
        assert detail.startswith("not wanted")


def delivery_of(node: StepNode, images: list[Dataset]) -> DeliveryStory:
    (run,) = node.story(uid_of(images)).runs
    return next(each for each in run.deliveries if each.delivery.form == "SR")


def test_a_delivery_that_waits_for_the_commitment_of_a_peer_that_went_ends_and_asks_again_once_it_is_back(tmp_path: Path) -> None:
    images, folder = bright_series(), tmp_path / "node"
    tiny_bundle(folder / "bundles")
    with provider() as pacs:
        there = peer("pacs", pacs.port, more='commitment = true\nresults = ["SR"]') + rule("pacs")
        with running(settings(folder, more=there)) as node:
            send(node, images, tmp_path / "sent")
            node.work()
            before = delivery_of(node, images)
            assert {each.commitment for each in before.instances} == {"REQUESTED"}

        with running(settings(folder, more=OTHER + rule())) as node:
            assert node.duties.end_unserved_deliveries() == 1
            after = delivery_of(node, images)
            assert after.delivery.state == "FAILED"
            assert "peer 'pacs' is not configured any more" in (after.delivery.detail or "")

        with running(settings(folder, more=there)) as node:
            pacs.node_port = node.port
            assert command(node.node.config, "job", "retry", str(before.delivery.job_pk)).returncode == 0
            node.work()
            first, second = pacs.asked
            assert first.TransactionUID != second.TransactionUID
            assert len(pacs.stored) == 1
            assert pacs.answer(second) == 0x0000
            node.work()
            ended = delivery_of(node, images)
            assert ended.delivery.state == "DELIVERED"
            assert {each.commitment for each in ended.instances} == {"COMMITTED"}
