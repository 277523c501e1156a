"""Predict every item of a split as the node would, and keep the numbers.

Nothing is dropped: an item without an answer stays, with the reason; one whose files cannot be read is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray

from models.bundle import Bundle
from models.datasets.loading import ItemUnreadable, Sample, load
from models.datasets.protocol import DataSet, Item, Skipped, Task
from models.datasets.splits import refuse_leaks
from models.detection import decode
from models.errors import ModelError
from models.evaluation import segmentation
from models.evaluation.classes import Matched, match_classes
from models.evaluation.protocol import Answer, Case, EvaluationImpossible, ScoredBox
from models.evaluation.volumes import frames_of, spacing_of, unit_of, volume_of
from models.predict import Predictor
from models.reader import Axes

Mask = NDArray[np.bool_]
Progress = Callable[[int, int], None]


class Watcher(Protocol):
    """Sees each item while its pixels are at hand: the gallery of failures."""

    def see(self, case: Case, sample: Sample, answer: Answer | None, reference: Mapping[str, Mask]) -> None: ...


@dataclass(frozen=True)
class Measured:
    """A model on the items of one split.

    Parameters
    ----------
    classes
        What was compared, in the data set's words.
    unit
        Of lengths: mm, or px where the size of a pixel is unknown in any item.
    dimensions
        3 or 2, of the images; None where no item could be read.
    """

    task: Task
    classes: tuple[str, ...]
    cases: tuple[Case, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    unit: str = "mm"
    dimensions: int | None = None


class BundleAnswers:
    """A bundle, asked through :class:`models.predict.Predictor`: preprocessing, networks, inferer and postprocessing of serving."""

    def __init__(self, bundle: Bundle, matched: Matched, task: Task, device: str = "cpu", *, cache: Path | None = None) -> None:
        self.bundle = bundle
        self.matched = matched
        self.boxes = task == "detection"
        self._predictor = Predictor(bundle, device, cache=cache)

    def load(self) -> None:
        """Load the networks; what is wrong with the bundle is raised here and not once an item."""
        self._predictor.load()

    def answer(self, item: Item, sample: Sample) -> Answer:
        """Predict one item; a ModelError is the reason why there is no answer."""
        if self.boxes:
            return self._boxes(item, sample)
        prediction = self._predictor.predict(volume_of(item, sample, self.bundle))
        named = self.matched.names
        return Answer(
            masks={named[each.label]: each.mask for each in prediction.segments if each.label in named},
            scores={
                named[each.label]: float("nan") if each.probability is None else each.probability
                for each in prediction.classifications
                if each.label in named
            },
        )

    def _boxes(self, item: Item, sample: Sample) -> Answer:
        """Every box with its score, however low: average precision needs them, a SEG shows those above the threshold."""
        volume = volume_of(item, sample, self.bundle)
        output = self._predictor.raw_output(volume)
        if self.bundle.dicom.run.axes != "xyz" or not isinstance(output, MetaTensor):
            raise EvaluationImpossible("boxes are read from an output in the order xyz with an affine")
        found = decode(output.as_tensor())
        corners = moved_boxes(found.boxes, output.affine, torch.as_tensor(Axes().affine(volume)))
        by_value = {
            each.value - 1: self.matched.names[each.label] for each in self.bundle.dicom.segment if each.label in self.matched.names
        }
        rows = zip(corners.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
        return Answer(boxes=tuple(ScoredBox(by_value[number], score, *box) for box, score, number in rows if number in by_value))


def moved_boxes(boxes: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Boxes (n, 4) on one grid of an image, by affines, as boxes on another; an index is the middle of its pixel."""
    if not len(boxes):
        return boxes
    through = torch.linalg.inv(new.double().cpu()) @ old.double().cpu()
    x, y = boxes[:, (0, 2, 0, 2)].double() - 0.5, boxes[:, (1, 1, 3, 3)].double() - 0.5
    corners = torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], dim=-1) @ through.T
    return torch.cat([corners[..., :2].amin(1), corners[..., :2].amax(1)], dim=1) + 0.5


class Source(Protocol):
    """Whoever answers for loaded items."""

    def answer(self, item: Item, sample: Sample) -> Answer: ...


@dataclass
class _Kept:
    cases: list[Case] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    units: set[str] = field(default_factory=set)
    dimensions: set[int] = field(default_factory=set)
    displaced: int = 0


