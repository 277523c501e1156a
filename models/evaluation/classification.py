"""Figures of a classification, label by label: decisions, ranking, calibration. Values are scikit-learn's; draws use weights.

Defined so, and said in the report:

- an item without an answer, or with a score that is no number, counts as decided wrongly; it has no place in
  ROC, precision-recall and calibration, which need a number;
- an item of which nobody stated a label (or stated a value between 0 and 1) is left out for that label, and counted;
- a figure that needs both classes is not defined where one is empty.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.evaluation.bootstrap import Replicate, Statistic
from models.evaluation.protocol import Case, FloatArray, slug

Bools = NDArray[np.bool_]
Kind = Literal["multi-class", "multi-label"]
BINS = 10
PER_LABEL: Mapping[str, str] = {
    "accuracy": "share of items decided rightly",
    "balanced_accuracy": "mean of sensitivity and specificity",
    "sensitivity": "share of the positive that were found (recall)",
    "specificity": "share of the negative that were left alone",
    "precision": "share of the found that are positive (positive predictive value)",
    "f1": "harmonic mean of precision and sensitivity",
    "roc_auc": "chance that a positive item scores above a negative one",
    "pr_auc": "average precision over all thresholds",
    "brier": "mean squared distance of score and truth",
    "ece": "expected calibration error: distance of score and frequency",
}
PROPORTIONS = ("accuracy", "sensitivity", "specificity", "precision")
LOWER_IS_BETTER = ("brier", "ece")


@dataclass(frozen=True, eq=False)
class Binary:
    """One label over the items: what is known, the score (NaN: none), the decision.

    ``known`` says where the truth is stated; the others are left out of everything.
    """

    truth: Bools
    scores: FloatArray
    known: Bools
    threshold: float

    @property
    def scored(self) -> Bools:
        """Known, and with a score that is a number."""
        return self.known & np.isfinite(self.scores)

    @property
    def decided(self) -> Bools:
        """Positive where the score reaches the threshold; the wrong way where there is no score."""
        with np.errstate(invalid="ignore"):
            decided: Bools = np.where(np.isfinite(self.scores), self.scores >= self.threshold, ~self.truth)
            return decided


def binary(cases: Sequence[Case], label: str, threshold: float) -> Binary:
    """One label of the cases."""
    truth = np.array([case.truth.get(label, np.nan) for case in cases], dtype=np.float64)
    scores = np.array([case.scores.get(label, np.nan) if case.answered else np.nan for case in cases], dtype=np.float64)
    return Binary(truth == 1, scores, (truth == 0) | (truth == 1), threshold)


def kind_of(cases: Sequence[Case], labels: Sequence[str]) -> Kind:
    """Multi-class where every item has exactly one of several labels, and every label is stated."""
    full = all(set(labels) <= case.truth.keys() and sum(case.truth[label] == 1 for label in labels) == 1 for case in cases)
    return "multi-class" if len(labels) > 1 and cases and full else "multi-label"


def statistics(cases: Sequence[Case], labels: Sequence[str], thresholds: Mapping[str, float], kind: Kind) -> dict[str, Statistic]:
    """Every figure by name: ``<figure>.<label>``, ``<figure>.macro`` of several labels, and of one label also without its name.

    Several classes of which one is true: the highest score decides, and each label is judged against all others.
    """
    if kind == "multi-class":
        winner = winners(cases, labels)
        views = {label: _against_rest(binary(cases, label, 0.0), np.equal(winner, index)) for index, label in enumerate(labels)}
    else:
        views = {label: _view(binary(cases, label, thresholds[label])) for label in labels}
    found: dict[str, Statistic] = {}
    for label, view in views.items():
        found |= {f"{key}.{slug(label)}": statistic for key, statistic in _figures(view).items()}
    if kind == "multi-class":
        found = {**_overall(cases, labels), **found}
    if len(labels) > 1:
        found = {**{f"{key}.macro": _macro([found[f"{key}.{slug(label)}"] for label in labels]) for key in PER_LABEL}, **found}
    else:
        found = {**{key: found[f"{key}.{slug(labels[0])}"] for key in PER_LABEL}, **found}
    return found


def winners(cases: Sequence[Case], labels: Sequence[str]) -> NDArray[np.intp]:
    """The class of the highest score of each case; -1 where a score is missing or no number."""
    table = score_table(cases, labels)
    complete: Bools = np.asarray(np.isfinite(table).all(axis=1))
    best = np.where(complete[:, None], table, 0.0).argmax(axis=1) if len(cases) else np.empty(0, np.intp)
    return np.where(complete, best, -1)


def score_table(cases: Sequence[Case], labels: Sequence[str]) -> FloatArray:
    """(items, labels); NaN without a score."""
    rows = [[case.scores.get(label, np.nan) if case.answered else np.nan for label in labels] for case in cases]
    return np.array(rows, dtype=np.float64).reshape(len(cases), len(labels))


def true_classes(cases: Sequence[Case], labels: Sequence[str]) -> NDArray[np.intp]:
    """Of multi-class cases."""
    return np.array([next(i for i, label in enumerate(labels) if case.truth.get(label) == 1) for case in cases], dtype=np.intp)


def confusion(cases: Sequence[Case], labels: Sequence[str]) -> NDArray[np.int64]:
    """(labels, labels + 1): true class by decided class; the last column is 'no answer'."""
    from sklearn.metrics import confusion_matrix

    decided = winners(cases, labels)
    truth = true_classes(cases, labels)
    numbers = [*range(len(labels)), len(labels)]
    table: NDArray[np.int64] = confusion_matrix(truth, np.where(decided < 0, len(labels), decided), labels=numbers)
    return table[:-1]


def confusion_of(view: Binary) -> NDArray[np.int64]:
    """(2, 3): negative and positive by decided negative, decided positive, no answer."""
    truth, scored = view.truth[view.known], view.scored[view.known]
    decided = np.where(scored, view.decided[view.known].astype(int), 2)
    return np.array([[np.count_nonzero((truth == row) & (decided == column)) for column in range(3)] for row in range(2)])


@dataclass(frozen=True, eq=False)
class _View:
    """A label's columns, of known items only, and where they stand among all."""

    truth: Bools
    decided: Bools
    scores: FloatArray
    scored: Bools
    columns: NDArray[np.intp]


