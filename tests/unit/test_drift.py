"""The distances between training data and what arrives, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from dicom_node.releases.drift import ABSENT, FINGERPRINT, Training, compare, ks_distance, read_training, tv_distance
from models.errors import BundleInvalid


def deciles(values: Any) -> tuple[float, ...]:
    return tuple(float(each) for each in np.percentile(values, range(0, 101, 10)))


def training(values: Any, **words: dict[str, int]) -> Training:
    content = {
        "schema": 1, "items": len(values), "unreadable": 0, "words": words,
        "numbers": {"mean": {"count": len(values), "mean": 0, "std": 0, "deciles": deciles(values)}},
    }  # fmt: skip
    return Training.model_validate(content)


def inputs(values: Any, **words: str) -> list[dict[str, Any]]:
    return [{"numbers": {"mean": float(value)}, "words": words} for value in values]


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 5.0])
def test_the_distance_of_numbers_is_that_of_kolmogorov_and_smirnov_at_the_deciles(shift: float) -> None:
    random = np.random.default_rng(1)
    before, after = random.normal(size=2000), random.normal(size=500) + shift
    exact = float(ks_2samp(before, after).statistic)
    assert ks_distance(deciles(before), after) == pytest.approx(exact, abs=0.1)
    assert ks_distance(deciles(before), after) <= exact + 0.01


def test_what_never_varied_has_no_distance_from_itself_and_all_from_anything_else() -> None:
    constant = deciles([1.5] * 40)
    assert ks_distance(constant, [1.5] * 7) == 0.0
    assert ks_distance(constant, [1.5] * 3 + [1.6] * 3) == pytest.approx(0.5)
    assert ks_distance(constant, [0.1]) == 1.0
    two = deciles([1.0] * 60 + [2.0] * 40)
    assert ks_distance(two, [1.0] * 6 + [2.0] * 4) <= 0.1
    assert ks_distance(two, [2.0] * 10) == pytest.approx(0.6, abs=0.1)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_a_distance_lies_between_nothing_and_one(before: list[float], after: list[float]) -> None:
    assert 0.0 <= ks_distance(deciles(before), after) <= 1.0
    assert ks_distance(deciles(before), before) <= 0.1 + 1 / len(before)


def test_the_distance_of_words_is_the_share_that_would_have_to_change() -> None:
    assert tv_distance({"A": 3, "B": 1}, {"A": 6, "B": 2}) == 0.0
    assert tv_distance({"A": 3, "B": 1}, {"A": 1, "B": 3}) == pytest.approx(0.5)
    assert tv_distance({"A": 3}, {"C": 9}) == 1.0
    assert tv_distance({}, {"C": 9}) == tv_distance({"A": 3}, {}) == 0.0


def test_a_feature_has_drifted_beyond_the_limit_and_beyond_chance() -> None:
    random = np.random.default_rng(2)
    known = training(random.normal(size=400), manufacturer={"Acme": 300})
    same = compare(known, inputs(random.normal(size=100), manufacturer="Acme"), limit=0.3)
    assert not any(each["drifted"] for each in same.values())
    assert same["manufacturer"]["distance"] == pytest.approx(0.25), "a quarter of the training images name none"
    other = compare(known, inputs(random.normal(size=100) + 3, manufacturer="Other"), limit=0.3)
    assert {name: each["drifted"] for name, each in other.items()} == {"mean": True, "manufacturer": True}
    few = compare(known, inputs(random.normal(size=5) + 1), limit=0.3)
    assert few["mean"]["distance"] > 0.3
    assert not few["mean"]["drifted"], "five images prove nothing"
    assert compare(known, inputs([9.0] * 50), limit=0.3, ignore=["m*"]) == {}
    assert compare(known, [], limit=0.3) == {}
    assert compare(known, [{"numbers": {"other": 1.0}}], limit=0.3)["manufacturer"]["kind"] == "tv"


def test_false_alarms_are_rare() -> None:
    random = np.random.default_rng(3)
    known = training(random.gamma(2.0, size=150))
    alarms = sum(compare(known, inputs(random.gamma(2.0, size=20)), limit=0.1)["mean"]["drifted"] for _ in range(500))
    assert alarms <= 2


def test_words_that_training_never_saw_absent_count_as_absent() -> None:
    known = training([1.0] * 10, view={"PA": 10})
    seen = compare(known, inputs([1.0] * 60), limit=0.3)["view"]
    assert (seen["distance"], seen["drifted"]) == (1.0, True)
    assert seen["limit"] > 0.7, "ten training images are few"
    assert ABSENT not in known.words["view"]


FEW_DECILES = json.dumps({"schema": 1, "items": 1, "numbers": {"a": {"count": 1, "deciles": [1]}}})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2}', FEW_DECILES])
def test_a_broken_fingerprint_is_told(tmp_path: Path, content: str) -> None:
    assert read_training(tmp_path) is None
    (tmp_path / FINGERPRINT).write_text(content)
    with pytest.raises(BundleInvalid, match="no fingerprint"):
        read_training(tmp_path)
