"""Detection from boxes: a heat map of centres with a focal loss, and the sides of the boxes around each centre.

The targets are TTFNet's: a centre is an elliptic bump as wide as its box, and every cell of the bump's inner part
learns the box, weighted by its height. That learns from few images in minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from models.detection import STRIDE, Detections, area, decode, intersection_over_union
from models.training.batches import Batch
from models.training.config import TrainingConfig
from models.training.prepared import Prepared, moved_boxes

#: A box that augmentation leaves less of than this share of its area is not asked for.
VISIBLE = 0.4
SPREAD = 0.54
SIDES_WEIGHT = 5.0


class Detection:
    """Boxes of ``classes``; the figure is the mean average precision at an intersection over union of 0.5."""

    metric = "map50"

    def __init__(self, config: TrainingConfig, classes: Sequence[str]) -> None:
        self.config, self.classes = config, tuple(classes)

    def output_channels(self) -> int | None:
        return len(self.classes) + 4

    def encode(self, prepared: Prepared, data: dict[str, Any]) -> dict[str, Any]:
        image = data["image"]
        boxes = moved_boxes(prepared.boxes, prepared.image.affine, image.affine)
        boxes, classes = clipped(boxes, prepared.box_classes, tuple(image.shape[1:]))
        heat, sides, weight = targets(boxes, classes, len(self.classes), tuple(image.shape[1:]))
        return {"image": image, "heat": heat, "sides": sides, "weight": weight}

    def loss(self, output: Any, batch: Batch) -> torch.Tensor:
        output = output.float()
        return focal(output[:, :-4], batch["heat"]) + SIDES_WEIGHT * giou_loss(output[:, -4:], batch["sides"], batch["weight"])

    def validate(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> dict[str, float]:
        found, true = [], []
        for prepared in items:
            found.append(decode(network(prepared.image.as_tensor()[None].to(device))[0].cpu()))
            true.append((prepared.boxes, prepared.box_classes))
        figures = {}
        for number, name in enumerate(self.classes):
            value = average_precision(found, true, number)
            if value is not None:
                figures[f"ap50.{name}"] = value
        return {"map50": float(np.mean(list(figures.values()))) if figures else 0.0, **figures}

    def finish(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> None:
        """Nothing is missing."""

    def sections(self) -> dict[str, Any]:
        chain: list[dict[str, Any]] = [
            {"_target_": "models.detection.PaintedBoxesd", "keys": "pred", "threshold": 0.3},
            {
                "_target_": "Invertd",
                "keys": "pred",
                "transform": "@preprocessing",
                "orig_keys": "image",
                "nearest_interp": True,
                "to_tensor": True,
            },
            *self.config.postprocessing,
        ]
        return {"inferer": {"_target_": "SimpleInferer"}, "postprocessing": {"_target_": "Compose", "transforms": chain}}


def clipped(boxes: torch.Tensor, classes: torch.Tensor, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes cut at the image's border, without those of which too little is left."""
    high = torch.tensor([shape[0], shape[1], shape[0], shape[1]], dtype=torch.float32)
    cut = boxes.clamp(min=0).minimum(high)
    kept = (area(cut) > VISIBLE * area(boxes)) & (area(cut) > 1)
    return cut[kept], classes[kept]


