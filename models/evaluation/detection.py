"""Figures of a detection: average precision and FROC. Boxes are matched by MONAI, in COCO's manner; draws use weights.

Defined so, and said in the report: an item without an answer counts as one without boxes; a class that occurs in no
item has no average precision and is left out of the mean; boxes that the data marks difficult are neither asked nor counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.bootstrap import Replicate, Statistic
from models.evaluation.protocol import Case, FloatArray, slug

IOUS = tuple(float(value) for value in np.linspace(0.5, 0.95, 10).round(2))
RECALLS = np.linspace(0, 1, 101)
FALSE_POSITIVES = (0.125, 0.25, 0.5, 1, 2, 4, 8)
MOST_BOXES = 100


@dataclass(frozen=True, eq=False)
class Matches:
    """All boxes found of one class, from the highest score down.

    Parameters
    ----------
    image
        Which item each is of.
    hit, ignored
        (thresholds, boxes).
    wanted
        How many there are in each item.
    """

    scores: FloatArray
    image: NDArray[np.intp]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    wanted: FloatArray


def match(cases: Sequence[Case], classes: Sequence[str]) -> dict[str, Matches]:
    """Match found and true boxes at each IoU of ``IOUS``, best score first."""
    from monai.apps.detection.metrics.matching import matching_batch

    number = {name: index for index, name in enumerate(classes)}
    found = [[box for box in case.boxes if box.label in number and np.isfinite(box.score)] for case in cases]
    true = [[box for box in case.truth_boxes if box.label in number] for case in cases]
    results = matching_batch(
        iou_fn=_overlap,
        iou_thresholds=IOUS,
        pred_boxes=[_corners(boxes) for boxes in found],
        pred_classes=[np.array([number[box.label] for box in boxes], dtype=int) for boxes in found],
        pred_scores=[np.array([box.score for box in boxes], dtype=np.float64) for boxes in found],
        gt_boxes=[_corners(boxes) for boxes in true],
        gt_classes=[np.array([number[box.label] for box in boxes], dtype=int) for boxes in true],
        gt_ignore=[np.array([box.difficult for box in boxes], dtype=bool) for boxes in true],
        max_detections=MOST_BOXES,
    )
    return {name: _gather(results, index) for name, index in number.items()}


def _overlap(one: FloatArray, other: FloatArray) -> FloatArray:
    from monai.data.box_utils import box_iou

    return np.asarray(box_iou(one, other), dtype=np.float64)


def _corners(boxes: Sequence[Any]) -> FloatArray:
    return np.array([(box.x_min, box.y_min, box.x_max, box.y_max) for box in boxes], dtype=np.float64).reshape(-1, 4)


def _gather(results: Sequence[dict[Any, dict[str, NDArray[Any]]]], index: int) -> Matches:
    of_class = [(image, result[index]) for image, result in enumerate(results) if index in result]
    scores = np.concatenate([np.empty(0), *(part["dtScores"] for _, part in of_class)])
    order = np.argsort(-scores, kind="mergesort")
    none = np.empty((len(IOUS), 0))
    hit = np.concatenate([none, *(part["dtMatches"].reshape(len(IOUS), -1) for _, part in of_class)], axis=1)
    ignored = np.concatenate([none, *(part["dtIgnore"].reshape(len(IOUS), -1) for _, part in of_class)], axis=1)
    image = np.concatenate([np.empty(0, np.intp), *(np.full(len(part["dtScores"]), where) for where, part in of_class)])
    wanted = np.zeros(len(results))
    for where, part in of_class:
        wanted[where] = np.count_nonzero(part["gtIgnore"] == 0)
    return Matches(scores[order], image[order].astype(np.intp), hit[:, order] > 0, ignored[:, order] > 0, wanted)


def statistics(cases: Sequence[Case], classes: Sequence[str], threshold: float = 0.5) -> dict[str, Statistic]:
    """``map50``, ``map50_95`` (COCO: 101 recalls), ``map50.voc`` (area below the curve), ``froc``; and per class ``ap50``,
    ``ap50_95``, ``sensitivity50`` and ``precision50`` at the score threshold."""
    matches = match(cases, classes)
    occurring = [name for name in classes if matches[name].wanted.sum()]
    n = len(cases)
    found = {
        "map50": _mean_of([_coco(matches[name], [0]) for name in occurring], n),
        "map50_95": _mean_of([_coco(matches[name], range(len(IOUS))) for name in occurring], n),
        "map50.voc": _mean_of([_area(matches[name]) for name in occurring], n),
        "froc": _mean_of([_froc(matches[name]) for name in occurring], n),
    }
    for name in classes:
        there = [name] if name in occurring else []
        key = slug(name)
        found[f"ap50.{key}"] = _mean_of([_coco(matches[each], [0]) for each in there], n)
        found[f"ap50_95.{key}"] = _mean_of([_coco(matches[each], range(len(IOUS))) for each in there], n)
        found[f"froc.{key}"] = _mean_of([_froc(matches[each]) for each in there], n)
        taken = int(((matches[name].scores >= threshold) & ~matches[name].ignored[0]).sum())
        for share, boxes, of_found in (("sensitivity50", int(matches[name].wanted.sum()), False), ("precision50", taken, True)):
            rate = _statistic(_rate(matches[name], threshold, of_found=of_found), n)
            found[f"{share}.{key}"] = replace(rate, n=boxes, proportion=True)
    return found


def _statistic(draw: Replicate, n: int) -> Statistic:
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(draw(np.ones((1, n)))[0])
    return Statistic(value if np.isfinite(value) else None, n, draw)


def _mean_of(draws: Sequence[Replicate], n: int) -> Statistic:
    if not draws:
        return Statistic(None, 0, lambda weights: np.full(len(weights), np.nan))
    if len(draws) == 1:
        return _statistic(draws[0], n)

    def draw(weights: FloatArray) -> FloatArray:
        stacked = np.stack([each(weights) for each in draws])
        held = np.isfinite(stacked).sum(axis=0)
        average: FloatArray = np.nansum(stacked, axis=0) / np.where(held, held, np.nan)
        return average

    return _statistic(draw, n)


def counts(matches: Matches, weights: FloatArray, threshold: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Hits and false alarms down to each box (draws, boxes), and how many are wanted (draws,)."""
    drawn = weights[:, matches.image] * ~matches.ignored[threshold]
    hits = np.cumsum(drawn * matches.hit[threshold], axis=1)
    alarms = np.cumsum(drawn * ~matches.hit[threshold], axis=1)
    return hits, alarms, weights @ matches.wanted


