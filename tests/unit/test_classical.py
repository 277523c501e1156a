"""Classical models on features: fitted, chosen and judged on parts of their own."""

from __future__ import annotations

import numpy as np
import pytest

from models.features.classical import Baseline, BaselineImpossible, Table, fit_baseline

NAMES = ("signal", "noise", "constant", "sometimes")


def table(items: int = 120, *, seed: int = 1, learnable: bool = True) -> Table:
    """A label that follows the first feature, and three features that say nothing."""
    chance = np.random.default_rng(seed)
    truth = np.arange(items) % 2
    values = chance.normal(size=(items, len(NAMES)))
    values[:, 0] += 3.0 * truth if learnable else 0.0
    values[:, 2] = 7.0
    values[::3, 3] = np.nan
    ids = tuple(str(number) for number in range(items))
    return Table(ids, tuple(f"s{number}" for number in range(items)), NAMES, values, tuple({"ill": float(each)} for each in truth))


def parts(items: int = 120) -> dict[str, str]:
    return {
        str(number): ("train" if number < items // 2 else "validation" if number < 3 * items // 4 else "test") for number in range(items)
    }


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return fit_baseline(table(), parts(), replicates=200)


def test_what_can_be_learnt_is_learnt_and_judged_on_the_test_part(baseline: Baseline) -> None:
    assert baseline.counts == {"train": 60, "validation": 30, "test": 30}
    area = baseline.figures["roc_auc"]
    assert area.value is not None
    assert area.low is not None
    assert area.low <= area.value
    assert area.value > 0.95
    assert area.n == 30
    assert {case.id for case in baseline.cases} == {str(number) for number in range(90, 120)}


def test_all_kinds_are_tried_and_the_best_on_validation_is_taken(baseline: Baseline) -> None:
    assert {each.kind for each in baseline.tried} == {"logistic regression", "random forest", "gradient boosting"}
    best = max(baseline.tried, key=lambda each: each.roc_auc)
    assert (baseline.kind, baseline.settings) == (best.kind, best.settings)
    assert baseline.thresholds["ill"].source == "validation"


def test_a_feature_that_never_varies_is_left_out(baseline: Baseline) -> None:
    assert baseline.features == ("signal", "noise", "sometimes")


def test_the_test_part_chooses_nothing(baseline: Baseline) -> None:
    other = table()
    turned = tuple({"ill": 1 - truth["ill"]} if number >= 90 else truth for number, truth in enumerate(other.truth))
    again = fit_baseline(Table(other.ids, other.subjects, other.features, other.values, turned), parts(), replicates=10)
    assert (again.kind, again.settings, again.thresholds) == (baseline.kind, baseline.settings, baseline.thresholds)
    assert [case.scores for case in again.cases] == [case.scores for case in baseline.cases]


def test_of_noise_nothing_is_learnt() -> None:
    area = fit_baseline(table(240, learnable=False), parts(240), replicates=200).figures["roc_auc"]
    assert area.low is not None
    assert area.high is not None
    assert area.low < 0.5 + 0.15
    assert area.high > 0.5 - 0.15
    assert area.value == pytest.approx(0.5, abs=0.2)


def test_what_cannot_be_fitted_is_refused_with_the_reason() -> None:
    good = table()
    with pytest.raises(BaselineImpossible, match="part 'test' has no item"):
        fit_baseline(good, {name: part for name, part in parts().items() if part != "test"})
    with pytest.raises(BaselineImpossible, match="both in 'train' and in 'test'"):
        fit_baseline(Table(good.ids, ("s0", *good.subjects[1:-1], "s0"), NAMES, good.values, good.truth), parts())
    with pytest.raises(BaselineImpossible, match="not both present and absent in the part 'train'"):
        fit_baseline(Table(good.ids, good.subjects, NAMES, good.values, ({"ill": 0.0},) * 120), parts())
    with pytest.raises(BaselineImpossible, match="values other than 0 and 1"):
        fit_baseline(Table(good.ids, good.subjects, NAMES, good.values, ({"ill": 0.5}, *good.truth[1:])), parts())
    with pytest.raises(BaselineImpossible, match="no feature varies"):
        fit_baseline(Table(good.ids, good.subjects, NAMES, np.ones_like(good.values), good.truth), parts())
    with pytest.raises(BaselineImpossible, match="no labels"):
        fit_baseline(Table(good.ids, good.subjects, NAMES, good.values, ({},) * 120), parts())
