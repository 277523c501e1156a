"""An anchor-free detector of 2-D images: every cell of a coarse grid says how much it is the centre of what, and how
far the sides of its box are away.

After CenterNet (Zhou et al. 2019) and TTFNet (Liu et al. 2020); needs nothing but torch and MONAI.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.networks.blocks.convolutions import Convolution
from monai.networks.nets.basic_unet import BasicUNet
from monai.transforms.transform import MapTransform
from torch import Tensor

#: Pixels of the input in a cell of the output, an axis.
STRIDE = 4


class CentreNet(torch.nn.Module):
    """Two strided convolutions, a MONAI BasicUNet on the quarter grid, and two heads.

    Maps (batch, in_channels, x, y), sides divisible by 64, to (batch, classes + 4, x / 4, y / 4): logits of being the
    centre of each class, then the distances from the cell's centre to the sides x_min, y_min, x_max, y_max in pixels
    of the input, all positive.
    """

    def __init__(self, in_channels: int, classes: int, features: Sequence[int] = (32, 48, 64, 96, 128, 48), scale: float = 16.0) -> None:
        super().__init__()
        self.classes, self.scale = classes, scale
        narrow, wide = features[0] // 2, features[0]
        self.stem = torch.nn.Sequential(
            Convolution(2, in_channels, narrow, strides=2, act="LEAKYRELU", norm="BATCH", adn_ordering="NA"),
            Convolution(2, narrow, wide, strides=2, act="LEAKYRELU", norm="BATCH", adn_ordering="NA"),
        )
        norm = ("batch", {"affine": True})
        self.body = BasicUNet(2, wide, features[-1], features=tuple(features), act="LEAKYRELU", norm=norm)
        self.centres = _head(features[-1], classes)
        self.sides = _head(features[-1], 4)
        last = self.centres[-1]
        assert isinstance(last, torch.nn.Conv2d)
        assert last.bias is not None
        torch.nn.init.constant_(last.bias, -math.log(99))

    def forward(self, image: Tensor) -> Tensor:
        shared = self.body(self.stem(image))
        distances = torch.nn.functional.softplus(self.sides(shared)) * self.scale
        return torch.cat([self.centres(shared), distances], dim=1)


def _head(channels: int, out: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        Convolution(2, channels, channels, act="LEAKYRELU", norm="BATCH", adn_ordering="NA"), torch.nn.Conv2d(channels, out, kernel_size=1)
    )


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes (n, 4) as x_min, y_min, x_max, y_max in pixels, scores (n,) from the best down, and classes (n,) from 0."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor


def decode(output: Tensor, *, least: float = 0.05, most: int = 200, overlap: float = 0.5) -> Detections:
    """Boxes of one image from its output (classes + 4, x / 4, y / 4).

    Parameters
    ----------
    least
        Lowest score.
    most
        Largest number of boxes.
    overlap
        Of two boxes of a class with a larger intersection over union, the better stays.
    """
    output = output.float()
    heat = output[:-4].sigmoid()
    peaks = torch.nn.functional.max_pool2d(heat[None], 3, stride=1, padding=1)[0]
    heat = torch.where(heat == peaks, heat, torch.zeros_like(heat))
    columns, rows = heat.shape[1:]
    scores, places = heat.flatten().topk(min(4 * most, heat.numel()))
    kept = scores >= least
    scores, places = scores[kept], places[kept]
    classes, cell = places // (columns * rows), places % (columns * rows)
    centre = torch.stack([cell // rows, cell % rows], dim=1).float().add(0.5).mul(STRIDE)
    sides = output[-4:].flatten(1)[:, cell].T
    boxes = torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], dim=1)
    chosen = suppress(boxes, scores, classes, overlap)[:most]
    return Detections(boxes[chosen], scores[chosen], classes[chosen])


def suppress(boxes: Tensor, scores: Tensor, classes: Tensor, overlap: float) -> Tensor:
    """Indices of the boxes that stay, best first: none overlaps a better one of its class by more than ``overlap``."""
    order = scores.argsort(descending=True, stable=True)
    ious = intersection_over_union(boxes[order], boxes[order])
    rivals = (ious > overlap) & (classes[order][:, None] == classes[order][None])
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for place in range(len(order)):
        if alive[place]:
            alive[place + 1 :] &= ~rivals[place, place + 1 :]
    return order[alive]


def intersection_over_union(one: Tensor, other: Tensor) -> Tensor:
    """(n, m) of boxes (n, 4) and (m, 4)."""
    low = torch.maximum(one[:, None, :2], other[None, :, :2])
    high = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    return both / (area(one)[:, None] + area(other)[None] - both).clamp(min=1e-9)


def area(boxes: Tensor) -> Tensor:
    """Square pixels of boxes (n, 4)."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)


class PaintedBoxesd(MapTransform):
    """Boxes as a label map, which is how a detector's findings become a SEG: (classes + 4, x / 4, y / 4) to (1, x, y).

    A box of class ``c`` and a score of ``threshold`` or more is filled with ``c + 1``, smaller boxes above larger ones.
    """

    def __init__(self, keys: KeysCollection, threshold: float = 0.3, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            output = result[key]
            painted = paint(decode(torch.as_tensor(output).cpu(), least=self.threshold), tuple(side * STRIDE for side in output.shape[1:]))
            result[key] = MetaTensor(painted, meta=output.meta) if isinstance(output, MetaTensor) else painted
        return result


def paint(found: Detections, shape: tuple[int, ...]) -> Tensor:
    """Filled boxes (1, x, y), float: class + 1, 0 where there is none."""
    canvas = torch.zeros(1, *shape)
    for number in area(found.boxes).argsort(descending=True).tolist():
        left, top, right, bottom = (max(0, round(side)) for side in found.boxes[number].tolist())
        canvas[0, left:right, top:bottom] = float(found.classes[number]) + 1
    return canvas