def _view(given: Binary) -> _View:
    columns = np.flatnonzero(given.known)
    return _View(given.truth[columns], given.decided[columns], given.scores[columns], given.scored[columns], columns)


def _against_rest(given: Binary, won: Bools) -> _View:
    columns = np.flatnonzero(given.known)
    decided: Bools = np.where(given.scored, won, ~given.truth)
    return _View(given.truth[columns], decided[columns], given.scores[columns], given.scored[columns], columns)


def _figures(view: _View) -> dict[str, Statistic]:
    draws = {**_decision_draws(view), **_score_draws(view)}
    values = {**_decision_values(view), **_score_values(view)}
    counts = {
        "sensitivity": int(view.truth.sum()),
        "specificity": int((~view.truth).sum()),
        "precision": int(view.decided.sum()),
        **dict.fromkeys(("roc_auc", "pr_auc", "brier", "ece"), int(view.scored.sum())),
    }
    return {
        key: Statistic(
            values[key],
            counts.get(key, len(view.columns)),
            _placed(draws[key], view.columns),
            key in PROPORTIONS,
            key not in LOWER_IS_BETTER,
        )
        for key in PER_LABEL
    }


def _placed(draw: Replicate, columns: NDArray[np.intp]) -> Replicate:
    return lambda weights: draw(weights[:, columns])


def _decision_values(view: _View) -> dict[str, float | None]:
    from sklearn import metrics

    truth, decided = view.truth, view.decided
    positives, negatives = bool(truth.any()), bool((~truth).any())
    both = positives and negatives
    return {
        "accuracy": float(metrics.accuracy_score(truth, decided)) if len(truth) else None,
        "balanced_accuracy": float(metrics.balanced_accuracy_score(truth, decided)) if both else None,
        "sensitivity": float(metrics.recall_score(truth, decided)) if positives else None,
        "specificity": float(metrics.recall_score(truth, decided, pos_label=False)) if negatives else None,
        "precision": float(metrics.precision_score(truth, decided)) if decided.any() else None,
        "f1": float(metrics.f1_score(truth, decided)) if positives or decided.any() else None,
    }