def targets(
    boxes: torch.Tensor, classes: torch.Tensor, count: int, shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Heat (classes, x / 4, y / 4), box corners of each cell (4, ...) in pixels, and the cell's weight (1, ...).

    Small boxes are drawn last: a cell that two claim belongs to the smaller.
    """
    columns, rows = shape[0] // STRIDE, shape[1] // STRIDE
    heat, sides, weight = torch.zeros(count, columns, rows), torch.zeros(4, columns, rows), torch.zeros(1, columns, rows)
    x, y = (torch.arange(columns) + 0.5) * STRIDE, (torch.arange(rows) + 0.5) * STRIDE
    for number in area(boxes).argsort(descending=True).tolist():
        box = boxes[number]
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        cell = (middle / STRIDE).long()
        cell = torch.minimum(cell, torch.tensor([columns - 1, rows - 1]))
        centre = (cell + 0.5) * STRIDE
        deviation = (half * SPREAD / 3 * 2).clamp(min=STRIDE / 3)
        bump = torch.exp(-(((x[:, None] - centre[0]) / deviation[0]) ** 2 + ((y[None] - centre[1]) / deviation[1]) ** 2) / 2)
        heat[classes[number]] = torch.maximum(heat[classes[number]], bump)
        inner = bump > 0.3
        sides[:, inner] = box[:, None]
        share = bump[inner] / bump[inner].sum()
        weight[0, inner] = share * torch.log2(area(box[None]).clamp(min=2.0))
    return heat, sides, weight


def focal(logits: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    """Penalty-reduced focal loss of CornerNet (alpha 2, beta 4), per centre."""
    probability = logits.sigmoid()
    centre = heat == 1
    hit = torch.nn.functional.logsigmoid(logits) * (1 - probability) ** 2
    miss = torch.nn.functional.logsigmoid(-logits) * probability**2 * (1 - heat) ** 4
    return -torch.where(centre, hit, miss).sum() / centre.sum().clamp(min=1)


def giou_loss(distances: torch.Tensor, corners: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """1 - generalised intersection over union of the boxes of all cells that have one, by weight."""
    columns, rows = distances.shape[2:]
    x = (torch.arange(columns, device=distances.device) + 0.5) * STRIDE
    y = (torch.arange(rows, device=distances.device) + 0.5) * STRIDE
    chosen = weight[:, 0] > 0
    centre = torch.stack(torch.meshgrid(x, y, indexing="ij")).expand(len(distances), 2, columns, rows).permute(0, 2, 3, 1)[chosen]
    sides, true, share = distances.permute(0, 2, 3, 1)[chosen], corners.permute(0, 2, 3, 1)[chosen], weight[:, 0][chosen]
    if not len(share):
        return distances.sum() * 0
    found = torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], dim=1)
    both = (torch.minimum(found[:, 2:], true[:, 2:]) - torch.maximum(found[:, :2], true[:, :2])).clamp(min=0).prod(-1)
    union = area(found) + area(true) - both
    hull = (torch.maximum(found[:, 2:], true[:, 2:]) - torch.minimum(found[:, :2], true[:, :2])).prod(-1).clamp(min=1e-6)
    giou = both / union.clamp(min=1e-6) - (hull - union) / hull
    return ((1 - giou) * share).sum() / share.sum()


def average_precision(
    found: Sequence[Detections], true: Sequence[tuple[torch.Tensor, torch.Tensor]], number: int, overlap: float = 0.5
) -> float | None:
    """Area below the precision envelope of one class (PASCAL VOC since 2010); None where it does not occur."""
    wanted = sum(int((classes == number).sum()) for _, classes in true)
    if not wanted:
        return None
    scores: list[float] = []
    hits: list[bool] = []
    for detections, (boxes, classes) in zip(found, true, strict=True):
        mine = detections.classes == number
        taken = torch.zeros(int((classes == number).sum()), dtype=torch.bool)
        ious = intersection_over_union(detections.boxes[mine], boxes[classes == number])
        for score, row in zip(detections.scores[mine].tolist(), ious, strict=True):
            free = torch.where(taken, torch.full_like(row, -1), row)
            place = int(free.argmax()) if len(free) else -1
            hit = place >= 0 and float(free[place]) >= overlap
            if hit:
                taken[place] = True
            scores.append(score)
            hits.append(hit)
    order = np.argsort(-np.array(scores), kind="stable")
    hit_sum = np.cumsum(np.array(hits, dtype=float)[order])
    precision = hit_sum / np.arange(1, len(hit_sum) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall = hit_sum / wanted
    return float((np.diff(recall, prepend=0) * envelope).sum())
