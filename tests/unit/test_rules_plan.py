"""What rules make of a study: their conditions, their order and their conflicts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from dicom_node.config import Config, parse
from dicom_node.config_rules import Window
from dicom_node.errors import ConfigurationError
from dicom_node.releases.resolve import Chosen, Resolution
from dicom_node.routing.plan import Plan, keywords, make_plan, peers_of
from dicom_node.routing.replay import differences
from dicom_node.routing.rules import within
from dicom_node.routing.shown import effects, sentences
from models.bundle import load_bundle
from storage.rule_facts import COUNT, Done, SeriesFacts, StudyFacts

BRAIN = load_bundle("brain_extraction")
PEERS = "".join(f"[[peer]]\nname = '{name}'\nae_title = '{name.upper()}'\nhost = 'h'\nport = 104\n" for name in ("pacs", "vault"))
THURSDAY = datetime(2026, 1, 1, 7, 30).timestamp()


def series(uid: str = "1", *, sources: dict[str, int] | None = None, count: int = 60, **attributes: Any) -> SeriesFacts:
    values = {"Modality": "MR", "SeriesDescription": "T1 MPRAGE", "SliceThickness": "1", **attributes, COUNT: count}
    return SeriesFacts(uid, values, {"SCANNER": count} if sources is None else sources, {"NODE": count})


def study(*found: SeriesFacts, at: float = THURSDAY) -> StudyFacts:
    return StudyFacts("1.2", 1, at, {each.series_uid: each for each in found or (series(),)})


def config(text: str) -> Config:
    return parse(PEERS + text)


def models(name: str) -> Resolution:
    return Resolution(name, Chosen(BRAIN)) if name == "brain_extraction" else Resolution(name, None, problem=f"there is no {name}")


def plan(text: str, facts: StudyFacts | None = None) -> Plan:
    read = config(text)
    return make_plan(facts or study(), read.rule, models, peers_of(read))


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("match = { Modality = 'CT' }", "Modality is 'MR', not 'CT'"),
        ("from = ['CT*', 'MR1']", "it came from 'SCANNER', not 'CT*' or 'MR1'"),
        ("from = ['SCAN*']", None),
        ("from = ['scanner']", "it came from"),
        ("called = ['OTHER']", "it was sent to 'NODE', not 'OTHER'"),
        ("called = ['NO?E']", None),
        ("when = [{ days = ['fri'] }, { hours = ['08:00-18:00'] }]", "the study was complete thu 07:30, not 'fri' or '08:00-18:00'"),
        ("when = [{ days = ['thu'], hours = ['07:00-08:00'] }]", None),
        ("match = { PatientID = 'X*' }", "PatientID does not match"),
        ("match = { ImageType = 'ORIGINAL*' }", None),
    ],
)
def test_the_first_condition_that_keeps_a_series_out_is_named(condition: str, reason: str | None) -> None:
    (spoken,) = plan(
        f"[[rule]]\nname = 'r'\ntags = ['t']\n{condition}",
        study(series(PatientID="secret", ImageType=["ORIGINAL\\PRIMARY", "DERIVED\\SECONDARY"])),
    ).spoken
    found = spoken.outside.get("1")
    assert found is None if reason is None else str(found).startswith(reason)
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("days", "hours", "moment", "inside"),
    [
        ((), ("22:00-06:00",), "2026-01-02 05:59", True),
        ((), ("22:00-06:00",), "2026-01-02 06:00", False),
        (("thu",), ("22:00-06:00",), "2026-01-02 05:59", True),  # the night that began on Thursday
        (("fri",), ("22:00-06:00",), "2026-01-02 05:59", False),
        (("fri",), ("22:00-06:00",), "2026-01-02 22:00", True),
        (("sat", "sun"), (), "2026-01-03 00:00", True),
        (("sat", "sun"), (), "2026-01-05 00:00", False),
        ((), ("00:00-24:00",), "2026-01-05 23:59", True),
    ],
)
def test_times_of_the_week(days: Any, hours: tuple[str, ...], moment: str, inside: bool) -> None:
    assert within(Window(days=days, hours=hours), datetime.fromisoformat(moment).timestamp()) is inside


def test_ignore_takes_its_series_out_of_every_rule_wherever_it_stands() -> None:
    found = plan(
        "[[rule]]\nname = 'brain'\nrun = ['brain_extraction']\nforward = ['pacs']\n"
        "[[rule]]\nname = 'scouts'\nmatch = { SeriesDescription = '*SCOUT*' }\nignore = 'a scout'\n",
        study(series("1"), series("2", SeriesDescription="T1 SCOUT")),
    )
    assert found.runs == (("brain_extraction", "1"),)
    assert [each.series_uids for each in found.forwards] == [("1",)]
    assert found.spoken[0].outside == {"2": "ignored by rule scouts: a scout"}
    assert found.outcomes[0].selection is not None
    assert {choice.series_uid: choice.reason for choice in found.outcomes[0].selection.choices}["2"].startswith(
        "rule: ignored by rule scouts"
    )
    assert "1 series are left out of all other rules (rule scouts: a scout)" in list(effects(found))


def test_priorities_of_the_study_are_added_and_the_highest_counts() -> None:
    found = plan(
        "[[rule]]\nname = 'stroke'\nmatch = { Modality = 'MR' }\npriority = 100\ntags = ['stroke', 'mr']\n"
        "[[rule]]\nname = 'low'\npriority = 5\ntags = ['mr']\n[[rule]]\nname = 'other'\nmatch = { Modality = 'CT' }\npriority = 900\n"
        "[[rule]]\nname = 'brain'\nrun = ['brain_extraction']\npriority = -10\n"
    )
    assert found.urgency == 100
    assert found.priority_of(found.outcomes[0].rule) == 90
    assert [(said.text, said.rule) for said in found.tags] == [("stroke", "stroke"), ("mr", "stroke")]
    assert "priority +100 for all of its work (rule stroke)" in list(effects(found))


def test_originals_go_to_a_peer_once_and_never_back() -> None:
    found = plan(
        "[[rule]]\nname = 'a'\nforward = [{ to = ['pacs', 'vault'], series = { Modality = 'MR' }, transfer_syntax = 'rle' }]\n"
        "[[rule]]\nname = 'b'\nforward = ['pacs']\n",
        study(series("1"), series("2", Modality="CT"), series("3", sources={"PACS": 60}), series("4", sources={"PACS": 20, "SCANNER": 40})),
    )
    first, vault, second = found.forwards
    assert (first.peer, first.series_uids, first.instances, first.transfer_syntax) == ("pacs", ("1", "4"), 100, "rle")
    assert (vault.peer, vault.series_uids, vault.instances) == ("vault", ("1", "3", "4"), 180)
    assert (second.series_uids, second.transfer_syntax) == (("2",), None)
    reasons = {choice.series_uid: choice.reason for choice in first.choices}
    assert reasons["3"].startswith("refused: it came from PACS")
    assert reasons["4"] == "goes to pacs, but 20 of 60 instances, which came from there"
    assert reasons["2"] == "forward: Modality is 'CT', not 'MR'"
    assert {choice.series_uid: choice.reason for choice in second.choices}["1"] == "rule a sends it to pacs already"


def test_a_hold_and_a_model_of_two_rules_are_told() -> None:
    text = (
        "[[rule]]\nname = 'a'\nrun = ['brain_extraction']\ndeliver = ['pacs']\n[[rule]]\nname = 'b'\nrun = ['brain_extraction', 'none']\n"
        "deliver = ['vault']\n[[rule]]\nname = 'odd'\nhold = 'look at it'\n"
        "[[rule]]\nname = 'ct'\nmatch = { Modality = 'CT' }\nhold = 'no'\n"
    )
    found = plan(text)
    assert [(said.rule, said.text) for said in found.holds] == [("odd", "look at it")]
    told = "\n".join(sentences(found, study()))
    assert "HELD for review (rule odd: look at it); what follows waits until it is released" in told
    assert "rule b runs nothing more: brain_extraction runs on series 1 by rule a already, results to vault" in told
    assert "model none: there is no none" in told
    assert "Rule ct: does not match: Modality is 'MR', not 'CT'" in told
    assert "CHOSEN series - MR 'T1 MPRAGE' (60 instances): the only series that fits" in told


def test_a_rule_selects_among_the_series_that_it_matches() -> None:
    select = (
        "select = { planes = ['axial'], ranges = { SliceThickness = [0.5, 2] }, exclude = [{ SeriesDescription = '*LOC*' }], "
        "any = [{ BodyPartExamined = 'HEAD' }, { SeriesDescription = 'T1*' }], max_instances = 100, min_instances = 20, "
        "prefer = [{ SeriesDescription = '*MPRAGE' }] }"
    )
    axial: dict[str, Any] = {"ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]}
    facts = study(
        series("1", **axial), series("2", SeriesDescription="T1 SE", **axial), series("3", SeriesDescription="T1 LOC", **axial),
        series("4", ImageOrientationPatient=["0", "1", "0", "0", "0", "-1"]), series("5", SliceThickness="5", **axial),
        series("6", SliceThickness="", **axial), series("7", count=101, **axial), series("8", count=3, **axial),
        series("9", SeriesDescription="FLAIR", **axial),
    )  # fmt: skip
    found = plan(f"[[rule]]\nname = 'r'\nrun = ['brain_extraction']\n{select}\n", facts)
    (spoken,) = found.spoken
    assert spoken.series_uids == ("1", "2")
    assert spoken.outside == {
        "3": "excluded, SeriesDescription is 'T1 LOC'",
        "4": "it is sagittal, not axial",
        "5": "SliceThickness is 5, outside 0.5 to 2",
        "6": "SliceThickness is absent, not 0.5 to 2",
        "7": "101 images, and at most 100 are asked for",
        "8": "3 images, and it needs at least 20",
        "9": "none of its alternatives for BodyPartExamined, SeriesDescription matches "
        "(BodyPartExamined absent, SeriesDescription 'FLAIR')",
    }
    assert found.runs == (("brain_extraction", "1"),)
    assert found.outcomes[0].selection is not None
    assert found.outcomes[0].selection.choices[0].reason == "fits, and is preferred by choice 1 of the rule"


def test_headers_are_read_only_where_somebody_asks_for_more_than_the_index_has() -> None:
    indexed = config("[[rule]]\nname = 'r'\nforward = ['pacs']\nmatch = { Modality = 'MR', ImageType = '*', StudyDate = '2026-' }\n").rule
    assert keywords(indexed, models) == frozenset()
    assert "SliceThickness" in keywords(config("[[rule]]\nname = 'r'\nrun = ['brain_extraction']\n").rule, models)
    assert keywords(config("[[rule]]\nname = 'r'\nforward = ['pacs']\nmatch = { EchoTime = '3' }\n").rule, models) == {"EchoTime"}


RUNS = "[[rule]]\nname = 'brain'\nrun = ['brain_extraction']\nforward = ['pacs']\n"
HOLDS = "[[rule]]\nname = 'odd'\nhold = 'look'\n"
DONE = Done(frozenset({("brain_extraction", ("1",))}), {"pacs": 60})


@pytest.mark.parametrize(
    ("text", "done", "expected"),
    [
        (RUNS, DONE, []),
        (RUNS, Done(), [("+", "run brain_extraction, series 1"), ("+", "send to pacs, 60 instances")]),
        ("", DONE, [("-", "run brain_extraction, series 1"), ("-", "send to pacs, 60 instances")]),
        (RUNS.replace("pacs", "vault"), DONE, [("-", "send to pacs, 60 instances"), ("+", "send to vault, 60 instances")]),
        (RUNS + HOLDS, DONE, [("+", "hold"), ("-", "run brain_extraction, series 1"), ("-", "send to pacs, 60 instances")]),
        (RUNS + HOLDS, Done(flag="held for review (...)", held=True), []),
        (RUNS + HOLDS, Done(DONE.runs, DONE.forwards, held=True), []),  # held, then released
        (RUNS, Done(flag="held for review (...)", held=True), [("-", "hold"), ("+", "run brain_extraction, series 1"),
                                                               ("+", "send to pacs, 60 instances")]),
        (RUNS, Done(flag="its instances disagree on PatientID"), []),
    ],
)  # fmt: skip
def test_differences_between_a_plan_and_what_was_done(text: str, done: Done, expected: Sequence[tuple[str, str]]) -> None:
    assert [(each.change, each.what) for each in differences(plan(text), done)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ignore = 'x'\ntags = ['t']", "ignore stands alone"),
        ("match = { Modality = 'MR' }", "it does nothing: give at least one of run, forward, tags, hold, priority, ignore"),
        ("deliver = ['pacs']\ntags = ['t']", "to send the originals, use forward"),
        ("forward = ['pasc']", "rule 'r' forwards to 'pasc', and there is no [[peer]] of that name; did you mean 'pacs'?"),
        ("forward = [{ to = [] }]", "'rule[1].forward[1].to' = []: at least one entry is needed"),
        ("forward = [{ to = ['pacs'], series = { Modalty = 'MR' } }]", "did you mean 'Modality'?"),
        ("forward = [{ to = ['pacs'], transfer_sintax = 'rle' }]", "did you mean 'transfer_syntax'?"),
        ("forward = [{ to = ['pacs'], transfer_syntax = 'zip' }]", "it must be 'explicit_little_endian', "),
        ("forward = [{ to = ['pacs'], transfer_syntax = 'rle', deidentify = true }]", "what is de-identified goes uncompressed"),
        ("forward = [{ to = ['pacs'], deidentify = { keep = ['name'] } }]", "it must be 'patient', 'shift' or 'device'"),
        (
            "forward = [{ to = ['pacs'], deidentify = true }]\n[[rule]]\nname = 's'\nforward = ['pacs']",
            "rule 'r' de-identifies what it forwards to 'pacs', and rule 's' sends there with identity: a peer gets one or the other",
        ),
        ("tags = ['t']\nform = ['X']", "unknown key 'rule[1].form' = ['X']; did you mean 'from'?"),
        ("tags = ['t']\nwhen = [{ days = ['mo'] }]", "it must be 'mon', 'tue'"),
        ("tags = ['t']\nwhen = [{}]", "days or hours are needed"),
        ("tags = ['t']\nwhen = [{ hours = ['8-18'] }]", "hours such as '08:00-18:00' or '22:00-06:00' are needed"),
        ("tags = ['t']\nwhen = [{ hours = ['08:00-25:00'] }]", "hours such as"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_the_way_out(text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        config(f"[[rule]]\nname = 'r'\n{text}")
    assert expected in str(refused.value)
