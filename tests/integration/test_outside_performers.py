"""Runs that somebody outside performs: left to them by a rule, or taken while they wait; what they store and list is the run's result."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from dicom_node.work.chaining import segments
from dicom_node.work.executors import ProcessExecutor
from storage import workitem_runs
from tests.dimse import until
from tests.integration.test_chained import within
from tests.node import PLAIN, StepNode, bright_series, command, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle
from tests.workitems_dimse import LOCK, PUSH, Client, client, performed

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SECOND = """
[[rule]]
name = "second"
match = { Modality = "MR" }
run = ["within"]
"""
CLIENT = peer("client", 1, title="CLIENT", more="may_manage_workitems = true")


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StepNode]:
    with running(settings(tmp_path / "pacs", title="PACS")) as node:
        yield node


def node_for(folder: Path, *, outside: bool = True, to: StepNode | None = None) -> Any:
    tiny_bundle(folder / "bundles")
    pacs = peer("pacs", to.port, more='results = ["SC"]') if to else ""
    how = 'perform = "outside"' if outside else ""
    return running(settings(folder, more=CLIENT + pacs + rule(*(["pacs"] if to else []), more=how)))


def catch_up(node: StepNode) -> None:
    with node.node.database.begin() as connection:
        workitem_runs.catch_up(connection, by="NODE", now=node.node.clock())


def waiting_workitem(node: StepNode, worklist: Client) -> str:
    (found,) = worklist.find(ProcedureStepState="SCHEDULED", ProcedureStepLabel="tiny")
    return str(found.SOPInstanceUID)


def result_of(image: Dataset) -> Dataset:
    """What an outside performer makes of a study: an image in a series of its own."""
    made = Dataset()
    made.update(image)
    made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = SECONDARY_CAPTURE, generate_uid(), generate_uid()
    made.Modality, made.SeriesDescription = "OT", "made outside"
    made.file_meta = image.file_meta
    return made


def listed(*made: Dataset) -> Dataset:
    output = Dataset()
    output.StudyInstanceUID, output.SeriesInstanceUID = made[0].StudyInstanceUID, made[0].SeriesInstanceUID
    output.ReferencedSOPSequence = []
    for each in made:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = each.SOPClassUID, each.SOPInstanceUID
        output.ReferencedSOPSequence.append(reference)
    return performed([output])


def test_a_run_left_to_outside_performers_is_claimed_performed_and_delivered(tmp_path: Path, pacs: StepNode) -> None:
    images = bright_series()
    with node_for(tmp_path / "node", to=pacs) as node, client(node.port) as performer:
        send(node, images, tmp_path / "in")
        until(lambda: bool(node.duties.complete_studies()))
        assert node.route.step()
        assert not node.infer.step()  # nobody here takes it
        catch_up(node)
        assert "waits for somebody outside" in command(node.node.config, "study", "show", uid_of(images)).stdout
        uid = waiting_workitem(node, performer)
        given = performer.get(uid)[1].InputInformationSequence[0]
        assert given.DICOMRetrievalSequence[0].RetrieveAETitle == "NODE"
        inputs = given.ReferencedSOPSequence
        assert {item.ReferencedSOPInstanceUID for item in inputs} == {image.SOPInstanceUID for image in images}
        assert performer.change(uid, performed()) == 0x0124
        assert performer.state(uid, "IN PROGRESS") == 0x0000
        assert performer.state(uid, "IN PROGRESS", "2.25.5") == 0xC302
        shown = command(node.node.config, "study", "show", uid_of(images)).stdout
        assert "IN_PROGRESS" in shown
        assert "outside: CLIENT" in shown
        made, elsewhere = result_of(images[0]), result_of(images[1])
        assert send(node, [made], tmp_path / "out", calling="CLIENT") == [0]
        assert performer.change(uid, listed(made, elsewhere), LOCK) == 0x0000
        assert performer.state(uid, "COMPLETED", "2.25.5") == 0xC301
        assert performer.state(uid, "COMPLETED") == 0x0000
        story = node.story(uid_of(images)).runs[0]
        said = "performed by CLIENT: 2 objects, 1 of them not in its study here"
        assert (story.run.state, story.run.reason) == ("COMPLETED", said)
        assert [worker.step() for worker in node.deliveries].count(True) == 1
        story = node.story(uid_of(images)).runs[0]
        assert [(each.sop_uid, each.state) for each in story.deliveries[0].instances] == [(made.SOPInstanceUID, "ACCEPTED")]
        assert [stored.sop_uid for stored in pacs.node.archive.instances(uid_of(images))] == [made.SOPInstanceUID]
        assert said in command(node.node.config, "study", "show", uid_of(images)).stdout
        catch_up(node)
        assert performer.get(uid)[1].ProcedureStepState == "COMPLETED"


def test_a_run_that_waits_here_may_be_taken_and_one_that_was_taken_is_left_alone(tmp_path: Path) -> None:
    images = bright_series()
    with node_for(tmp_path / "node", outside=False) as node, client(node.port) as performer:
        send(node, images, tmp_path / "in")
        until(lambda: bool(node.duties.complete_studies()))
        assert node.route.step()
        catch_up(node)
        uid = waiting_workitem(node, performer)
        assert performer.state(uid, "IN PROGRESS") == 0x0000
        assert not node.infer.step()
        assert performer.act(uid, 2, "1.2.840.10008.5.1.4.34.6.2") == 0x0000  # its performer is told, nothing else
        node.duties.reclaim_jobs()
        assert node.story(uid_of(images)).runs[0].run.state == "IN_PROGRESS"
        reason = Dataset()
        item = Dataset()
        item.ReasonForCancellation = "no licence"
        reason.ProcedureStepProgressInformationSequence = [item]
        assert performer.change(uid, reason, LOCK) == 0x0000
        assert performer.state(uid, "CANCELED") == 0x0000
        ended = node.story(uid_of(images)).runs[0].run
        assert (ended.state, ended.reason) == ("CANCELED", "canceled by CLIENT: no licence")
        assert not node.infer.step()


def test_a_run_that_has_begun_or_ended_here_is_not_to_be_had(tmp_path: Path) -> None:
    images = bright_series()
    with node_for(tmp_path / "node", outside=False) as node, client(node.port) as performer:
        send(node, images, tmp_path / "in")
        until(lambda: bool(node.duties.complete_studies()))
        assert node.route.step()
        catch_up(node)
        uid = waiting_workitem(node, performer)
        assert node.infer.step()
        assert performer.state(uid, "IN PROGRESS") == 0xC302  # its workitem does not say so yet
        catch_up(node)
        catch_up(node)
        assert performer.state(uid, "IN PROGRESS") == 0xC300
        assert node.story(uid_of(images)).runs[0].run.state == "COMPLETED"


def test_a_person_cancels_a_run_whose_performer_never_comes_back(tmp_path: Path) -> None:
    images = bright_series()
    with node_for(tmp_path / "node") as node, client(node.port) as performer:
        send(node, images, tmp_path / "in")
        until(lambda: bool(node.duties.complete_studies()))
        assert node.route.step()
        catch_up(node)
        uid = waiting_workitem(node, performer)
        assert performer.state(uid, "IN PROGRESS") == 0x0000
        job = node.story(uid_of(images)).runs[0].run.job_pk
        assert command(node.node.config, "job", "cancel", str(job), "--reason", "it is gone").returncode == 0
        node.duties.reclaim_jobs()
        assert performer.state(uid, "CANCELED") == 0xC300
        catch_up(node)
        assert performer.get(uid)[1].ProcedureStepState == "CANCELED"
        assert node.story(uid_of(images)).runs[0].run.state == "CANCELED"


def segmentation_of(folder: Path, images: list[Dataset]) -> Dataset:
    """What the tiny model finds in a series, as an outside performer's own object."""
    with node_for(folder, outside=False) as node:
        send(node, images, folder / "in")
        node.work()
        run = node.story(uid_of(images)).runs[0].run
        stored = node.node.archive.open_instance(segments(run.run_key)[0])
        made = dcmread(BytesIO(stored.pread(0, stored.length)))
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.SeriesInstanceUID = generate_uid()
    return made


