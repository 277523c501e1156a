"""A model that compares with an earlier study, on a real node: the one that is here, or none, and why."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dicom_node.actions import rerun_study
from dicom_node.work.prior import agree
from storage import outside, workitem_runs, workitems
from storage import workitem_values as values
from storage.errors import WorkitemRefused
from storage.jobs import JobQueue
from storage.records import RunRecord
from storage.workitems import Workitem
from tests.node import StepNode, running, send, settings, uid_of
from tests.priors import RULE, comparing_bundle, study
from tests.tiny_bundle import tiny_bundle


def the_run(opened: StepNode, study_uid: str) -> RunRecord:
    (run,) = [each.run for each in opened.story(study_uid).runs]
    return run


def voxels(run: RunRecord) -> list[int]:
    assert run.state == "COMPLETED", run.reason
    return [each["voxels"] for each in run.findings["segments"]]


def told(opened: StepNode, study_uid: str) -> list[tuple[str, str]]:
    return [(each.event, each.detail["reason"]) for each in opened.story(study_uid).audit if each.event.startswith("prior.")]


def test_the_newest_earlier_study_that_is_here_is_used(tmp_path: Path) -> None:
    comparing_bundle(tmp_path / "bundles")
    older, then, now = study("20180101", bright=False), study("20230101"), study("20250102", bright=False)
    with running(settings(tmp_path, more=RULE)) as opened:
        for images in (older, then):
            send(opened, images, tmp_path / "sent")
            opened.work()
        send(opened, now, tmp_path / "sent")
        opened.complete()
        assert opened.route.step()
        waiting = the_run(opened, uid_of(now))
        assert waiting.reason == "waits for a prior study"
        with opened.node.database.begin() as connection:
            queue = JobQueue(opened.node.database)
            assert not outside.claim(connection, queue, waiting.pk, "OTHER", now=time.time()), "the search is not skipped"
        opened.work()
        run = the_run(opened, uid_of(now))
        assert voxels(run) == [0, 18]
        assert {uid for uid, _ in run.input_set} == {str(image.SOPInstanceUID) for image in (*now, *then)}
        assert run.parameters["inputs"]["then"] == str(then[0].SeriesInstanceUID)
        assert told(opened, uid_of(now)) == [("prior.used", f"study {uid_of(then)}, which is here")]


@pytest.mark.parametrize("earlier", [True, False])
def test_a_rerun_on_a_persons_word_is_carried_out(tmp_path: Path, earlier: bool) -> None:
    comparing_bundle(tmp_path / "bundles")
    config = settings(tmp_path, more=RULE)
    now = study("20250102")
    with running(config) as opened:
        if earlier:
            send(opened, study("20230101"), tmp_path / "sent")
            opened.work()
        send(opened, now, tmp_path / "sent")
        opened.work()
        rerun_study(config, opened.node.database, uid_of(now), who="ada", why="once more", now=time.time())
        opened.work()
        states = [each.run.state for each in opened.story(uid_of(now)).runs]
    assert states == ["COMPLETED", "COMPLETED"]


@pytest.mark.parametrize(
    ("earlier", "more", "why"),
    [
        (None, "", "there is no earlier study"),
        ({"date": "20100101"}, "max_age = 3650", "there is no earlier study"),
        ({"date": "20260101"}, "", "there is no earlier study"),
        ({"date": "20240101", "PatientBirthDate": "19800101"}, "", "another patient's by its birth date"),
        ({"date": "20240101", "slices": 9}, "max_instances = 8", "has 9 images, and at most 8 are taken"),
        ({"date": "20240101", "StudyDescription": "KNEE"}, 'description = "*brain*"', "none of 0 series fits|no received series"),
    ],
)
def test_what_is_no_prior_is_said_and_not_used(tmp_path: Path, earlier: dict[str, Any] | None, more: str, why: str) -> None:
    import re

    comparing_bundle(tmp_path / "bundles", more=more)
    now = study("20250102")
    with running(settings(tmp_path, more=RULE)) as opened:
        if earlier is not None:
            send(opened, study(earlier["date"], **{name: value for name, value in earlier.items() if name != "date"}), tmp_path / "sent")
            opened.complete()
        send(opened, now, tmp_path / "sent")
        opened.work()
        run = the_run(opened, uid_of(now))
        assert voxels(run) == [18, 0]
        ((event, said),) = told(opened, uid_of(now))
        assert event == "prior.missing"
        assert re.search(why, said), said
        assert run.parameters["prior"] == said


def test_a_model_that_needs_one_does_not_apply_without(tmp_path: Path) -> None:
    comparing_bundle(tmp_path / "bundles", more="required = true")
    now = study("20250102")
    with running(settings(tmp_path, more=RULE)) as opened:
        send(opened, now, tmp_path / "sent")
        opened.work()
        run = the_run(opened, uid_of(now))
    assert (run.state, run.reason) == ("NOT_APPLICABLE", "the model needs a prior study: there is no earlier study [no-prior]")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True),
        ({"PatientBirthDate": ""}, True),
        ({"PatientBirthDate": "19500102"}, False),
        ({"IssuerOfPatientID": "B"}, False),
        ({"PatientID": "p1"}, False),
        ({"PatientID": ""}, False),
    ],
)
def test_who_is_the_same_patient(other: dict[str, str], same: bool) -> None:
    mine = {"PatientID": "P1", "IssuerOfPatientID": "A", "PatientBirthDate": "19500101"}
    assert agree(mine, {**mine, **other}) is same


def workitem_of(opened: StepNode, run_pk: int) -> Workitem:
    with opened.node.database.begin() as connection:
        workitem_runs.catch_up(connection, by="NODE", now=time.time())
        (item,) = [each for each in workitems.list_items(connection) if each.run_pk == run_pk]
    return item


def given(item: Workitem) -> dict[str, int]:
    """The studies of a workitem's input, and how many instances of each."""
    inputs = values.items(item.dataset, values.INPUT)
    return {values.text(each, values.STUDY): len(values.items(each, "00081199")) for each in inputs}


