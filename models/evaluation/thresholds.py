"""Thresholds of classifications: chosen on validation, never on the items that are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.evaluation.classification import binary
from models.evaluation.protocol import Case, EvaluationImpossible


@dataclass(frozen=True)
class Threshold:
    """A threshold and where it came from."""

    value: float
    source: str
    rule: str
    n: int | None = None


def choose_threshold(cases: Sequence[Case], label: str, rule: str) -> Threshold:
    """Choose on validation: ``youden`` (largest sensitivity + specificity), or ``sensitivity=0.95`` (the highest that reaches it).

    Raises
    ------
    EvaluationImpossible
        The rule is unknown, or validation lacks positives or negatives with scores.
    """
    from sklearn.metrics import roc_curve

    view = binary(cases, label, 0.0)
    truth, scores = view.truth[view.scored], view.scores[view.scored]
    if not truth.any() or truth.all():
        raise EvaluationImpossible(f"no threshold can be chosen for '{label}': the validation items are not both positive and negative")
    false_rate, true_rate, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    if rule == "youden":
        index = int(np.argmax(true_rate - false_rate))
    else:
        index = int(np.argmax(true_rate >= target_of(rule) - 1e-12))
    value = thresholds[index] if np.isfinite(thresholds[index]) else scores.max()
    return Threshold(float(value), "validation", rule, len(truth))


def target_of(rule: str) -> float:
    """The sensitivity that a rule like ``sensitivity=0.95`` asks for; EvaluationImpossible where it is no such rule."""
    name, _, number = rule.partition("=")
    try:
        target = float(number)
    except ValueError:
        target = float("nan")
    if name != "sensitivity" or not 0 < target <= 1:
        raise EvaluationImpossible(f"'{rule}' is no rule for a threshold; there are 'youden' and 'sensitivity=0.95'")
    return target