def _score_values(view: _View) -> dict[str, float | None]:
    from sklearn import metrics

    truth, scores = view.truth[view.scored], view.scores[view.scored]
    both = bool(truth.any()) and bool((~truth).any())
    probabilities = bool(len(scores)) and bool(((scores >= 0) & (scores <= 1)).all())
    return {
        "roc_auc": float(metrics.roc_auc_score(truth, scores)) if both else None,
        "pr_auc": float(metrics.average_precision_score(truth, scores)) if both else None,
        "brier": float(np.mean((scores - truth) ** 2)) if probabilities else None,
        "ece": expected_calibration_error(truth, scores) if probabilities else None,
    }


def expected_calibration_error(truth: Bools, scores: FloatArray, bins: int = BINS) -> float:
    """Mean distance of score and frequency over bins of equal width, by their share of items (Guo 2017)."""
    weights = np.ones((1, len(scores)))
    return float(_ece_draw(truth, scores, bins)(weights)[0])


def bin_of(scores: FloatArray, bins: int = BINS) -> NDArray[np.intp]:
    """Which of the bins (0, 1/bins], (1/bins, 2/bins], ... a score is in; 0 in the first."""
    return np.clip(np.ceil(scores * bins).astype(np.intp) - 1, 0, bins - 1)


def _decision_draws(view: _View) -> dict[str, Replicate]:
    truth, decided = view.truth, view.decided
    cells = np.stack([truth & decided, ~truth & ~decided, ~truth & decided, truth & ~decided]).astype(np.float64).T

    def counts(weights: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        table = weights @ cells
        return table[:, 0], table[:, 1], table[:, 2], table[:, 3]

    def draw(formula: Callable[..., FloatArray]) -> Replicate:
        return lambda weights: formula(*counts(weights))

    return {
        "accuracy": draw(lambda tp, tn, fp, fn: (tp + tn) / (tp + tn + fp + fn)),
        "balanced_accuracy": draw(lambda tp, tn, fp, fn: (tp / (tp + fn) + tn / (tn + fp)) / 2),
        "sensitivity": draw(lambda tp, tn, fp, fn: tp / (tp + fn)),
        "specificity": draw(lambda tp, tn, fp, fn: tn / (tn + fp)),
        "precision": draw(lambda tp, tn, fp, fn: tp / (tp + fp)),
        "f1": draw(lambda tp, tn, fp, fn: 2 * tp / (2 * tp + fp + fn)),
    }


def _score_draws(view: _View) -> dict[str, Replicate]:
    columns = np.flatnonzero(view.scored)
    truth, scores = view.truth[columns], view.scores[columns]
    squared = (scores - truth) ** 2
    draws: dict[str, Replicate] = {
        "roc_auc": _auc_draw(truth, scores),
        "pr_auc": _average_precision_draw(truth, scores),
        "brier": lambda weights: (weights @ squared) / weights.sum(axis=1),
        "ece": _ece_draw(truth, scores, BINS),
    }
    return {key: _placed(draw, columns) for key, draw in draws.items()}


def _auc_draw(truth: Bools, scores: FloatArray) -> Replicate:
    """Mann-Whitney: positives' weight times the negatives' weight below, ties half."""
    order, last = _descending(scores)

    def draw(weights: FloatArray) -> FloatArray:
        positive, negative = _at_thresholds(weights, truth, order, last)
        width = np.diff(negative, axis=1, prepend=0)
        height = (positive + np.concatenate([np.zeros((len(weights), 1)), positive[:, :-1]], axis=1)) / 2
        area: FloatArray = (width * height).sum(axis=1)
        return area / (positive[:, -1] * negative[:, -1])

    return draw


def _average_precision_draw(truth: Bools, scores: FloatArray) -> Replicate:
    order, last = _descending(scores)

    def draw(weights: FloatArray) -> FloatArray:
        positive, negative = _at_thresholds(weights, truth, order, last)
        precision = positive / np.maximum(positive + negative, 1e-300)
        area: FloatArray = (np.diff(positive, axis=1, prepend=0) * precision).sum(axis=1)
        return area / positive[:, -1]

    return draw


def _descending(scores: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order from the highest score down, and the last place of each run of equal scores."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    return order, np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1) if len(ordered) else np.empty(0, np.intp)


def _at_thresholds(weights: FloatArray, truth: Bools, order: NDArray[np.intp], last: NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
    """Weight of positives and of negatives at or above each distinct score: (draws, scores)."""
    if not len(last):
        nothing = np.full((len(weights), 1), np.nan)
        return nothing, nothing
    sorted_weights, positive = weights[:, order], truth[order]
    return np.cumsum(sorted_weights * positive, axis=1)[:, last], np.cumsum(sorted_weights * ~positive, axis=1)[:, last]


def _ece_draw(truth: Bools, scores: FloatArray, bins: int) -> Replicate:
    apart = np.zeros((len(scores), bins))
    if len(scores):
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            apart[np.arange(len(scores)), bin_of(scores, bins)] = scores - truth
    return lambda weights: np.abs(weights @ apart).sum(axis=1) / weights.sum(axis=1)


def _overall(cases: Sequence[Case], labels: Sequence[str]) -> dict[str, Statistic]:
    from sklearn import metrics

    truth, decided = true_classes(cases, labels), winners(cases, labels)
    right = (truth == decided).astype(np.float64)
    each = np.stack([(truth == index).astype(np.float64) for index in range(len(labels))], axis=1)

    def balanced(weights: FloatArray) -> FloatArray:
        recalls = ((weights * right) @ each) / (weights @ each)
        return np.nanmean(recalls, axis=1) if recalls.size else np.full(len(weights), np.nan)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        value = float(metrics.balanced_accuracy_score(truth, decided))
    return {
        "accuracy": Statistic(float(metrics.accuracy_score(truth, decided)), len(cases), lambda w: (w @ right) / w.sum(axis=1), True),
        "balanced_accuracy": Statistic(value, len(cases), balanced),
    }


def _macro(parts: Sequence[Statistic]) -> Statistic:
    """The mean over the labels for which the figure is defined."""
    defined = [part for part in parts if part.value is not None]
    if not defined:
        return Statistic(None, 0, lambda weights: np.full(len(weights), np.nan))
    value = sum(part.value for part in defined if part.value is not None) / len(defined)

    def draw(weights: FloatArray) -> FloatArray:
        stacked = np.stack([part.replicate(weights) for part in defined])
        held = np.isfinite(stacked).sum(axis=0)
        average: FloatArray = np.nansum(stacked, axis=0) / np.where(held, held, np.nan)
        return average

    return Statistic(value, max(part.n for part in defined), draw, higher_is_better=defined[0].higher_is_better)


def curves(view: Binary) -> dict[str, Any] | None:
    """ROC and precision-recall points of a label, and the calibration bins; None where a class is empty."""
    from sklearn import metrics

    truth, scores = view.truth[view.scored], view.scores[view.scored]
    if not truth.any() or truth.all():
        return None
    false_rate, true_rate, _ = metrics.roc_curve(truth, scores)
    precision, recall, _ = metrics.precision_recall_curve(truth, scores)
    return {"roc": (false_rate, true_rate), "pr": (recall, precision), "calibration": calibration_bins(truth, scores)}


def calibration_bins(truth: Bools, scores: FloatArray, bins: int = BINS) -> list[tuple[float, float, int]]:
    """(mean score, share of positives, items) of each bin that has items; none where scores are no probabilities."""
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return []
    which = bin_of(scores, bins)
    held = [which == index for index in range(bins)]
    return [(float(scores[each].mean()), float(truth[each].mean()), int(each.sum())) for each in held if each.any()]
