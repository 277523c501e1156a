"""What people say about results: kept word by word, the newest counts, nobody overwrites what they did not see."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import select, update

from storage import feedback, runs, worklist, worklist_upkeep
from storage.database import Database
from storage.errors import NotFound
from storage.feedback import FeedbackRecord, NotUnderstood, Word
from storage.runs import RunSpec
from storage.schema import audit, instance
from storage.schema import run as runs_table
from storage.timeline import timeline
from tests.contract.fill import add_instance, add_study

STUDY, SEG = "1.2", "1.2.840.10008.5.1.4.1.1.66.4"
FINDINGS = {
    "segments": [{"label": "Brain", "voxels": 10}, {"label": "Brain", "voxels": 3}],
    "measurements": [{"name": "Volume", "of": "Brain", "value": 1400.5, "unit": "mL"}],
    "classifications": [{"label": "Motion", "value": "Present", "positive": True, "probability": 0.7}],
}
VOLUME, MOTION = "measurement:Brain:Volume", "classification:Motion"


@pytest.fixture
def run(database: Database) -> int:
    add_study(database, STUDY)
    add_instance(database, STUDY, "1.2.1.1")
    return completed(database, "one")


def completed(database: Database, key: str, *, release: str = "digest", shadow: bool = False) -> int:
    with database.begin() as connection:
        spec = RunSpec(STUDY, 1, ["1.2.1"], [("1.2.1.1", "d")], "heads", "brain", "1.0", release, run_key=key, shadow=shadow)
        pk = runs.create_run(connection, spec)
        assert pk is not None
        runs.start_run(connection, pk, "cpu")
        runs.complete_run(connection, pk, device="cpu", timings={}, findings=FINDINGS)
    return pk


def say(
    database: Database, run: int, finding: str, *word: Any, seen: int | None = None, who: str = "ada", **more: Any
) -> FeedbackRecord | None:
    with database.begin() as connection:
        return feedback.give(connection, STUDY, run, finding, Word(*word, **more), seen=seen, actor=who, now=5.0)


def test_every_finding_of_a_run_has_a_name_of_its_own(database: Database, run: int) -> None:
    with database.read() as connection:
        found = feedback.findings_of(runs.get_run(connection, run))
    assert [each.key for each in found] == ["result", "segment:Brain", "segment:Brain#2", VOLUME, MOTION]
    assert (found[3].value, found[3].unit, found[4].probability, found[4].positive) == (1400.5, "mL", 0.7, True)


def test_each_word_is_kept_and_the_newest_counts(database: Database, run: int) -> None:
    first = say(database, run, VOLUME, "accept", seen=0)
    second = say(database, run, VOLUME, "modify", "1388", code="wrong_value", reason="  measured by hand ", seen=1, who="bob")
    assert first is not None
    assert second is not None
    assert (second.revision, second.corrected, second.reason, second.found["value"]) == (2, 1388.0, "measured by hand", 1400.5)
    story = timeline(database, STUDY)
    assert story.feedback == (first, second)
    assert feedback.newest(story.feedback) == {(run, VOLUME): second}
    assert [(each.event, each.actor, each.detail["revision"]) for each in story.audit] == [
        ("feedback.given", "ada", 1),
        ("feedback.given", "bob", 2),
    ]
    assert "by hand" not in str(story.audit)


def test_who_saw_something_else_is_told_and_changes_nothing(database: Database, run: int) -> None:
    assert say(database, run, MOTION, "accept", seen=0) is not None
    assert say(database, run, MOTION, "reject", code="false_positive", seen=0, who="bob") is None
    assert say(database, run, MOTION, "reject", code="false_positive", seen=2, who="bob") is None
    words = timeline(database, STUDY).feedback
    assert [(each.actor, each.verdict) for each in words] == [("ada", "accept")]
    with database.read() as connection:
        assert len(connection.execute(select(audit)).all()) == 1


def test_of_many_who_speak_in_the_same_moment_one_is_heard(database: Database, run: int) -> None:
    gate, heard = threading.Barrier(4), []

    def speak(who: str) -> None:
        gate.wait()
        heard.append(say(database, run, "result", "accept", seen=0, who=who))

    threads = [threading.Thread(target=speak, args=(who,)) for who in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [each for each in heard if each is not None]
    assert len(heard) == 4
    assert timeline(database, STUDY).feedback == tuple(kept)
    assert len(kept) == 1


SENSELESS: list[tuple[str, dict[str, Any], str]] = [
    (VOLUME, {"verdict": "maybe"}, "verdict is one of"),
    (VOLUME, {"verdict": "reject"}, "says why"),
    (VOLUME, {"verdict": "reject", "code": "bored"}, "reason is one of"),
    (VOLUME, {"verdict": "reject", "code": "other", "reason": " "}, "written down"),
    (VOLUME, {"verdict": "accept", "corrected": "3"}, "only who modifies"),
    (VOLUME, {"verdict": "modify", "code": "wrong_value"}, "what is right"),
    (VOLUME, {"verdict": "modify", "code": "wrong_value", "corrected": "much"}, "no number"),
    (VOLUME, {"verdict": "modify", "code": "wrong_value", "corrected": "nan"}, "no number"),
    (MOTION, {"verdict": "modify", "code": "wrong_class", "corrected": "a\nb"}, "printable"),
    ("segment:Brain", {"verdict": "modify", "code": "wrong_extent", "corrected": "3"}, "stands in a SEG"),
    ("segment:Brain", {"verdict": "modify", "code": "wrong_extent", "corrected_uid": "1.2.9"}, "no segmentation"),
    ("segment:Brain", {"verdict": "modify", "code": "wrong_extent", "corrected_uid": "1.2.3.1"}, "this node's own"),
    (VOLUME, {"verdict": "reject", "code": "other", "reason": "x" * 2001}, "at most"),
]


def test_what_makes_no_sense_is_refused(database: Database, run: int) -> None:
    segmentation(database, "1.2.3.1", origin="emitted")
    for finding, word, why in SENSELESS:
        with pytest.raises(NotUnderstood, match=why):
            say(database, run, finding, **word)
    assert timeline(database, STUDY).feedback == ()


def segmentation(database: Database, uid: str, *, origin: str) -> None:
    add_instance(database, STUDY, uid, series_uid="1.2.3", modality="SEG", origin=origin)
    with database.begin() as connection:
        connection.execute(update(instance).where(instance.c.sop_uid == uid).values(sop_class_uid=SEG))


def test_a_segment_is_corrected_in_a_segmentation_that_came_back(database: Database, run: int) -> None:
    segmentation(database, "1.2.3.2", origin="received")
    with database.read() as connection:
        assert feedback.segmentations_received(connection, STUDY) == ["1.2.3.2"]
    said = say(database, run, "segment:Brain", "modify", code="wrong_extent", corrected_uid="1.2.3.2")
    assert said is not None
    assert (said.corrected, said.corrected_uid) == (None, "1.2.3.2")


def test_only_results_that_people_see_are_judged(database: Database, run: int) -> None:
    looking_on = completed(database, "two", shadow=True)
    with pytest.raises(NotUnderstood, match="no result"):
        say(database, looking_on, "result", "accept")
    with pytest.raises(NotFound):
        say(database, run, "segment:Liver", "accept")
    with pytest.raises(NotFound):
        say(database, run + 100, "result", "accept")
    with database.begin() as connection, pytest.raises(NotFound):
        feedback.give(connection, "1.3", run, "result", Word("accept"), seen=None, actor="ada")


def test_agreement_counts_the_newest_words_of_a_release(database: Database, run: int) -> None:
    other, elsewhere = completed(database, "two"), completed(database, "three", release="other")
    completed(database, "four", shadow=True)
    say(database, run, VOLUME, "reject", code="wrong_value")
    say(database, run, VOLUME, "accept")
    say(database, run, MOTION, "reject", code="false_positive")
    say(database, other, MOTION, "modify", "Absent", code="wrong_class")
    say(database, elsewhere, MOTION, "accept")
    with database.read() as connection:
        told, nothing = feedback.agreement(connection, "digest"), feedback.agreement(connection, "unknown")
    assert (told.accept, told.modify, told.reject, told.runs, told.completed) == (1, 1, 1, 2, 2)
    assert told.reasons == {"false_positive": 1, "wrong_class": 1}
    assert told.rate == pytest.approx(1 / 3)
    assert (nothing.words, nothing.rate, nothing.completed) == (0, None, 0)


def test_what_was_rejected_is_urgent_no_more(database: Database, run: int) -> None:
    alert = {"urgency": "critical", "finding": "Motion", "reason": "Motion: Present (0.70)"}
    with database.begin() as connection:
        connection.execute(update(runs_table).where(runs_table.c.pk == run).values(findings={**FINDINGS, "alerts": [alert]}))

    def shown() -> tuple[int, list[str], list[str]]:
        worklist_upkeep.catch_up(database, now=6.0)
        with database.read() as connection:
            entry = worklist.get(connection, STUDY)
        assert entry is not None
        return entry.urgency, [each["finding"] for each in entry.alerts], [each.get("name") or each["label"] for each in entry.findings]

    assert shown() == (2, ["Motion"], ["Volume"])
    say(database, run, MOTION, "reject", code="false_positive")
    say(database, run, VOLUME, "reject", code="wrong_value")
    assert shown() == (0, [], [])
    say(database, run, MOTION, "accept")
    say(database, run, VOLUME, "accept")
    assert shown() == (2, ["Motion"], ["Volume"])
    say(database, run, "result", "reject", code="not_applicable")
    assert shown() == (0, [], [])
