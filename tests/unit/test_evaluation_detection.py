"""Figures of detections agree with pycocotools and with MONAI's own COCO and FROC figures."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou
from monai.metrics.froc import compute_froc_curve_data, compute_froc_score
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models.datasets.protocol import Box
from models.evaluation import detection
from models.evaluation.protocol import Case, ScoredBox

CLASSES = ("RBC", "WBC", "Platelets")


def made(n: int = 20, seed: int = 0) -> list[Case]:
    rng = np.random.default_rng(seed)
    cases = []
    for number in range(n):
        true, found = [], []
        for _ in range(rng.integers(0, 9)):
            label, (x, y), side = CLASSES[rng.integers(3)], rng.uniform(0, 200, 2), rng.uniform(20, 60)
            true.append(Box(label, x, y, x + side, y + side))
            if rng.random() < 0.8:
                off = rng.normal(0, side * 0.08, 4)
                found.append(ScoredBox(label, float(rng.random()), x + off[0], y + off[1], x + side + off[2], y + side + off[3]))
        for _ in range(rng.integers(0, 4)):
            x, y = rng.uniform(0, 200, 2)
            found.append(ScoredBox(CLASSES[rng.integers(3)], float(rng.random()), x, y, x + 30, y + 30))
        cases.append(Case(str(number), str(number // 2), boxes=tuple(found), truth_boxes=tuple(true)))
    return cases


def by_pycocotools(cases: list[Case]) -> tuple[float, float]:
    annotations, found = [], []
    for image, case in enumerate(cases, start=1):
        for box in case.truth_boxes:
            side = [box.x_min, box.y_min, box.x_max - box.x_min, box.y_max - box.y_min]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": CLASSES.index(box.label) + 1,
                    "bbox": side,
                    "area": side[2] * side[3],
                    "iscrowd": 0,
                }
            )
        for each in case.boxes:
            side = [each.x_min, each.y_min, each.x_max - each.x_min, each.y_max - each.y_min]
            found.append({"image_id": image, "category_id": CLASSES.index(each.label) + 1, "bbox": side, "score": each.score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(1, len(cases) + 1)],
            "annotations": annotations,
            "categories": [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)],
            "info": {},
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(found), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return float(judged.stats[0]), float(judged.stats[1])


def by_monai(cases: list[Case]) -> dict[str, float]:
    def corners(boxes: tuple[Box, ...] | tuple[ScoredBox, ...]) -> np.ndarray:
        return np.array([(box.x_min, box.y_min, box.x_max, box.y_max) for box in boxes]).reshape(-1, 4)

    metric = COCOMetric(classes=list(CLASSES), iou_list=[0.5], iou_range=(0.5, 0.95, 0.05), max_detection=[100], per_class=True)
    results = matching_batch(
        iou_fn=box_iou,
        iou_thresholds=metric.iou_thresholds,
        pred_boxes=[corners(case.boxes) for case in cases],
        pred_classes=[np.array([CLASSES.index(box.label) for box in case.boxes], int) for case in cases],
        pred_scores=[np.array([box.score for box in case.boxes]) for case in cases],
        gt_boxes=[corners(case.truth_boxes) for case in cases],
        gt_classes=[np.array([CLASSES.index(box.label) for box in case.truth_boxes], int) for case in cases],
    )
    return {name: float(value) for name, value in metric(results)[0].items()}


def test_average_precision_agrees_with_pycocotools_and_monai() -> None:
    cases = made()
    found = detection.statistics(cases, CLASSES)
    overall, half = by_pycocotools(cases)
    assert found["map50"].value == pytest.approx(half, abs=1e-9)
    assert found["map50_95"].value == pytest.approx(overall, abs=1e-9)
    theirs = by_monai(cases)
    for name in CLASSES:
        assert found[f"ap50.{name.lower()}"].value == pytest.approx(theirs[f"{name}_AP_IoU_0.50_MaxDet_100"], abs=1e-6)


def test_a_draw_is_the_figure_of_the_drawn_items() -> None:
    cases = made(12, seed=4)
    weights = np.random.default_rng(0).integers(0, 3, size=(4, 12))
    found = detection.statistics(cases, CLASSES)
    for row in weights:
        drawn = [case for case, count in zip(cases, row, strict=True) for _ in range(count)]
        expected = detection.statistics(drawn, CLASSES)
        for name in ("map50", "map50_95", "map50.voc", "froc", "sensitivity50.rbc", "precision50.rbc"):
            value = expected[name].value
            assert value is not None
            # Two copies of one item stand one after the other in a list; a weight counts both at once.
            assert found[name].replicate(row[None].astype(float))[0] == pytest.approx(value, abs=0.02), name


def test_froc_agrees_with_monai() -> None:
    cases = made(seed=2)
    for name, each in detection.match(cases, CLASSES).items():
        hit = each.hit[0]
        alarms, sensitivity = compute_froc_curve_data(each.scores[~hit], each.scores[hit], int(each.wanted.sum()), len(cases))
        # MONAI leaves the lowest threshold out; with it the curve reaches the last box.
        alarms = np.concatenate([[np.sum(~hit) / len(cases)], alarms])
        sensitivity = np.concatenate([[hit.sum() / each.wanted.sum()], sensitivity])
        expected = compute_froc_score(alarms, sensitivity, detection.FALSE_POSITIVES)
        found = detection.statistics(cases, CLASSES)[f"froc.{name.lower()}"].value
        assert found == pytest.approx(float(expected), abs=1e-9)


def test_no_boxes_no_answer_and_absent_classes_are_defined() -> None:
    cases = [
        Case("1", "1", reason="The images are blank.", truth_boxes=(Box("RBC", 0, 0, 10, 10),)),
        Case("2", "2", boxes=(ScoredBox("RBC", 0.9, 0, 0, 10, 10),), truth_boxes=(Box("RBC", 0, 0, 10, 10),)),
        Case("3", "3", boxes=(ScoredBox("WBC", float("nan"), 0, 0, 10, 10),)),
    ]
    found = detection.statistics(cases, ("RBC", "WBC"))
    assert found["sensitivity50.rbc"].value == 0.5
    assert found["ap50.wbc"].value is None
    assert found["map50"].value == found["ap50.rbc"].value
    empty = detection.statistics([Case("1", "1")], ("RBC",))
    assert empty["map50"].value is None


def test_difficult_boxes_are_neither_asked_nor_counted() -> None:
    marked = (Box("RBC", 0, 0, 10, 10), Box("RBC", 50, 50, 60, 60, difficult=True))
    found = (ScoredBox("RBC", 0.9, 50, 50, 60, 60), ScoredBox("RBC", 0.8, 0, 0, 10, 10))
    for boxes in (found, found[1:]):
        figures = detection.statistics([Case("1", "1", boxes=boxes, truth_boxes=marked)], ("RBC",))
        assert figures["map50"].value == pytest.approx(1.0)
        assert figures["precision50.rbc"].value == 1.0
