"""Runs a second time: not by themselves, also not after their results were deleted; by a person's word in one step."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread

from tests.node import StepNode, bright_series, command, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"


def results(node: StepNode, study_uid: str) -> list[str]:
    return sorted(s.sop_class_uid for s in node.node.archive.instances(study_uid) if s.sop_class_uid in (SEG, SR))


def test_a_study_deleted_and_sent_again_says_why_nothing_runs_and_is_rerun_in_one_step(tmp_path: Path) -> None:
    images = bright_series()
    uid = uid_of(images)
    folder = tmp_path / "node"
    tiny_bundle(folder / "bundles")
    with running(settings(tmp_path / "pacs", title="PACS")) as pacs:
        with running(settings(folder, more=peer("pacs", pacs.port) + rule("pacs"))) as node:
            config = node.node.config
            send(node, images, tmp_path / "files")
            node.work()
            assert results(pacs, uid) == [SEG, SR]
            node.node.archive.delete_study(uid, who="somebody", reason="a test")
            send(node, images, tmp_path / "files")
            node.work()
            assert results(node, uid) == []
            told = command(config, "study", "show", uid).stdout
            assert "the same input ran before as run 1 (COMPLETED), and its results were deleted" in told
            assert f"dicom-node study rerun {uid} --rule bright" in told

            refused = command(config, "study", "rerun", uid, "--rule", "dark", "--reason", "why not")
            assert refused.returncode == 2
            assert "there is no rule 'dark'; configured: bright" in refused.stderr
            done = command(config, "study", "rerun", uid, "--rule", "bright", "--reason", "deleted by mistake")
            assert done.returncode == 0, done.stderr
            node.work()
            first, second = (each.run for each in node.story(uid).runs)
            assert (second.state, second.predecessor_pk) == ("COMPLETED", first.pk)
            assert second.run_key != first.run_key
            assert results(node, uid) == [SEG, SR]
            assert results(pacs, uid) == [SEG, SEG, SR, SR], "new objects under new UIDs"
            told = command(config, "study", "show", uid).stdout
            assert f"run {second.pk} of model tiny: asked for by" in told
            assert "deleted by mistake" in told
            assert f"superseded by run {second.pk}" in told
            assert node.work() == 0


def test_a_rerun_names_the_report_that_it_replaces(tmp_path: Path) -> None:
    images = bright_series()
    folder = tmp_path / "node"
    tiny_bundle(folder / "bundles")
    with running(settings(folder, more=rule())) as node:
        send(node, images, tmp_path / "files")
        unknown = command(node.node.config, "study", "rerun", "1.2.3", "--reason", "x")
        assert (unknown.returncode, "no study" in unknown.stderr) == (1, True)
        early = command(node.node.config, "study", "rerun", uid_of(images), "--reason", "x")
        assert (early.returncode, "not complete yet" in early.stderr) == (1, True)
        node.work()
        assert command(node.node.config, "study", "rerun", uid_of(images), "--reason", "the PACS lost it").returncode == 0
        node.work()
        reports = [dcmread(s.file()) for s in node.node.archive.instances(uid_of(images)) if s.sop_class_uid == SR]
        replaced = [each.PredecessorDocumentsSequence for each in reports if "PredecessorDocumentsSequence" in each]
        assert len(reports) == 2
        assert len(replaced) == 1
        referenced = replaced[0][0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        assert referenced in {each.SOPInstanceUID for each in reports}


def test_a_run_that_waits_for_its_next_attempt_says_so_and_why(tmp_path: Path) -> None:
    images = bright_series()
    folder = tmp_path / "node"
    tiny_bundle(folder / "bundles", fault="raise")
    with running(settings(folder, more=rule())) as node:
        send(node, images, tmp_path / "files")
        node.complete()
        node.route.step()
        assert node.infer.step()
        waiting = node.story(uid_of(images)).runs[0].run
        assert waiting.state == "SCHEDULED"
        assert waiting.reason
        assert waiting.reason == next(each.job.error for each in node.story(uid_of(images)).jobs if each.job.kind == "infer")


def test_a_run_whose_worker_died_waits_too(tmp_path: Path) -> None:
    images = bright_series()
    folder = tmp_path / "node"
    tiny_bundle(folder / "bundles")
    with running(settings(folder, more=rule())) as node:
        send(node, images, tmp_path / "files")
        node.complete()
        node.route.step()
        queue = node.node.queue()
        queue.lease = -1.0
        job = queue.claim(["infer"], "dead")
        assert job is not None
        node.infer._handlers["infer"]._start(job)  # type: ignore[attr-defined]
        assert node.story(uid_of(images)).runs[0].run.state == "IN_PROGRESS"
        node.duties.reclaim_jobs()
        run = node.story(uid_of(images)).runs[0].run
        assert (run.state, run.reason) == ("SCHEDULED", "the worker's lease expired")
        node.work()
        run = node.story(uid_of(images)).runs[0].run
        assert (run.state, run.reason) == ("COMPLETED", None)
