"""Figures of classifications: scikit-learn's, agreed with torchmetrics; draws by weights agree with weighted scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics
from torchmetrics.functional import classification as reference

from models.evaluation import classification
from models.evaluation.classification import binary, statistics
from models.evaluation.protocol import Case, EvaluationImpossible
from models.evaluation.thresholds import choose_threshold

N = 300


def made(seed: int = 0, n: int = N) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    return truth, np.round(1 / (1 + np.exp(-(rng.normal(size=n) + 2 * truth - 1))), 2)  # rounded: there are ties


def cases_of(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> list[Case]:
    return [
        Case(str(i), str(i // 2), truth={"TB": float(t)}, scores={"TB": float(s)})
        for i, (t, s) in enumerate(zip(truth, scores, strict=True))
    ]


def test_one_label_agrees_with_torchmetrics() -> None:
    truth, scores = made()
    found = statistics(cases_of(truth, scores), ["TB"], {"TB": 0.4}, "multi-label")
    p, t = torch.tensor(scores), torch.tensor(truth.astype(int))
    expected = {
        "accuracy": reference.binary_accuracy(p, t, 0.4 - 1e-9),
        "sensitivity": reference.binary_recall(p, t, 0.4 - 1e-9),
        "specificity": reference.binary_specificity(p, t, 0.4 - 1e-9),
        "precision": reference.binary_precision(p, t, 0.4 - 1e-9),
        "f1": reference.binary_f1_score(p, t, 0.4 - 1e-9),
        "roc_auc": reference.binary_auroc(p, t),
        "pr_auc": reference.binary_average_precision(p, t),
        "brier": torch.mean((p - t) ** 2),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(float(value), abs=1e-5), name
        assert found[f"{name}.tb"] is found[name]
    assert found["balanced_accuracy"].value == pytest.approx(float(expected["sensitivity"] + expected["specificity"]) / 2, abs=1e-5)


def test_calibration_error_agrees_with_torchmetrics() -> None:
    truth, scores = made(1)
    scores = scores + 0.001  # off the borders of bins, which the two treat differently
    scores = np.clip(scores, 0.001, 0.999)
    # torchmetrics takes the score of the decided class; over all of these the decision is 'positive'.
    upper = scores > 0.5
    value = reference.binary_calibration_error(torch.tensor(scores[upper]), torch.tensor(truth[upper].astype(int)), n_bins=10)
    assert classification.expected_calibration_error(truth[upper], scores[upper]) == pytest.approx(float(value), abs=1e-5)


def test_draws_agree_with_weighted_scikit_learn() -> None:
    truth, scores = made(2)
    weights = np.random.default_rng(5).integers(0, 4, size=(3, N)).astype(float)
    found = statistics(cases_of(truth, scores), ["TB"], {"TB": 0.4}, "multi-label")
    decided = scores >= 0.4
    for row, weight in enumerate(weights):
        expected = {
            "accuracy": metrics.accuracy_score(truth, decided, sample_weight=weight),
            "balanced_accuracy": metrics.balanced_accuracy_score(truth, decided, sample_weight=weight),
            "sensitivity": metrics.recall_score(truth, decided, sample_weight=weight),
            "specificity": metrics.recall_score(truth, decided, pos_label=False, sample_weight=weight),
            "precision": metrics.precision_score(truth, decided, sample_weight=weight),
            "f1": metrics.f1_score(truth, decided, sample_weight=weight),
            "roc_auc": metrics.roc_auc_score(truth, scores, sample_weight=weight),
            "pr_auc": metrics.average_precision_score(truth, scores, sample_weight=weight),
            "brier": metrics.brier_score_loss(truth, scores, sample_weight=weight),
        }
        for name, value in expected.items():
            assert found[name].replicate(weights)[row] == pytest.approx(value), name
    for name, statistic in found.items():
        assert statistic.replicate(np.ones((1, N)))[0] == pytest.approx(statistic.value), name


def test_several_classes_agree_with_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    labels = ["Bacterial", "Viral", "Normal"]
    truth = rng.integers(3, size=N)
    raw = np.exp(rng.normal(size=(N, 3)) + 1.5 * np.eye(3)[truth])
    scores = raw / raw.sum(axis=1, keepdims=True)
    cases = [
        Case(
            str(i), str(i), truth={name: float(truth[i] == k) for k, name in enumerate(labels)}, scores=dict(zip(labels, row, strict=True))
        )
        for i, row in enumerate(scores.tolist())
    ]
    assert classification.kind_of(cases, labels) == "multi-class"
    found = statistics(cases, labels, {}, "multi-class")
    p, t = torch.tensor(scores), torch.tensor(truth)
    assert found["accuracy"].value == pytest.approx(float(reference.multiclass_accuracy(p, t, 3, average="micro")))
    assert found["balanced_accuracy"].value == pytest.approx(float(reference.multiclass_accuracy(p, t, 3, average="macro")))
    assert found["f1.macro"].value == pytest.approx(float(reference.multiclass_f1_score(p, t, 3, average="macro")))
    assert found["precision.macro"].value == pytest.approx(float(reference.multiclass_precision(p, t, 3, average="macro")))
    assert found["roc_auc.macro"].value == pytest.approx(float(reference.multiclass_auroc(p, t, 3, average="macro")), abs=1e-6)
    assert found["pr_auc.macro"].value == pytest.approx(float(reference.multiclass_average_precision(p, t, 3, average="macro")), abs=1e-6)
    table = classification.confusion(cases, labels)
    assert table[:, :3].tolist() == reference.multiclass_confusion_matrix(p, t, 3).tolist()
    assert table[:, 3].tolist() == [0, 0, 0]
    for name, statistic in found.items():
        assert statistic.replicate(np.ones((1, N)))[0] == pytest.approx(statistic.value), name


def test_nothing_is_dropped_silently() -> None:
    """No answer and a score that is no number count as decided wrongly; an unstated label is left out."""
    cases = [
        Case("a", "1", truth={"TB": 1}, scores={"TB": 0.9}),
        Case("b", "2", truth={"TB": 0}, scores={"TB": 0.1}),
        Case("c", "3", truth={"TB": 1}, scores={"TB": math.nan}),
        Case("d", "4", truth={"TB": 0}, reason="The images are blank."),
        Case("e", "5", truth={}, scores={"TB": 0.5}),
        Case("f", "6", truth={"TB": 0.5}, scores={"TB": 0.5}),
    ]
    found = statistics(cases, ["TB"], {"TB": 0.5}, "multi-label")
    assert (found["accuracy"].value, found["accuracy"].n) == (0.5, 4)
    assert (found["sensitivity"].value, found["specificity"].value) == (0.5, 0.5)
    assert (found["roc_auc"].value, found["roc_auc"].n) == (1.0, 2)
    view = binary(cases, "TB", 0.5)
    assert classification.confusion_of(view).tolist() == [[1, 0, 1], [0, 1, 1]]


def test_a_class_that_is_empty_leaves_its_figures_undefined() -> None:
    cases = cases_of(np.zeros(5, bool), np.linspace(0, 0.4, 5))
    found = statistics(cases, ["TB"], {"TB": 0.5}, "multi-label")
    assert {
        name for name in ("sensitivity", "precision", "f1", "balanced_accuracy", "roc_auc", "pr_auc") if found[name].value is not None
    } == set()
    assert (found["specificity"].value, found["accuracy"].value) == (1.0, 1.0)
    assert classification.curves(binary(cases, "TB", 0.5)) is None


def test_scores_that_are_no_probabilities_have_no_calibration() -> None:
    truth, scores = made()
    found = statistics(cases_of(truth, scores * 10), ["TB"], {"TB": 4}, "multi-label")
    assert found["brier"].value is None
    assert found["ece"].value is None
    assert found["roc_auc"].value is not None


def test_a_threshold_is_youdens_or_the_highest_that_reaches_a_sensitivity() -> None:
    truth, scores = made(3)
    cases = cases_of(truth, scores)
    chosen = choose_threshold(cases, "TB", "youden")
    values = {t: (truth & (scores >= t)).sum() / truth.sum() - (~truth & (scores >= t)).sum() / (~truth).sum() for t in np.unique(scores)}
    assert values[chosen.value] == pytest.approx(max(values.values()))
    assert (chosen.source, chosen.n) == ("validation", N)
    target = choose_threshold(cases, "TB", "sensitivity=0.9").value
    reached = [t for t in np.unique(scores) if (truth & (scores >= t)).sum() / truth.sum() >= 0.9]
    assert target == max(reached)
    with pytest.raises(EvaluationImpossible, match="no rule"):
        choose_threshold(cases, "TB", "best")
    with pytest.raises(EvaluationImpossible, match="not both"):
        choose_threshold([case for case in cases if case.truth["TB"]], "TB", "youden")
