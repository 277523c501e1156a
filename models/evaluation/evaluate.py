"""Evaluate a bundle on a split: figures with intervals, subgroups, gaps, thresholds, and everything that was left out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from models.bundle import Bundle, file_sha256
from models.datasets.protocol import DataSet, Item, Skipped, Task
from models.evaluation import baseline, classification, detection, segmentation
from models.evaluation.answers import BundleAnswers, answers_of
from models.evaluation.bootstrap import REPLICATES, Figure, Resamples, Statistic, difference, figures, mean
from models.evaluation.classification import Kind
from models.evaluation.gallery import Gallery, Picture
from models.evaluation.journal import Journal
from models.evaluation.protocol import Case, EvaluationImpossible, slug
from models.evaluation.run import Measured, Progress, items_of, measure
from models.evaluation.subgroups import Gap, Group, group_figures, groups_of, widest_gap
from models.evaluation.thresholds import Threshold, choose_threshold, target_of
from models.features.classical import Table

#: Under this name stands the score from which on a detector's boxes are shown.
BOXES = "boxes"


@dataclass(frozen=True)
class Model:
    """Who was evaluated."""

    name: str
    version: str
    digest: str
    intended_use: str = ""
    experimental: bool = False


@dataclass(frozen=True)
class Data:
    """On what. ``fingerprint``: SHA-256 over ids, subjects, labels and file contents of the evaluated items."""

    name: str
    fingerprint: str
    split: str
    items: int
    subjects: int


@dataclass(frozen=True)
class Comparison:
    """The other model on the same items, and how much better the first is: paired draws."""

    model: Model
    figures: Mapping[str, Figure]
    differences: Mapping[str, Figure]


@dataclass(frozen=True)
class Report:
    """Everything that an evaluation says."""

    model: Model
    data: Data
    created: str
    measured: Measured
    kind: Kind | None
    figures: Mapping[str, Figure]
    better: Mapping[str, bool | None]
    headline: str
    subgroups: Mapping[str, Mapping[str, Group]]
    gaps: Mapping[str, Gap]
    thresholds: Mapping[str, Threshold]
    notes: tuple[str, ...]
    replicates: int
    seed: int
    gallery: tuple[Picture, ...] = ()
    comparison: Comparison | None = None

    @property
    def unanswered(self) -> tuple[Case, ...]:
        return tuple(case for case in self.measured.cases if not case.answered)


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Parameters
    ----------
    threshold
        ``youden`` or ``sensitivity=0.95``: chosen on the validation split. Without one the model's own holds.
    journal
        A folder in which what was measured is kept item by item, so that an evaluation that was killed goes on.
    """

    device: str = "cpu"
    cache: Path | None = None
    threshold: str | None = None
    replicates: int = REPLICATES
    seed: int = 0
    worst: int = 12
    journal: Path | None = None
    progress: Progress = field(default=lambda done, total: None)


def evaluate(
    bundle: Bundle,
    dataset: DataSet,
    splits: Mapping[str, str] | None,
    split: str = "test",
    *,
    against: Bundle | Table | None = None,
    options: Options | None = None,
) -> Report:
    """Evaluate a bundle; ``against`` another one on the same items, or the best classical model on a table of features.

    Raises
    ------
    EvaluationImpossible
        Nothing can be compared, the split is empty, a threshold has no validation to come from, or a library is missing.
    Leak
        A subject is in two splits.
    BaselineImpossible
        No classical model can be fitted on the table.
    BundleInvalid, WeightsMissing, WeightsMismatch
    """
    options = options or Options()
    _require("sklearn", "matplotlib")
    items = items_of(dataset, splits, split)
    source = answers_of(bundle, dataset, options.device, cache=options.cache)
    source.load()
    thresholds = _thresholds(bundle, source, dataset, splits, options)
    shown = thresholds[BOXES].value if BOXES in thresholds else 0.5
    gallery = Gallery(dataset.task, source.matched.classes, options.worst, shown)
    measured = _measured(source, items, dataset, source.matched.classes, options, gallery)
    judge = Judge(dataset.task, source.matched.classes, measured.cases, {label: each.value for label, each in thresholds.items()})
    data = Data(dataset.name, fingerprint(items), split if splits is not None else "all", len(items), len({item.subject for item in items}))
    compared = None
    if isinstance(against, Table):
        compared = _features(against, measured, judge, splits, split, options)
    elif against is not None:
        compared = _against(against, dataset, splits, items, judge, options)
    notes = (*source.matched.notes, *measured.notes)
    return report(model_of(bundle), data, measured, judge, thresholds, notes, options, gallery.worst(), compared, dataset.skipped)


