"""Predict every item of a split as the node would, and keep the numbers.

Nothing is dropped: an item without an answer stays, with the reason; one whose files cannot be read is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.datasets.loading import ItemUnreadable, Sample, load
from models.datasets.protocol import DataSet, Item, Skipped, Task
from models.datasets.splits import refuse_leaks
from models.errors import ModelError
from models.evaluation import segmentation
from models.evaluation.answers import Source
from models.evaluation.gallery import Picture
from models.evaluation.journal import Journal, Seen
from models.evaluation.protocol import Answer, Case, EvaluationImpossible
from models.evaluation.volumes import frames_of, spacing_of, unit_of

Mask = NDArray[np.bool_]
Progress = Callable[[int, int], None]


class Watcher(Protocol):
    """Sees each item while its pixels are at hand: the gallery of failures. ``take``: an item that an earlier run saw."""

    def see(self, case: Case, sample: Sample, answer: Answer | None, reference: Mapping[str, Mask]) -> Picture | None: ...

    def take(self, picture: Picture | None) -> None: ...


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


def measure(
    source: Source,
    items: Iterable[Item],
    *,
    task: Task,
    data_classes: Sequence[str],
    classes: Sequence[str],
    watcher: Watcher | None = None,
    journal: Journal | None = None,
    progress: Progress = lambda done, total: None,
) -> Measured:
    """Ask for every item and compare with what is known of it; what the journal knows is not asked again.

    Parameters
    ----------
    data_classes
        The data set's own classes: position + 1 is the label value.
    classes
        Those that are compared.
    """
    chosen, kept = list(items), journal or Journal(None)
    known, asked = kept.known(), _Question(source, task, tuple(data_classes), tuple(classes), watcher)
    seen: list[Seen] = []
    try:
        for number, item in enumerate(chosen, start=1):
            if item.id in known:
                seen.append(known[item.id])
                if watcher is not None:
                    watcher.take(known[item.id].picture)
            else:
                seen.append(asked.see(item))
                kept.keep(seen[-1])
            progress(number, len(chosen))
    finally:
        kept.close()
    cases = tuple(each.case for each in seen if each.case is not None)
    skipped = tuple(each.skipped for each in seen if each.skipped is not None)
    measured = [each for each in seen if each.case is not None]
    notes = tuple(_remarks(measured)) if task == "segmentation" else ()
    unit = "px" if any(each.unit == "px" for each in measured) else "mm"
    return Measured(task, tuple(classes), cases, skipped, notes, unit, max((each.dimensions for each in measured), default=None))


def _remarks(seen: Sequence[Seen]) -> Iterator[str]:
    units, displaced = {each.unit for each in seen}, sum(each.displaced for each in seen)
    if len(units) > 1:
        yield "Some images state the size of a pixel and some do not: lengths are in mm for the ones and in pixels for the others."
    if units == {"px"}:
        yield "Nobody states the size of a pixel here: lengths and areas are in pixels of the image."
    if displaced:
        yield f"{displaced} masks state another place than their image, of the same size; they were laid on it pixel by pixel."


@dataclass(frozen=True)
class _Question:
    """What is asked for each item."""

    source: Source
    task: Task
    data_classes: tuple[str, ...]
    classes: tuple[str, ...]
    watcher: Watcher | None

    def see(self, item: Item) -> Seen:
        masks = self.task == "segmentation"
        try:
            sample = load(item, classes=len(self.data_classes) if masks else None)
            reference = _reference(item, sample, self._values()) if masks else {}
        except ItemUnreadable as error:
            return Seen(item.id, skipped=Skipped(error.where, item.id, error.reason))
        answer, reason = self._answer(item, sample, reference)
        case = _case(item, sample, answer, reason, reference, self.task, self.classes)
        picture = None if self.watcher is None else self.watcher.see(case, sample, answer, reference)
        displaced = sample.mask is not None and bool(sample.mask.meta.get("other_grid"))
        return Seen(item.id, case, None, unit_of(sample.image), sample.image.ndim - 1, displaced, picture)

    def _values(self) -> dict[str, int]:
        return {name: index + 1 for index, name in enumerate(self.data_classes) if name in self.classes}

    def _answer(self, item: Item, sample: Sample, reference: Mapping[str, Mask]) -> tuple[Answer | None, str | None]:
        try:
            answer = self.source.answer(item, sample)
            _refuse_other_grid(answer, reference)
        except ModelError as error:
            return None, str(error) or type(error).__name__
        return answer, None


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
