"""Which series a model gets, and the sentence about every other one."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.routing.late import Earlier, decide
from dicom_node.routing.selection import Selection, Verdict, select_series
from models.bundle import load_bundle
from models.spec import SeriesSpec

T1 = {"Modality": "MR", "SeriesDescription": "Sag T1 MPRAGE", "SliceThickness": "1.0", "NumberOfSeriesRelatedInstances": 180}
BRAIN = load_bundle("brain_extraction").dicom.series


def choose(needs: SeriesSpec = BRAIN, outside: dict[str, str] | None = None, every: bool = False, **series: Any) -> Selection:
    return select_series(needs, series, outside=outside, every=every)


def reason(selection: Selection, uid: str) -> str:
    return next(choice.reason for choice in selection.choices if choice.series_uid == uid)


def test_the_only_series_that_fits_is_chosen_and_each_other_says_why() -> None:
    found = choose(
        t1=T1,
        t2={**T1, "SeriesDescription": "Ax T2"},
        ct={**T1, "Modality": "CT"},
        thick={**T1, "SliceThickness": "5.0"},
        few={**T1, "NumberOfSeriesRelatedInstances": 20},
        scout={**T1, "SeriesDescription": "T1 localizer"},
    )
    assert (found.verdict, found.chosen) == (Verdict.CHOSEN, ("t1",))
    assert "Ax T2" in reason(found, "t2")
    assert "Modality is 'CT'" in reason(found, "ct")
    assert "SliceThickness is 5, outside 0.3 to 3" in reason(found, "thick")
    assert "20 images, and it needs at least 40" in reason(found, "few")
    assert "excluded" in reason(found, "scout")


def test_a_rule_speaks_first() -> None:
    found = choose(outside={"b": "SeriesDescription is another"}, a=T1, b=T1)
    assert found.chosen == ("a",)
    assert reason(found, "b").startswith("rule: SeriesDescription")


def test_several_that_fit_equally_well_are_ambiguous() -> None:
    found = choose(a=T1, b=T1)
    assert (found.verdict, found.chosen) == (Verdict.AMBIGUOUS, ())
    assert reason(found, "a").startswith("ambiguous")
    assert choose(every=True, a=T1, b=T1).chosen == ("a", "b")


def test_a_preference_decides() -> None:
    needs = SeriesSpec(match={"Modality": "MR"}, prefer=({"SeriesDescription": "*MPRAGE*"},))
    found = choose(needs, a=T1, b={**T1, "SeriesDescription": "T1 SE"})
    assert found.chosen == ("a",)
    assert "preferred" in reason(found, "b")


def test_nothing_fits_is_a_verdict_too() -> None:
    assert choose(a={"Modality": "CT"}).verdict is Verdict.NOT_APPLICABLE
    assert choose().summary == "the study has no received series"


def test_frames_of_one_object_count_as_images() -> None:
    enhanced = {**T1, "NumberOfSeriesRelatedInstances": 1, "NumberOfFrames": ["160"]}
    assert choose(a=enhanced).chosen == ("a",)


@pytest.mark.parametrize(
    ("policy", "same", "earlier", "runs", "predecessor", "flag"),
    [
        ("rerun", None, None, True, None, False),
        ("rerun", None, Earlier(4, "k", "COMPLETED"), True, 4, False),
        ("rerun", None, Earlier(4, "k", "NOT_APPLICABLE"), True, None, False),
        ("rerun", Earlier(5, "key", "COMPLETED"), Earlier(4, "k", "COMPLETED"), False, None, False),
        ("ignore", None, Earlier(4, "k", "COMPLETED"), False, None, False),
        ("ignore", None, None, True, None, False),
        ("flag", None, Earlier(4, "k", "COMPLETED"), False, None, True),
    ],
)
def test_a_late_instance(policy: Any, same: Any, earlier: Any, runs: bool, predecessor: int | None, flag: bool) -> None:
    decision = decide(policy, "key", same, earlier)
    assert (decision.run, decision.predecessor, decision.flag) == (runs, predecessor, flag)
    assert decision.reason
