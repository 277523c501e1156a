"""A classical model on features beside a deep one: what the deep model has to beat, on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from models.datasets.protocol import Task
from models.evaluation.protocol import Case, EvaluationImpossible
from models.features.classical import Baseline, Table, fit_baseline

#: Of the candidates only the cases are used here: figures and intervals are those of the evaluation, so one draw is enough.
ONE_DRAW = 1


def fitted(table: Table, task: Task, classes: Sequence[str], splits: Mapping[str, str] | None, split: str, seed: int) -> Baseline:
    """The best classical model for these classes: fitted on train, chosen on validation.

    Raises
    ------
    EvaluationImpossible
        Another task than classification, or not the test part of given splits.
    BaselineImpossible
    """
    if task != "classification":
        raise EvaluationImpossible(f"a baseline of features classifies; there is none for {task}")
    if splits is None or split != "test":
        raise EvaluationImpossible("a baseline of features is fitted on train and chosen on validation: it wants splits, and the test part")
    return fit_baseline(table, splits, classes, seed=seed, replicates=ONE_DRAW)


def answers(baseline: Baseline, cases: Sequence[Case]) -> tuple[Case, ...]:
    """The baseline's scores for the cases of another model, item by item; an item without features has no answer."""
    scores = {case.id: case.scores for case in baseline.cases}
    return tuple(
        replace(case, scores=scores[case.id], reason=None)
        if case.id in scores
        else replace(case, scores={}, reason="the table of features has no row of it")
        for case in cases
    )


def name_of(baseline: Baseline) -> str:
    """How a report calls it: ``random forest (n_estimators 300, min_samples_leaf 5) on features``."""
    settings = ", ".join(f"{key} {value:g}" for key, value in baseline.settings.items())
    return f"{baseline.kind} ({settings}) on {len(baseline.features)} features"
