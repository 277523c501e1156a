"""What a model answered for an item, and what evaluation keeps of it: numbers, never whole images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.datasets.protocol import Box
from models.errors import ModelError

FloatArray = NDArray[np.float64]


class EvaluationImpossible(ModelError):
    """What was asked for cannot be evaluated; the sentence says why and what to do."""


@dataclass(frozen=True)
class ScoredBox:
    """A rectangle that a model found, in pixels as :class:`models.datasets.protocol.Box`."""

    label: str
    score: float
    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of one item.

    Parameters
    ----------
    masks
        By class: bool, (slices, rows, columns) on the item's own grid.
    scores
        By class; NaN where the model gave no number.
    """

    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    boxes: tuple[ScoredBox, ...] = ()


@dataclass(frozen=True)
class Case:
    """What is kept of one evaluated item.

    Parameters
    ----------
    reason
        Why the model gave no answer; None where it did.
    values
        Segmentation: ``dice.<class>`` and the like; None where a figure is not defined for this item.
    truth, scores
        Classification: by label; a label that nobody stated is missing, a score that is no number is NaN.
    boxes, truth_boxes
        Detection.
    """

    id: str
    subject: str
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    reason: str | None = None
    values: Mapping[str, float | None] = field(default_factory=dict)
    truth: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    boxes: tuple[ScoredBox, ...] = ()
    truth_boxes: tuple[Box, ...] = ()

    @property
    def answered(self) -> bool:
        return self.reason is None


def slug(name: str) -> str:
    """A class's name as it stands in the name of a metric: ``Left lung`` is ``left_lung``."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name.casefold()).split()) or "class"