def test_what_an_outside_performer_segmented_is_the_next_models_input(tmp_path: Path) -> None:
    images = bright_series()
    made = segmentation_of(tmp_path / "elsewhere", images)
    within(tmp_path / "node" / "bundles")
    tiny_bundle(tmp_path / "node" / "bundles")
    rules = SECOND + rule(more='perform = "outside"')
    with running(settings(tmp_path / "node", more=CLIENT + rules)) as node, client(node.port) as performer:
        send(node, images, tmp_path / "in")
        until(lambda: bool(node.duties.complete_studies()))
        assert node.route.step()
        catch_up(node)
        uid = waiting_workitem(node, performer)
        assert performer.state(uid, "IN PROGRESS") == 0x0000
        assert send(node, [made], tmp_path / "out", calling="CLIENT") == [0]
        assert performer.change(uid, listed(made), LOCK) == 0x0000
        assert performer.state(uid, "COMPLETED") == 0x0000
        node.duties.reclaim_jobs()
        assert node.infer.step()
        second = next(each.run for each in node.story(uid_of(images)).runs if each.run.bundle == "within")
        assert (second.state, second.parameters["inputs"]["found"]) == ("COMPLETED", made.SeriesInstanceUID), second.reason
        assert made.SOPInstanceUID in [sop_uid for sop_uid, _ in second.input_set]
        assert second.findings["segments"][1]["voxels"] == 2 * 3 * 3


def test_a_cancel_request_ends_a_run_that_is_under_way_here(tmp_path: Path) -> None:
    images = bright_series()
    tiny_bundle(tmp_path / "node" / "bundles", fault="hang")
    lease = '[jobs]\nlease = "2s"\n'
    config = settings(tmp_path / "node", more=CLIENT + rule(), plain=PLAIN.replace('[jobs]\nlease = "30s"\n', lease))
    executor = ProcessExecutor("cpu", threads=1)
    with running(config, executor=executor) as node, client(node.port) as manager:
        send(node, images, tmp_path / "in")
        until(lambda: bool(node.duties.complete_studies()))
        assert node.route.step()
        catch_up(node)
        uid = waiting_workitem(node, manager)
        worker = threading.Thread(target=node.infer.step)
        worker.start()
        try:
            until(lambda: node.story(uid_of(images)).runs[0].run.state == "IN_PROGRESS")
            catch_up(node)
            assert manager.act(uid, 2, PUSH, ReasonForCancellation="not needed") == 0x0000
            assert manager.get(uid)[1].ProcedureStepState == "CANCELED"
            assert manager.act(uid, 2, PUSH) == 0xB304
            worker.join(30)  # its child is ended when its lease is not renewed, not at the model's deadline
            assert not worker.is_alive()
        finally:
            executor.close()
            worker.join(30)
        ended = node.story(uid_of(images)).runs[0].run
        assert (ended.state, ended.reason) == ("CANCELED", f"canceled by CLIENT, as workitem {uid}: not needed")
        assert not node.infer.step()
        progress = manager.get(uid)[1].ProcedureStepProgressInformationSequence[0]
        assert progress.ReasonForCancellation == "not needed"
