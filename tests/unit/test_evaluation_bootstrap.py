"""Intervals: by subject, seeded, covering what they say, and absent where there is nothing to say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from models.evaluation.bootstrap import Resamples, Statistic, difference, figure, mean, wilson
from models.evaluation.protocol import Case
from models.evaluation.subgroups import NOT_STATED, group_figures, groups_of, widest_gap


def test_the_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).normal(0.9, 0.05, 80)
    found = figure(mean(values.tolist()), Resamples([str(i) for i in range(80)], 9999))
    theirs = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.0015)
    assert found.high == pytest.approx(theirs.high, abs=0.0015)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        found = figure(mean(rng.normal(0.5, 1, 60).tolist()), Resamples([str(i) for i in range(60)], 400))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.5 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_items_of_one_subject_count_together_and_the_seed_decides() -> None:
    values = np.repeat(np.random.default_rng(0).random(20), 10).tolist()
    subjects = [str(i // 10) for i in range(200)]
    clustered, single = figure(mean(values), Resamples(subjects)), figure(mean(values), Resamples([str(i) for i in range(200)]))
    assert clustered.low is not None
    assert clustered.high is not None
    assert single.low is not None
    assert single.high is not None
    assert clustered.high - clustered.low > 2 * (single.high - single.low)
    assert clustered == figure(mean(values), Resamples(subjects))
    assert clustered != figure(mean(values), Resamples(subjects, seed=1))


def test_large_data_is_drawn_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50).tolist()
    whole = figure(mean(values), Resamples([str(i) for i in range(50)], 200))
    monkeypatch.setattr("models.evaluation.bootstrap.MOST_CELLS", 50 * 7)
    blocks = figure(mean(values), Resamples([str(i) for i in range(50)], 200))
    assert (blocks.low, blocks.high) == pytest.approx((whole.low, whole.high))


def test_one_subject_and_what_is_not_defined_have_no_interval() -> None:
    one = figure(mean([0.5, 0.7]), Resamples(["a", "a"]))
    assert (one.value, one.low, one.method) == (pytest.approx(0.6), None, "none")
    nothing = figure(mean([None, None]), Resamples(["a", "b"]))
    assert (nothing.value, nothing.low, nothing.n) == (None, None, 0)


def test_a_share_of_all_has_wilsons_interval() -> None:
    found = figure(mean([1.0] * 30, proportion=True), Resamples([str(i) for i in range(30)]))
    expected = binomtest(30, 30).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.method == "wilson"
    assert wilson(0.2, 50) == pytest.approx(tuple(binomtest(10, 50).proportion_ci(method="wilson")))


def test_paired_differences_are_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0.8, 0.1, 40)
    first, second = mean((hard + 0.01).tolist()), mean((hard + rng.normal(0, 0.002, 40)).tolist())
    apart = difference(first, second, Resamples([str(i) for i in range(40)]))
    assert apart.low is not None
    assert apart.low > 0
    assert apart.value == pytest.approx(0.01, abs=0.002)


def attributed() -> list[Case]:
    rng = np.random.default_rng(0)
    cases = []
    for i in range(60):
        site = "A" if i < 30 else "B" if i < 55 else "C"
        value = 0.9 + rng.normal(0, 0.01) - (0.1 if site == "B" else 0.0)
        attributes: dict[str, str | float] = {"site": site, "age": float(i), "split": "test", "only": "x", "serial": str(i)}
        if i % 7:
            attributes["sex"] = "F" if i % 2 else "M"
        cases.append(Case(str(i), str(i), attributes=attributes, values={"dice.a": value}))
    return cases


def figures(cases: list[Case] | tuple[Case, ...]) -> dict[str, Statistic]:
    return {"dice.a": mean([case.values["dice.a"] for case in cases])}


def test_groups_are_banded_named_and_flagged_and_nobody_is_lost() -> None:
    cases = attributed()
    groups = groups_of(cases)
    assert set(groups) == {"site", "age band", "sex"}
    assert list(groups["age band"]) == ["00 to 17", "18 to 39", "40 to 59"]
    assert len(groups["sex"][NOT_STATED]) == 9
    assert all(sum(len(places) for places in parts.values()) == 60 for parts in groups.values())
    resamples = Resamples([case.subject for case in cases])
    found = group_figures(cases, groups["site"], lambda part: figures(tuple(part)), resamples, ["dice.a"])
    assert [found[name].small for name in "ABC"] == [False, False, True]
    assert found["A"].figures["dice.a"].value == pytest.approx(np.mean([case.values["dice.a"] or 0 for case in cases[:30]]))


def test_the_widest_gap_leaves_small_groups_out() -> None:
    cases = attributed()
    gap = widest_gap(
        cases, groups_of(cases)["site"], lambda part: figures(tuple(part)), Resamples([case.subject for case in cases]), "dice.a"
    )
    assert gap is not None
    assert (gap.better, gap.worse, gap.pairs, gap.clear) == ("A", "B", 1, True)
    assert gap.difference.value == pytest.approx(0.1, abs=0.01)