def _require(*modules: str) -> None:
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise EvaluationImpossible(f"evaluation needs {' and '.join(missing)}: pip install 'dicom-node[training]'")


class Judge:
    """Which figures a task has, as functions of cases."""

    def __init__(self, task: Task, classes: Sequence[str], cases: Sequence[Case], thresholds: Mapping[str, float]) -> None:
        self.task, self.classes, self.thresholds = task, tuple(classes), dict(thresholds)
        self.kind: Kind | None = classification.kind_of(cases, classes) if task == "classification" else None

    def statistics(self, cases: Sequence[Case]) -> dict[str, Statistic]:
        """Every figure of these cases."""
        coverage = {"coverage": mean([float(case.answered) for case in cases], proportion=True)}
        if self.task == "segmentation":
            return {**segmentation.statistics(cases, self.classes), **coverage}
        if self.task == "classification":
            assert self.kind is not None
            return {**classification.statistics(cases, self.classes, self.thresholds, self.kind), **coverage}
        return {**detection.statistics(cases, self.classes, self.thresholds.get(BOXES, 0.5)), **coverage}

    @property
    def headline(self) -> str:
        """The figure by which groups are compared."""
        several = len(self.classes) > 1
        if self.task == "segmentation":
            return "dice.mean" if several else f"dice.{slug(self.classes[0])}"
        if self.task == "classification":
            return "roc_auc.macro" if several else "roc_auc"
        return "map50"

    def of_groups(self) -> list[str]:
        """The figures that subgroup tables show."""
        if self.task == "segmentation":
            each = [f"{key}.{slug(name)}" for name in self.classes for key in ("dice", "hd95")]
            return list(dict.fromkeys([self.headline, *each]))
        if self.task == "classification":
            end = ".macro" if len(self.classes) > 1 else ""
            accuracy = "accuracy" if self.kind == "multi-class" else f"accuracy{end}"
            return [*(f"{key}{end}" for key in ("roc_auc", "sensitivity", "specificity")), accuracy]
        return ["map50", "map50_95", "froc"]


def report(
    model: Model,
    data: Data,
    measured: Measured,
    judge: Judge,
    thresholds: Mapping[str, Threshold],
    notes: Sequence[str],
    options: Options,
    gallery: tuple[Picture, ...] = (),
    compared: tuple[Model, Measured, Judge] | None = None,
    skipped: Sequence[Skipped] = (),
) -> Report:
    """Figures, subgroups and gaps of what was measured."""
    cases = measured.cases
    if not cases:
        reasons = "; ".join(f"{each.where}: {each.reason}" for each in measured.skipped[:3])
        raise EvaluationImpossible(f"no item of the split could be read: {reasons}")
    resamples = Resamples([case.subject for case in cases], options.replicates, options.seed)
    known = judge.statistics(cases)
    groups = groups_of(cases)
    shown = judge.of_groups()
    gaps = {name: widest_gap(cases, parts, judge.statistics, resamples, judge.headline) for name, parts in groups.items()}
    everything = Measured(
        measured.task, measured.classes, cases, (*skipped, *measured.skipped), measured.notes, measured.unit, measured.dimensions
    )
    return Report(
        model=model,
        data=data,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        measured=everything,
        kind=judge.kind,
        figures=figures(known, resamples),
        better={name: each.higher_is_better for name, each in known.items()},
        headline=judge.headline,
        subgroups={name: group_figures(cases, parts, judge.statistics, resamples, shown) for name, parts in groups.items()},
        gaps={name: gap for name, gap in gaps.items() if gap is not None},
        thresholds=thresholds,
        notes=(*notes, *_warnings(known, cases, judge, resamples)),
        replicates=options.replicates,
        seed=options.seed,
        gallery=gallery,
        comparison=None if compared is None else _comparison(measured, judge, known, compared, options),
    )