def test_a_run_that_comes_after_another_and_compares_waits_for_both(tmp_path: Path) -> None:
    comparing_bundle(tmp_path / "bundles")
    tiny_bundle(tmp_path / "bundles")
    rules = RULE.replace("match = {", 'after = ["tiny"]\nmatch = {') + RULE.replace("compare", "tiny")
    then, now = study("20230101"), study("20250102", bright=False)
    with running(settings(tmp_path, more=rules)) as opened:
        send(opened, then, tmp_path / "sent")
        opened.work()
        send(opened, now, tmp_path / "sent")
        opened.complete()
        assert opened.route.step()
        runs = {each.run.bundle: each.run for each in opened.story(uid_of(now)).runs}
        item = workitem_of(opened, runs["compare"].pk)
        assert (item.readiness, given(item)) == ("INCOMPLETE", {uid_of(now): len(now)})
        while any(worker.step() for worker in (opened.route, *opened.deliveries)):  # the search ends before the first run begins
            pass
        assert told(opened, uid_of(now)) == [("prior.used", f"study {uid_of(then)}, which is here")]
        waiting = {each.run.bundle: each.run for each in opened.story(uid_of(now)).runs}["compare"]
        assert (waiting.state, waiting.reason) == ("SCHEDULED", f"waits for run {runs['tiny'].pk} of tiny")
        item = workitem_of(opened, waiting.pk)
        assert item.readiness == "INCOMPLETE"
        queue = JobQueue(opened.node.database)
        with opened.node.database.begin() as connection, pytest.raises(WorkitemRefused, match="not complete yet"):
            workitems.change_state(connection, item.uid, "IN PROGRESS", "2.25.1", by="OTHER", now=time.time(), queue=queue)
        assert opened.infer.step()  # the first
        item = workitem_of(opened, waiting.pk)
        assert (item.readiness, given(item)) == ("READY", {uid_of(now): len(now), uid_of(then): len(then)})
        opened.work()
        run = {each.run.bundle: each.run for each in opened.story(uid_of(now)).runs}["compare"]
        assert voxels(run) == [0, 18]
        assert {uid for uid, _ in run.input_set} == {str(image.SOPInstanceUID) for image in (*now, *then)}
