"""Whoever answers for items: a bundle through the path that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from monai.data.meta_tensor import MetaTensor

from models.bundle import Bundle
from models.datasets.loading import Sample
from models.datasets.protocol import DataSet, Item, Task
from models.detection import decode
from models.evaluation.classes import Matched, match_classes
from models.evaluation.protocol import Answer, EvaluationImpossible, ScoredBox
from models.evaluation.volumes import volume_of
from models.predict import Predictor
from models.reader import Axes


class Source(Protocol):
    """Whoever answers for loaded items; a ModelError is the reason why there is no answer."""

    def answer(self, item: Item, sample: Sample) -> Answer: ...


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
        """Predict one item."""
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


def answers_of(bundle: Bundle, dataset: DataSet, device: str = "cpu", *, cache: Path | None = None) -> BundleAnswers:
    """The bundle as it answers for a data set: whose classes are its own, by name.

    Raises
    ------
    EvaluationImpossible
        No class of the data set is one that the bundle finds.
    """
    return BundleAnswers(bundle, match_classes(bundle, dataset.task, dataset.classes), dataset.task, device, cache=cache)
