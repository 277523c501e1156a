"""Series that fit a model equally well: a state that waits, told everywhere, resolved by a person, kept over later images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node.actions import choose_series, release_study, rerun_study
from dicom_node.errors import UsageError
from storage.deletion import delete_series
from storage.errors import NotFound
from storage.timeline import Timeline
from tests.node import StepNode, bright_series, command, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle
from tests.webserver import serving


def two(**attributes: object) -> tuple[list[Dataset], list[Dataset]]:
    """Two T1 series of one study."""
    first, second = bright_series(), bright_series(bright=False)
    for image in second:
        image.StudyInstanceUID, image.SeriesNumber = first[0].StudyInstanceUID, 2
    return first, second


def chosen(story: Timeline) -> list[tuple[str, ...]]:
    return [tuple(each.run.series_uids) for each in story.runs]


def choose(opened: StepNode, study: str, series: str, *, named: str = "bright", why: str = "without motion") -> int | None:
    given = {"rule": named, "model": "tiny", "series": series}
    return choose_series(opened.node.config, opened.node.database, study, **given, who="jo", why=why, now=opened.node.clock())[1]


def test_it_waits_and_runs_what_a_person_chooses_and_the_choice_stays(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    config = settings(tmp_path, more=rule())
    first, second = two()
    study, uids = uid_of(first), [str(images[0].SeriesInstanceUID) for images in (first, second)]
    with running(config) as opened:
        send(opened, [*first, *second], tmp_path / "sent")
        opened.work()
        story = opened.story(study)
        assert not story.runs
        (waiting,) = story.ambiguities
        assert (waiting.state, waiting.rule, waiting.bundle) == ("OPEN", "bright", "tiny")
        assert {each.series_uid for each in waiting.candidates} == set(uids)
        assert "a series is to be chosen" in command(config, "study", "list").stdout
        assert f"study choose {study} --rule bright --model tiny --series UID" in command(config, "study", "show", study).stdout

        for wrong, error in (({"series": "1.2.3"}, NotFound), ({"series": uids[1], "named": "other"}, UsageError)):
            with pytest.raises(error):
                choose(opened, study, **wrong)
        done = command(
            config, "study", "choose", study, "--rule", "bright", "--model", "tiny", "--series", uids[1], "--reason", "no motion"
        )
        assert done.returncode == 0, done.stderr
        opened.work()
        story = opened.story(study)
        assert chosen(story) == [(uids[1],)]
        assert story.runs[0].run.state == "COMPLETED"
        assert any(each.event == "selection.chosen" and each.detail["series_uid"] == uids[1] for each in story.audit)
        shown = json.loads(command(config, "study", "list", "--json").stdout)
        assert [each["to_be_chosen"] for each in shown] == [False]

        late = bright_series(1, bright=False)[0]  # one more image of the chosen series
        late.StudyInstanceUID, late.SeriesInstanceUID = study, uids[1]
        late.FrameOfReferenceUID, late.ImagePositionPatient = second[0].FrameOfReferenceUID, ["-30", "-40", "59"]
        send(opened, [late], tmp_path / "late")
        opened.work()
        story = opened.story(study)
        assert chosen(story) == [(uids[1],), (uids[1],)]
        assert story.runs[1].run.predecessor_pk == story.runs[0].run.pk
        rerun_study(config, opened.node.database, study, who="jo", why="again", now=opened.node.clock())
        opened.work()
        assert chosen(opened.story(study))[2:] == [(uids[1],)]

        choose(opened, study, uids[0], why="changed my mind")  # the other one, in place of the first choice
        opened.work()
        assert chosen(opened.story(study))[3:] == [(uids[0],)]


def test_a_held_study_keeps_the_choice_until_it_goes_on(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    config = settings(tmp_path, more=rule(more='hold = "look first"'))
    first, second = two()
    study, uid = uid_of(first), str(second[0].SeriesInstanceUID)
    with running(config) as opened:
        send(opened, [*first, *second], tmp_path / "sent")
        opened.work()
        assert choose(opened, study, uid) is None
        opened.work()
        assert not opened.story(study).runs
        release_study(config, opened.node.database, study, who="jo", why="fine", now=opened.node.clock())
        opened.work()
        assert chosen(opened.story(study)) == [(uid,)]


def test_it_closes_when_a_later_series_fits_best(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    config = settings(tmp_path, more=rule(more='select = { prefer = [{ SeriesDescription = "*best*" }] }'))
    first, second = two()
    best = bright_series(description="T1 best")
    for image in best:
        image.StudyInstanceUID = first[0].StudyInstanceUID
    study = uid_of(first)
    with running(config) as opened:
        for images in ([*first, *second], best):
            send(opened, images, tmp_path / "sent")
            opened.work()
        story = opened.story(study)
        assert [each.state for each in story.ambiguities] == ["CLOSED"]
        assert chosen(story) == [(str(best[0].SeriesInstanceUID),)]
        with pytest.raises(NotFound, match="nothing is to be chosen"):
            choose(opened, study, str(second[0].SeriesInstanceUID))


def test_it_opens_again_when_the_chosen_series_is_gone(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    config = settings(tmp_path, more=rule())
    first, second = two()
    third = bright_series()
    for image in third:
        image.StudyInstanceUID = first[0].StudyInstanceUID
    study, uid = uid_of(first), str(third[0].SeriesInstanceUID)
    with running(config) as opened:
        send(opened, [*first, *second, *third], tmp_path / "sent")
        opened.work()
        choose(opened, study, uid)
        opened.work()
        delete_series(opened.node.archive, study, uid, who="jo", reason="wrong patient")
        rerun_study(config, opened.node.database, study, who="jo", why="again", now=opened.node.clock())
        opened.work()
        (found,) = opened.story(study).ambiguities
        assert (found.state, len(found.candidates)) == ("OPEN", 2)


def test_over_http(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    config = settings(tmp_path, more=rule())
    first, second = two()
    study, uid = uid_of(first), str(second[0].SeriesInstanceUID)
    with running(config) as opened, serving(config) as web:
        api, client = f"http://127.0.0.1:{web.port}/api", web.client
        send(opened, [*first, *second], tmp_path / "sent")
        opened.work()
        assert [each["to_be_chosen"] for each in client.get(f"{api}/studies").json()] == [True]
        (waiting,) = client.get(f"{api}/studies/{study}").json()["ambiguities"]
        asked = {"rule": waiting["rule"], "model": waiting["bundle"], "reason": "no motion"}
        assert client.post(f"{api}/studies/{study}/choose", params=asked).status_code == 400
        assert client.post(f"{api}/studies/{study}/choose", params={**asked, "series": "1.2.3"}).status_code == 404
        assert client.post(f"{api}/studies/{study}/choose", params={**asked, "series": uid}).status_code == 200
        opened.work()
        assert chosen(opened.story(study)) == [(uid,)]