def _measured(
    source: BundleAnswers, items: Sequence[Item], dataset: DataSet, classes: Sequence[str], options: Options, gallery: Gallery | None = None
) -> Measured:
    pictures = gallery.most if gallery is not None else 0
    digest = fingerprint(items) if options.journal is not None else ""
    journal = Journal(options.journal, source.bundle.digest, digest, dataset.task, *dataset.classes, "", *classes, str(pictures))
    return measure(
        source,
        items,
        task=dataset.task,
        data_classes=dataset.classes,
        classes=classes,
        watcher=gallery,
        journal=journal,
        progress=options.progress,
    )


def _thresholds(
    bundle: Bundle, source: BundleAnswers, dataset: DataSet, splits: Mapping[str, str] | None, options: Options
) -> dict[str, Threshold]:
    if dataset.task != "classification":
        if options.threshold is not None:
            raise EvaluationImpossible("a threshold is chosen for classifications only")
        return {BOXES: Threshold(shown_from(bundle), "configs/inference.json", "the model's own")} if dataset.task == "detection" else {}
    names = answers_of(bundle, dataset).matched.names
    if options.threshold is None:
        given = {each.label: each.threshold for each in bundle.dicom.classification}
        return {name: Threshold(given[label], "dicom.toml", "the model's own") for label, name in names.items()}
    if options.threshold != "youden":
        target_of(options.threshold)
    if splits is None:
        raise EvaluationImpossible("a threshold is chosen on the validation split, and no splits were given")
    validation = _measured(source, items_of(dataset, splits, "validation"), dataset, tuple(names.values()), options)
    return {name: choose_threshold(validation.cases, name, options.threshold) for name in names.values()}


def shown_from(bundle: Bundle) -> float:
    """The score from which on a detector's boxes are shown."""
    chain = bundle.inference.get(bundle.dicom.run.postprocessing, {})
    steps = chain.get("transforms", []) if isinstance(chain, dict) else []
    stated = [step.get("threshold") for step in steps if isinstance(step, dict) and str(step.get("_target_", "")).endswith("PaintedBoxesd")]
    return float(next((value for value in stated if isinstance(value, int | float)), 0.5))


def _against(
    bundle: Bundle, dataset: DataSet, splits: Mapping[str, str] | None, items: Sequence[Item], first: Judge, options: Options
) -> tuple[Model, Measured, Judge]:
    source = answers_of(bundle, dataset, options.device, cache=options.cache)
    if source.matched.classes != first.classes and set(source.matched.classes) != set(first.classes):
        raise EvaluationImpossible("the two models do not find the same classes of the data")
    source.load()
    thresholds = _thresholds(bundle, source, dataset, splits, options)
    measured = _measured(source, items, dataset, first.classes, options)
    judge = Judge(dataset.task, first.classes, measured.cases, {label: each.value for label, each in thresholds.items()})
    return model_of(bundle), measured, judge


def _features(
    table: Table, measured: Measured, judge: Judge, splits: Mapping[str, str] | None, split: str, options: Options
) -> tuple[Model, Measured, Judge]:
    best = baseline.fitted(table, judge.task, judge.classes, splits, split, options.seed)
    other = replace(measured, cases=baseline.answers(best, measured.cases))
    thresholds = {label: each.value for label, each in best.thresholds.items()}
    return Model(baseline.name_of(best), "", ""), other, Judge(judge.task, judge.classes, other.cases, thresholds)