def _envelope(matches: Matches, weights: FloatArray, threshold: int) -> tuple[FloatArray, FloatArray]:
    """Recall and the highest precision at that recall or beyond."""
    hits, alarms, wanted = counts(matches, weights, threshold)
    precision = hits / np.maximum(hits + alarms, 1e-12)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return hits / wanted[:, None], best


def _coco(matches: Matches, thresholds: Sequence[int] | range) -> Replicate:
    def draw(weights: FloatArray) -> FloatArray:
        total = np.zeros(len(weights))
        for threshold in thresholds:
            recall, precision = _envelope(matches, weights, threshold)
            total += [_at_recalls(*row) for row in zip(recall, precision, strict=True)]
        return np.where(weights @ matches.wanted > 0, total / len(thresholds), np.nan)

    return draw


def _at_recalls(recall: FloatArray, precision: FloatArray) -> float:
    where = np.searchsorted(recall, RECALLS, side="left")
    return float(precision[where[where < len(precision)]].sum()) / len(RECALLS)


def _area(matches: Matches) -> Replicate:
    """VOC since 2010: the area below the envelope."""

    def draw(weights: FloatArray) -> FloatArray:
        recall, precision = _envelope(matches, weights, 0)
        area: FloatArray = (np.diff(recall, axis=1, prepend=0) * precision).sum(axis=1)
        share: FloatArray = np.where(weights @ matches.wanted > 0, area, np.nan)
        return share

    return draw


def _froc(matches: Matches) -> Replicate:
    """Mean sensitivity at 1/8 to 8 false alarms an item, IoU 0.5 (as LUNA16; MONAI's interpolation)."""

    def draw(weights: FloatArray) -> FloatArray:
        alarms, found = froc_curve(matches, weights)
        scores = [np.interp(FALSE_POSITIVES, each, sensitivity).mean() for each, sensitivity in zip(alarms, found, strict=True)]
        return np.where(weights @ matches.wanted > 0, np.array(scores), np.nan)

    return draw


def froc_curve(matches: Matches, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """False alarms an item and sensitivity at each distinct score, (draws, points), from none on."""
    hits, alarms, wanted = counts(matches, weights, 0)
    distinct = np.append(np.flatnonzero(np.diff(matches.scores)), len(matches.scores) - 1) if len(matches.scores) else np.empty(0, np.intp)
    start = np.zeros((len(weights), 1))
    per_item = np.concatenate([start, alarms[:, distinct] / weights.sum(axis=1)[:, None]], axis=1)
    return per_item, np.concatenate([start, hits[:, distinct] / wanted[:, None]], axis=1)


def pr_curve(matches: Matches) -> tuple[FloatArray, FloatArray]:
    """Recall and precision of the items as they are, IoU 0.5."""
    hits, alarms, wanted = counts(matches, np.ones((1, len(matches.wanted))), 0)
    return hits[0] / max(wanted[0], 1e-12), hits[0] / np.maximum(hits[0] + alarms[0], 1e-12)


def _rate(matches: Matches, threshold: float, *, of_found: bool) -> Replicate:
    taken = matches.scores >= threshold

    def draw(weights: FloatArray) -> FloatArray:
        drawn = weights[:, matches.image] * taken * ~matches.ignored[0]
        hits: FloatArray = (drawn * matches.hit[0]).sum(axis=1)
        total = drawn.sum(axis=1) if of_found else weights @ matches.wanted
        return hits / total

    return draw
