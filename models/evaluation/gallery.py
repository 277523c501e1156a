"""The worst cases as pictures: the plane where answer and reference differ most, with both outlines."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.datasets.loading import Sample
from models.datasets.protocol import Task
from models.evaluation import detection
from models.evaluation.protocol import Answer, Case, slug
from models.evaluation.volumes import frames_of, spacing_of, unit_of

Mask = NDArray[np.bool_]
Plane = NDArray[np.uint8]
#: Blue and orange are told apart by everybody.
REFERENCE, FOUND, BOTH = (64, 160, 255), (255, 150, 30), (255, 255, 255)
SIDE = 360


@dataclass(frozen=True)
class Picture:
    """A case to look at: how bad (0 best), what to read below it, the picture as PNG."""

    case: str
    badness: float
    caption: str
    png: bytes


@dataclass(order=True)
class _Entry:
    badness: float
    number: int
    picture: Picture = field(compare=False)


class Gallery:
    """Keeps the worst ``most`` cases seen; memory holds no more than these."""

    def __init__(self, task: Task, classes: Sequence[str], most: int, threshold: float = 0.5) -> None:
        self.task, self.classes, self.most, self.threshold = task, tuple(classes), most, threshold
        self._heap: list[_Entry] = []
        self._seen = 0

    def see(self, case: Case, sample: Sample, answer: Answer | None, reference: Mapping[str, Mask]) -> Picture | None:
        """Draw a case, where it is among the worst so far."""
        badness, caption = self._judge(case, unit_of(sample.image))
        full = len(self._heap) == self.most
        if not self.most or badness <= 0 or (full and badness <= self._heap[0].badness):
            self.take(None)
            return None
        picture = Picture(case.id, badness, caption, _draw(sample, answer or Answer(), reference, _sure(case, self.threshold)))
        self.take(picture)
        return picture

    def take(self, picture: Picture | None) -> None:
        """Take in a picture that :meth:`see` drew, now or in an earlier run."""
        self._seen += 1
        if picture is not None:
            push = heapq.heappush if len(self._heap) < self.most else heapq.heapreplace
            push(self._heap, _Entry(picture.badness, -self._seen, picture))

    def worst(self) -> tuple[Picture, ...]:
        """From the worst on."""
        return tuple(entry.picture for entry in sorted(self._heap, reverse=True))

    def _judge(self, case: Case, unit: str) -> tuple[float, str]:
        if not case.answered:
            return 2.0, f"no answer: {case.reason}"
        if self.task == "segmentation":
            return _judge_masks(case, self.classes, unit)
        if self.task == "classification":
            return _judge_scores(case, self.classes)
        return _judge_boxes(case, self.threshold)


def _judge_masks(case: Case, classes: Sequence[str], unit: str) -> tuple[float, str]:
    parts, values = [], []
    for name in classes:
        dice, distance = case.values.get(f"dice.{slug(name)}"), case.values.get(f"hd95.{slug(name)}")
        if dice is not None:
            values.append(dice)
            parts.append(f"{name}: Dice {dice:.3f}" + ("" if distance is None else f", HD95 {distance:.1f} {unit}"))
    return (1.0 - min(values), "; ".join(parts)) if values else (0.0, "")


def _judge_scores(case: Case, classes: Sequence[str]) -> tuple[float, str]:
    known = {name: case.truth[name] for name in classes if case.truth.get(name) in (0, 1)}
    apart = {name: abs(case.scores.get(name, float("nan")) - truth) for name, truth in known.items()}
    bad = {name: 1.5 if value != value else value for name, value in apart.items()}
    if not bad:
        return 0.0, ""
    name = max(bad, key=lambda each: bad[each])
    score = case.scores.get(name, float("nan"))
    return bad[name], f"{name}: {'present' if known[name] else 'absent'}, score {score:.2f}"


def _judge_boxes(case: Case, threshold: float) -> tuple[float, str]:
    """Misses and false alarms, by the number of marked boxes."""
    sure = _sure(case, threshold)
    matches = detection.match([sure], sorted({box.label for box in sure.boxes} | {box.label for box in sure.truth_boxes})).values()
    hits = sum(int((each.hit[0] & ~each.ignored[0]).sum()) for each in matches)
    alarms = sum(int((~each.hit[0] & ~each.ignored[0]).sum()) for each in matches)
    wanted = sum(int(each.wanted.sum()) for each in matches)
    text = f"{wanted} marked, {wanted - hits} missed, {alarms} false alarms (score {threshold:g} and above)"
    return (wanted - hits + alarms) / max(wanted, 1), text


def _draw(sample: Sample, answer: Answer, reference: Mapping[str, Mask], case: Case) -> bytes:
    volume = frames_of(sample.image)
    wanted = _any(reference, volume.shape)
    found = _any({name: mask for name, mask in answer.masks.items() if name in reference}, volume.shape)
    plane = (_plane(wanted, found), *_upright(sample))
    spacing = spacing_of(sample.image)[-2:]
    grey = _grey(volume[plane])
    scale = SIDE / max(grey.shape[0] * spacing[0], grey.shape[1] * spacing[1])
    size = (max(1, round(grey.shape[1] * spacing[1] * scale)), max(1, round(grey.shape[0] * spacing[0] * scale)))
    picture = np.stack([np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))] * 3, axis=-1)
    one, other = (_outline(_resize(mask[plane], size)) for mask in (wanted, found))
    picture[one], picture[other], picture[one & other] = REFERENCE, FOUND, BOTH
    _boxes(picture, case, size[0] / grey.shape[1], size[1] / grey.shape[0])
    stream = BytesIO()
    Image.fromarray(picture).quantize(128).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _sure(case: Case, threshold: float) -> Case:
    return replace(case, boxes=tuple(box for box in case.boxes if box.score >= threshold))


def _upright(sample: Sample) -> tuple[slice, slice]:
    """Rows and columns of a plane of a volume as radiologists hang it: front or head above, the patient's right on the left."""
    if sample.image.ndim == 3:
        return slice(None), slice(None)
    directions = np.asarray(sample.image.affine, dtype=np.float64)[:3, :2]  # of columns and of rows, to right, front and head
    columns, rows = (slice(None, None, -1 if each[np.abs(each).argmax()] > 0 else None) for each in directions.T)
    return rows, columns


