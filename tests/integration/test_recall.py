"""A release that is recalled: every study it touched is listed, its results are marked, and the peers that have them are told so."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.releases.recall import recall
from storage.archive import Archive
from storage.errors import NoSpace, NotFound
from tests.node import StepNode, bright_series, command, peer, rule, running, send, settings, uid_of
from tests.peers.tools import iod_errors
from tests.tiny_bundle import tiny_bundle

KO = "1.2.840.10008.5.1.4.1.1.88.59"


def study(node: StepNode, folder: Path, name: str, *, work: bool = True) -> str:
    images = bright_series()
    send(node, images, folder / name)
    if work:
        node.work()
    return uid_of(images)


def notes(node: StepNode, study_uid: str) -> list[str]:
    return [each.sop_uid for each in node.node.archive.instances(study_uid) if each.sop_class_uid == KO]


def test_a_recall_marks_results_and_tells_those_who_have_them_once(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "node" / "bundles")
    with running(settings(tmp_path / "pacs", title="PACS")) as pacs:
        with running(settings(tmp_path / "node", more=peer("pacs", pacs.port) + rule("pacs"))) as node:
            config = node.node.config
            done = study(node, tmp_path, "a")
            (run,) = node.story(done).runs
            results = {each.sop_uid for sent in run.deliveries for each in sent.instances}
            assert len(results) == 2
            waiting = study(node, tmp_path, "b", work=False)
            node.complete()
            assert node.route.step()
            told = command(config, "release", "recall", "tiny@1", "--reason", "bright is wrong", "--json")
            assert told.returncode == 0, told.stderr
            found = {each["study_uid"]: each for each in json.loads(told.stdout)["runs"]}
            assert (found[done]["state"], found[done]["peers"], found[done]["new"]) == ("COMPLETED", ["pacs"], True)
            assert (found[waiting]["state"], found[waiting]["note"]) == ("CANCELED", None)
            node.work()
            assert notes(pacs, done) == notes(node, done) == [found[done]["note"]]
            assert notes(pacs, waiting) == []
            note = dcmread(pacs.node.archive.open_instance(found[done]["note"]).file())
            assert note.ConceptNameCodeSequence[0].CodeValue == "113037"
            file = tmp_path / "note.dcm"
            file.write_bytes(pacs.node.archive.open_instance(found[done]["note"]).file().read())
            assert iod_errors(file) == []
            evidence = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
            assert {ref.ReferencedSOPInstanceUID for each in evidence for ref in each.ReferencedSOPSequence} == results
            shown = command(config, "study", "show", done).stdout
            assert "RECALLED" in shown
            assert "bright is wrong" in shown

            (canceled,) = [each.run for each in node.story(waiting).runs]
            for job in (canceled.job_pk, run.deliveries[0].delivery.job_pk):
                retried = command(config, "job", "retry", str(job))
                assert retried.returncode == 1
            assert "was recalled" in command(config, "job", "retry", str(canceled.job_pk)).stderr

            again = command(config, "release", "recall", "tiny", "--reason", "once more")
            assert again.returncode == 0, again.stderr
            assert "2 of them were recalled before" in again.stdout
            assert node.work() == 0
            assert len(notes(pacs, done)) == 1


def test_a_recall_that_was_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_bundle(tmp_path / "node" / "bundles")
    with running(settings(tmp_path / "node", more=rule())) as node:
        studies = [study(node, tmp_path, name) for name in "ab"]
        store = Archive.store_emitted
        stored: list[object] = []

        def full_after_one(archive: Archive, *arguments: object, **more: object) -> None:
            if stored:
                raise NoSpace("the disk is full")
            stored.append(arguments)
            store(archive, *arguments, **more)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(Archive, "store_emitted", full_after_one)
            with pytest.raises(NoSpace):
                recall(node.node, "tiny", who="ada", reason="bad", now=time.time())
        assert [len(notes(node, uid)) for uid in studies] == [1, 0]
        done = recall(node.node, "tiny", who="ada", reason="bad", now=time.time())
        assert [each.new for each in done.runs] == [False, True]
        assert [len(notes(node, uid)) for uid in studies] == [1, 1]
        with pytest.raises(NotFound):
            recall(node.node, "huge", who="ada", reason="bad", now=time.time())