def _comparison(
    measured: Measured, judge: Judge, known: Mapping[str, Statistic], compared: tuple[Model, Measured, Judge], options: Options
) -> Comparison:
    model, other, other_judge = compared
    if [case.id for case in other.cases] != [case.id for case in measured.cases]:
        raise EvaluationImpossible("the two models were not measured on the same items")
    resamples = Resamples([case.subject for case in measured.cases], options.replicates, options.seed)
    theirs = other_judge.statistics(other.cases)
    return Comparison(
        model,
        figures(theirs, resamples),
        {name: difference(each, theirs[name], resamples) for name, each in known.items() if name in theirs},
    )


def _warnings(known: Mapping[str, Statistic], cases: Sequence[Case], judge: Judge, resamples: Resamples) -> list[str]:
    """What a reader must know before believing a figure."""
    found = []
    if resamples.subjects < 2:
        found.append("One subject only: there are no intervals, and nothing can be said of others.")
    elif resamples.subjects < 30:
        found.append(f"{resamples.subjects} subjects only: the intervals are rough and tend to be too narrow.")
    undefined = [name for name, each in known.items() if each.value is None]
    if undefined:
        found.append("Not defined on these items (an empty class, or no score that is a number): " + ", ".join(undefined) + ".")
    unanswered = sum(not case.answered for case in cases)
    if unanswered:
        found.append(f"The model gave no answer for {_items(unanswered)}: {_COUNTED[judge.task]}")
    if judge.task == "segmentation":
        found += _absent(cases, judge.classes)
    if judge.task == "classification":
        found += _unscored(cases, judge.classes)
    return found


_COUNTED = {
    "segmentation": "each counts as if it had found nothing.",
    "classification": "each counts as decided wrongly, and has no place in ROC, precision-recall and calibration.",
    "detection": "each counts as if it had found nothing.",
    "none": "",
}


def _absent(cases: Sequence[Case], classes: Sequence[str]) -> list[str]:
    notes = []
    for name in classes:
        there = segmentation.presence(cases, name)
        if there["missed"]:
            notes.append(f"{name}: missed altogether in {_items(there['missed'])}: Dice 0, no surface distance.")
        if there["only_found"]:
            notes.append(f"{name}: found in {_items(there['only_found'])} where the reference has none: Dice 0, no surface distance.")
        if there["neither"]:
            notes.append(f"{name}: absent in reference and answer of {_items(there['neither'])}: rightly so, and not part of the means.")
    return notes


def _unscored(cases: Sequence[Case], classes: Sequence[str]) -> list[str]:
    notes = []
    for name in classes:
        view = classification.binary(cases, name, 0.0)
        unknown = int((~view.known).sum())
        no_number = sum(case.answered for case, bad in zip(cases, view.known & ~view.scored, strict=True) if bad)
        if unknown:
            notes.append(f"{name}: {_items(unknown)} without a stated label are left out.")
        if no_number:
            notes.append(f"{name}: {_items(no_number)} with a score that is no number count as decided wrongly.")
    return notes


def _items(count: int) -> str:
    return f"{count} item" + ("" if count == 1 else "s")


def model_of(bundle: Bundle) -> Model:
    """Identity of a bundle."""
    model = bundle.dicom.model
    return Model(bundle.name, bundle.version, bundle.digest, model.intended_use, model.experimental)


def fingerprint(items: Sequence[Item], digest: Callable[[Path], str] = file_sha256) -> str:
    """SHA-256 over the items: id, subject, labels, boxes, and the content of every file; missing files count as missing."""
    total = hashlib.sha256(b"dicom-node evaluated items 1\n")
    for item in sorted(items, key=lambda each: each.id):
        files = [*item.image, *([item.mask] if item.mask else [])]
        contents = [digest(path) if path.is_file() else "missing" for path in files]
        labels = sorted(item.labels.items())
        total.update(repr((item.id, item.subject, labels, [tuple(vars(box).values()) for box in item.boxes], contents)).encode())
    return total.hexdigest()
