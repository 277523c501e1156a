"""Two-dimensional classifiers on volumes: every slice is rated on its own, and the ratings are averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers.inferer import Inferer
from torch import Tensor
from torch.nn.functional import pad


class RateSlices(Inferer):
    """Scores of a volume from a network that grades slices: (1, 1, x, y, z) becomes (1, 2).

    A slice is divided by its maximum, cut or padded with zeros to ``size`` about its centre, and graded:
    (n, 1, size, size) to (n, grades). The first score is the mean probability of the grades from ``from_grade``
    on; the second the mean of the slices' most probable grades, 0 for a slice without a positive value. That
    mean is the rating of the ``tse_motion`` package, by the same steps.

    Parameters
    ----------
    slices
        At most so many slices are graded, evenly spaced through the volume; 0 grades all.
    batch
        Slices that go through the network at once.
    """

    def __init__(self, size: int = 512, from_grade: int = 2, slices: int = 0, batch: int = 4) -> None:
        self.size = size
        self.from_grade = from_grade
        self.slices = slices
        self.batch = batch

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        planes = inputs[0, 0].permute(2, 0, 1)
        chosen = planes[evenly(len(planes), self.slices)].float()
        brightest = chosen.amax(dim=(1, 2))
        seen = brightest > 0
        grades = torch.zeros(len(chosen), device=inputs.device)
        positive = torch.zeros(0, device=inputs.device)
        if seen.any():
            prepared = centred(chosen[seen] / brightest[seen][:, None, None], self.size)[:, None]
            scores = torch.cat([network(part) for part in torch.split(prepared, self.batch)]).softmax(dim=1)
            grades[seen] = scores.argmax(dim=1).float()
            positive = scores[:, self.from_grade :].sum(dim=1)
        return torch.stack([positive.mean() if len(positive) else grades.new_zeros(()), grades.mean()])[None]


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices, evenly spaced and centred; all where ``most`` is 0."""
    if not 0 < most < count:
        return list(range(count))
    return [int((index + 0.5) * count / most) for index in range(most)]


def centred(planes: Tensor, size: int) -> Tensor:
    """(n, x, y) cut, or padded with zeros, to (n, size, size) about the centre, as torchvision's CenterCrop does it."""
    margins = []
    for length in (planes.shape[2], planes.shape[1]):
        missing = max(0, size - length)
        margins += [missing // 2, (missing + 1) // 2]
    padded = pad(planes, margins)
    x, y = (round((length - size) / 2) for length in padded.shape[1:])
    return padded[:, x : x + size, y : y + size]