def measure(
    source: Source,
    items: Iterable[Item],
    *,
    task: Task,
    data_classes: Sequence[str],
    classes: Sequence[str],
    watchers: Sequence[Watcher] = (),
    progress: Progress = lambda done, total: None,
) -> Measured:
    """Ask for every item and compare with what is known of it.

    Parameters
    ----------
    data_classes
        The data set's own classes: position + 1 is the label value.
    classes
        Those that are compared.
    """
    chosen, kept = list(items), _Kept()
    values = {name: index + 1 for index, name in enumerate(data_classes) if name in classes}
    for number, item in enumerate(chosen, start=1):
        try:
            sample = load(item, classes=len(data_classes) if task == "segmentation" else None)
            reference = _reference(item, sample, values) if task == "segmentation" else {}
        except ItemUnreadable as error:
            kept.skipped.append(Skipped(error.where, item.id, error.reason))
        else:
            _measure_one(source, item, sample, reference, task, classes, watchers, kept)
        progress(number, len(chosen))
    unit = "px" if "px" in kept.units else "mm"
    notes = tuple(_remarks(kept)) if task == "segmentation" else ()
    dimensions = max(kept.dimensions) if kept.dimensions else None
    return Measured(task, tuple(classes), tuple(kept.cases), tuple(kept.skipped), notes, unit, dimensions)


def _remarks(kept: _Kept) -> Iterator[str]:
    if len(kept.units) > 1:
        yield "Some images state the size of a pixel and some do not: lengths are in mm for the ones and in pixels for the others."
    if kept.units == {"px"}:
        yield "Nobody states the size of a pixel here: lengths and areas are in pixels of the image."
    if kept.displaced:
        yield f"{kept.displaced} masks state another place than their image, of the same size; they were laid on it pixel by pixel."


def _measure_one(
    source: Source,
    item: Item,
    sample: Sample,
    reference: Mapping[str, Mask],
    task: Task,
    classes: Sequence[str],
    watchers: Sequence[Watcher],
    kept: _Kept,
) -> None:
    answer, reason = None, None
    try:
        answer = source.answer(item, sample)
        if task == "segmentation":
            _refuse_other_grid(answer, reference)
    except ModelError as error:
        answer, reason = None, str(error) or type(error).__name__
    case = _case(item, sample, answer, reason, reference, task, classes)
    kept.cases.append(case)
    kept.units.add(unit_of(sample.image))
    kept.dimensions.add(sample.image.ndim - 1)
    kept.displaced += bool(sample.mask is not None and sample.mask.meta.get("other_grid"))
    for watcher in watchers:
        watcher.see(case, sample, answer, reference)


def _reference(item: Item, sample: Sample, values: Mapping[str, int]) -> dict[str, Mask]:
    if sample.mask is None:
        raise ItemUnreadable(str(item.image[0]), "the item has no mask to compare with")
    frames = frames_of(sample.mask)
    return {name: frames == value for name, value in values.items()}


def _refuse_other_grid(answer: Answer, reference: Mapping[str, Mask]) -> None:
    for name, wanted in reference.items():
        found = answer.masks.get(name)
        if found is not None and found.shape != wanted.shape:
            raise EvaluationImpossible(f"the answer has the size {found.shape}, the reference {wanted.shape}")


def _case(
    item: Item, sample: Sample, answer: Answer | None, reason: str | None, reference: Mapping[str, Mask], task: Task, classes: Sequence[str]
) -> Case:
    given = answer or Answer()
    values: dict[str, float | None] = {}
    if task == "segmentation":
        values = segmentation.case_values(given.masks, reference, spacing_of(sample.image))
    return Case(
        id=item.id,
        subject=item.subject,
        attributes=item.attributes,
        reason=reason,
        values=values,
        truth={name: item.labels[name] for name in classes if name in item.labels} if task == "classification" else {},
        scores=dict(given.scores),
        boxes=given.boxes,
        truth_boxes=item.boxes if task == "detection" else (),
    )


def answers_of(bundle: Bundle, dataset: DataSet, device: str = "cpu", *, cache: Path | None = None) -> BundleAnswers:
    """The bundle as it answers for a data set: whose classes are its own, by name.

    Raises
    ------
    EvaluationImpossible
        No class of the data set is one that the bundle finds.
    """
    return BundleAnswers(bundle, match_classes(bundle, dataset.task, dataset.classes), dataset.task, device, cache=cache)


def items_of(dataset: DataSet, splits: Mapping[str, str] | None, split: str) -> list[Item]:
    """The items of a split, all where there are no splits.

    Raises
    ------
    EvaluationImpossible
        There are none.
    Leak
        A subject is in two splits.
    """
    items = list(dataset)
    if splits is None:
        chosen = items
    else:
        refuse_leaks(items, splits, dataset.name)
        chosen = [item for item in items if splits.get(item.id) == split]
    if not chosen:
        raise EvaluationImpossible(f"there is nothing in the split '{split}' of {dataset.name}")
    return chosen