def _any(masks: Mapping[str, Mask], shape: tuple[int, ...]) -> Mask:
    total = np.zeros(shape, dtype=bool)
    for mask in masks.values():
        total |= mask
    return total


def _plane(wanted: Mask, found: Mask) -> int:
    """Where they differ most; where they do not, the plane with most of either; the middle where there is neither."""
    for mask in (wanted ^ found, wanted | found):
        counts = mask.sum(axis=(1, 2))
        if counts.any():
            return int(counts.argmax())
    return len(wanted) // 2


def _grey(plane: NDArray[Any]) -> Plane:
    low, high = np.percentile(plane, (1, 99))
    return np.asarray(np.clip((plane - low) / max(float(high - low), 1e-6), 0, 1) * 255).astype(np.uint8)


def _resize(mask: Mask, size: tuple[int, int]) -> Mask:
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)) > 0


def _outline(mask: Mask) -> Mask:
    edge: Mask = mask & ~ndimage.binary_erosion(mask, iterations=2)
    return edge


def _boxes(picture: NDArray[np.uint8], case: Case, across: float, down: float) -> None:
    for boxes, colour in ((case.truth_boxes, REFERENCE), (case.boxes, FOUND)):
        for box in boxes:
            rows = np.clip([round(box.y_min * down), round(box.y_max * down) - 1], 0, picture.shape[0] - 1)
            columns = np.clip([round(box.x_min * across), round(box.x_max * across) - 1], 0, picture.shape[1] - 1)
            picture[rows, columns[0] : columns[1] + 1] = colour
            picture[rows[0] : rows[1] + 1, columns] = colour
