"""Classical models on features: the baseline that a deep model has to beat.

Logistic regression, random forest and gradient boosting (scikit-learn) are fitted on the training part; which of
them, and with which settings, is chosen on validation; the test part is judged once, by the figures of
:mod:`models.evaluation.classification`. Nothing that is fitted here is ever kept: bundles hold no pickles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.evaluation import classification
from models.evaluation.bootstrap import REPLICATES, Figure, Resamples, figure
from models.evaluation.protocol import Case, EvaluationImpossible
from models.evaluation.thresholds import Threshold, choose_threshold
from models.features.table import feature_names

if TYPE_CHECKING:
    import pyarrow

FloatArray = NDArray[np.float64]
PARTS = ("train", "validation", "test")
#: Settings tried of each kind, few enough that validation is not worn out by choosing.
CANDIDATES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "logistic regression": [{"C": value} for value in (0.01, 0.1, 1.0, 10.0)],
    "random forest": [{"n_estimators": 300, "min_samples_leaf": value} for value in (1, 5)],
    "gradient boosting": [{"learning_rate": 0.1, "max_leaf_nodes": 15, "max_iter": value} for value in (50, 150)],
}


class BaselineImpossible(ModelError):
    """No baseline can be fitted; the sentence says why."""


@dataclass(frozen=True, eq=False)
class Table:
    """Items with features and labels.

    Parameters
    ----------
    values
        (items, features); NaN where a feature is not defined for an item.
    truth
        By item: label to 0 or 1; a label that nobody stated is missing.
    """

    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    features: tuple[str, ...]
    values: FloatArray
    truth: tuple[Mapping[str, float], ...]
    attributes: tuple[Mapping[str, str | float], ...] = ()


@dataclass(frozen=True)
class Tried:
    """A candidate and its area below the ROC curve on validation, mean over the labels."""

    kind: str
    settings: Mapping[str, Any]
    roc_auc: float


@dataclass(frozen=True)
class Baseline:
    """The best classical model, and how it does on the test part.

    Parameters
    ----------
    figures
        Of the test part by the names that deep models are judged by (``roc_auc``, ``accuracy.<label>``, ...), with intervals.
    thresholds
        By label: chosen on validation (Youden).
    cases
        Of the test part, with scores: to be compared with a deep model's on the same items.
    """

    kind: str
    settings: Mapping[str, Any]
    tried: tuple[Tried, ...]
    labels: tuple[str, ...]
    features: tuple[str, ...]
    counts: Mapping[str, int]
    figures: Mapping[str, Figure]
    thresholds: Mapping[str, Threshold]
    cases: tuple[Case, ...] = field(repr=False)


def from_features(table: pyarrow.Table) -> Table:
    """Items of a table of :func:`models.features.table.feature_table`; several structures of an item stand side by side."""
    rows = table.to_pylist()
    names = feature_names(table.column_names)
    structures = list(dict.fromkeys(row["structure"] for row in rows))
    columns = [(structure, name) for structure in structures for name in names]
    items: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        items.setdefault(row["id"], {})[row["structure"]] = row
    first = [next(iter(parts.values())) for parts in items.values()]
    values = [[parts.get(structure, {}).get(name) for structure, name in columns] for parts in items.values()]
    return Table(
        ids=tuple(items),
        subjects=tuple(str(row["subject"]) for row in first),
        features=tuple(f"{structure}.{name}" if len(structures) > 1 else name for structure, name in columns),
        values=np.array(values, dtype=np.float64).reshape(len(items), len(columns)),
        truth=tuple(_prefixed(row, "label.") for row in first),
        attributes=tuple(_prefixed(row, "attribute.") for row in first),
    )


def fit_baseline(
    table: Table, splits: Mapping[str, str], labels: Sequence[str] | None = None, *, seed: int = 0, replicates: int = REPLICATES
) -> Baseline:
    """Fit on train, choose on validation, judge on test.

    Parameters
    ----------
    splits
        Item to ``train``, ``validation`` or ``test``; items without a part are left out.
    labels
        All that the table knows, by default. Each is learnt by itself, as present or absent.

    Raises
    ------
    BaselineImpossible
        A part is empty, a subject is in two, a label has not both values in train and validation, or nothing varies.
    """
    labels = tuple(labels or dict.fromkeys(label for truth in table.truth for label in truth))
    if not labels:
        raise BaselineImpossible("the table has no labels to learn")
    parts = _parts(table, splits)
    chosen = _varying(table.values[parts["train"]])
    values = np.where(np.isfinite(table.values), table.values, np.nan)[:, chosen]
    known = {label: np.array([truth.get(label, np.nan) for truth in table.truth]) for label in labels}
    _check(known, parts)
    tried, best = [], None
    for kind, settings in _candidates():
        models = {label: _fit(kind, settings, values, known[label], parts["train"], seed) for label in labels}
        auc = float(np.mean([_auc(models[label], values, known[label], parts["validation"]) for label in labels]))
        tried.append(Tried(kind, settings, auc))
        if best is None or auc > best[0].roc_auc + 1e-9:
            best = tried[-1], models
    assert best is not None
    winner, models = best
    scores = {label: _probabilities(model, values) for label, model in models.items()}
    validation, test = (_cases(table, parts[part], scores) for part in ("validation", "test"))
    try:
        thresholds = {label: choose_threshold(validation, label, "youden") for label in labels}
    except EvaluationImpossible as error:
        raise BaselineImpossible(str(error)) from error
    kind_of_task = classification.kind_of(test, labels)
    known_figures = classification.statistics(test, labels, {label: each.value for label, each in thresholds.items()}, kind_of_task)
    resamples = Resamples([case.subject for case in test], replicates, seed)
    return Baseline(
        kind=winner.kind,
        settings=dict(winner.settings),
        tried=tuple(tried),
        labels=labels,
        features=tuple(name for name, kept in zip(table.features, chosen, strict=True) if kept),
        counts={part: len(rows) for part, rows in parts.items()},
        figures={name: figure(each, resamples) for name, each in known_figures.items()},
        thresholds=thresholds,
        cases=test,
    )


def _candidates() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for kind, settings in CANDIDATES.items():
        for each in settings:
            yield kind, each


def _prefixed(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix) and value is not None}


def _parts(table: Table, splits: Mapping[str, str]) -> dict[str, NDArray[np.intp]]:
    parts = {part: np.array([n for n, each in enumerate(table.ids) if splits.get(each) == part], dtype=np.intp) for part in PARTS}
    for part, rows in parts.items():
        if not len(rows):
            raise BaselineImpossible(f"the part '{part}' has no item in the table")
    seen: dict[str, str] = {}
    for part, rows in parts.items():
        for row in rows:
            if seen.setdefault(table.subjects[row], part) != part:
                raise BaselineImpossible(f"a subject is both in '{seen[table.subjects[row]]}' and in '{part}' (item {table.ids[row]})")
    return parts


def _varying(train: FloatArray) -> NDArray[np.bool_]:
    """Features that most training items have, and that are not the same in all of them."""
    held = np.isfinite(train)
    filled = np.where(held, train, np.nan)
    often = held.mean(axis=0) > 0.5
    spread = np.zeros(train.shape[1])
    spread[often] = np.nanmax(filled[:, often], axis=0) - np.nanmin(filled[:, often], axis=0)
    varying: NDArray[np.bool_] = spread > 0
    if not varying.any():
        raise BaselineImpossible("no feature varies over the training items")
    return varying


def _check(known: Mapping[str, FloatArray], parts: Mapping[str, NDArray[np.intp]]) -> None:
    for label, truth in known.items():
        for part in ("train", "validation"):
            stated = set(truth[parts[part]][np.isfinite(truth[parts[part]])].tolist())
            if stated - {0.0, 1.0}:
                raise BaselineImpossible(f"the label '{label}' has values other than 0 and 1")
            if len(stated) < 2:
                raise BaselineImpossible(f"the label '{label}' is not both present and absent in the part '{part}'")


def _fit(kind: str, settings: Mapping[str, Any], values: FloatArray, truth: FloatArray, rows: NDArray[np.intp], seed: int) -> Any:
    rows = rows[np.isfinite(truth[rows])]
    return _model(kind, settings, seed).fit(values[rows], truth[rows] == 1)


def _model(kind: str, settings: Mapping[str, Any], seed: int) -> Any:
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise BaselineImpossible("classical models need scikit-learn: pip install 'dicom-node[training]'") from error
    if kind == "gradient boosting":
        return HistGradientBoostingClassifier(early_stopping=False, class_weight="balanced", random_state=seed, **settings)
    if kind == "random forest":
        return make_pipeline(
            SimpleImputer(strategy="median"), RandomForestClassifier(class_weight="balanced", random_state=seed, **settings)
        )
    regression = LogisticRegression(class_weight="balanced", max_iter=2000, random_state=seed, **settings)
    return make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), regression)


def _probabilities(model: Any, values: FloatArray) -> FloatArray:
    return np.asarray(model.predict_proba(values)[:, 1], dtype=np.float64)


def _auc(model: Any, values: FloatArray, truth: FloatArray, rows: NDArray[np.intp]) -> float:
    from sklearn.metrics import roc_auc_score

    rows = rows[np.isfinite(truth[rows])]
    return float(roc_auc_score(truth[rows] == 1, _probabilities(model, values[rows])))


def _cases(table: Table, rows: NDArray[np.intp], scores: Mapping[str, FloatArray]) -> tuple[Case, ...]:
    return tuple(
        Case(
            table.ids[row],
            table.subjects[row],
            attributes=table.attributes[row] if table.attributes else {},
            truth=table.truth[row],
            scores={label: float(values[row]) for label, values in scores.items()},
        )
        for row in rows
    )
