"""Boxes under transforms, targets, decoding, and average precision as evaluation has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import SpatialPadd
from monai.transforms.spatial.dictionary import Flipd, RandAffined, Resized, Rotate90d

from models.detection import STRIDE, CentreNet, Detections, PaintedBoxesd, decode, intersection_over_union, suppress
from models.training.detection import average_precision, clipped, giou_loss, targets
from models.training.prepared import moved_boxes

SHAPE = (128, 64)
BOXES = torch.tensor([[10.0, 12.0, 50.0, 30.0], [70.0, 20.0, 90.0, 60.0]])


@pytest.mark.parametrize(
    "transform",
    [
        Flipd("image", spatial_axis=0),
        Flipd("image", spatial_axis=1),
        Rotate90d("image"),
        Resized("image", spatial_size=(64, 96), mode="nearest"),
        SpatialPadd("image", spatial_size=(160, 80)),
        RandAffined("image", prob=1.0, scale_range=(0.2, 0.2), translate_range=(5, 3), mode="nearest", padding_mode="zeros"),
        Compose([Flipd("image", spatial_axis=1), Resized("image", spatial_size=(200, 100), mode="nearest")]),
    ],
)
def test_boxes_go_where_the_pixels_go(transform: Compose) -> None:
    if isinstance(transform, RandAffined):
        transform.set_random_state(3)
    for number, box in enumerate(BOXES):
        image = MetaTensor(torch.zeros(1, *SHAPE), affine=torch.eye(4, dtype=torch.float64))
        left, top, right, bottom = (int(side) for side in box)
        image[0, left:right, top:bottom] = 1
        moved = transform({"image": image})["image"]
        where = torch.nonzero(moved.as_tensor()[0] > 0.5)
        seen = torch.cat([where.amin(0), where.amax(0) + 1]).float()
        found = clipped(moved_boxes(BOXES, image.affine, moved.affine), torch.zeros(2), tuple(moved.shape[1:]))[0][number]
        assert (found - seen).abs().max() <= 1.01


def test_a_box_mostly_outside_is_not_asked_for() -> None:
    boxes = torch.tensor([[-30.0, 0.0, 10.0, 20.0], [-5.0, 0.0, 15.0, 20.0]])
    kept, classes = clipped(boxes, torch.tensor([0, 1]), SHAPE)
    assert kept.tolist() == [[0.0, 0.0, 15.0, 20.0]]
    assert classes.tolist() == [1]


def test_targets_decode_to_the_boxes_they_were_made_of() -> None:
    classes = torch.tensor([1, 0])
    heat, corners, weight = targets(BOXES, classes, 2, SHAPE)
    x, y = (torch.arange(SHAPE[0] // STRIDE) + 0.5) * STRIDE, (torch.arange(SHAPE[1] // STRIDE) + 0.5) * STRIDE
    centre = torch.stack(torch.meshgrid(x, y, indexing="ij"))
    sides = torch.cat([centre - corners[:2], corners[2:] - centre])
    found = decode(torch.cat([torch.logit(heat.clamp(1e-4, 1 - 1e-4)), sides]), least=0.9)
    assert {(int(number), tuple(box.tolist())) for number, box in zip(found.classes, found.boxes, strict=True)} == {
        (1, tuple(BOXES[0].tolist())),
        (0, tuple(BOXES[1].tolist())),
    }
    assert float(giou_loss(sides[None], corners[None], weight[None])) == pytest.approx(0, abs=1e-6)
    painted = PaintedBoxesd("pred")({"pred": torch.cat([torch.logit(heat.clamp(1e-4, 1 - 1e-4)), sides])})["pred"]
    assert painted.shape == (1, *SHAPE)
    assert painted[0, 10:50, 12:30].eq(2).all()
    assert painted[0, 70:90, 20:60].eq(1).all()


def test_no_boxes_give_no_targets_and_a_loss_without_them() -> None:
    heat, corners, weight = targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 2, SHAPE)
    assert not heat.any()
    assert not weight.any()
    assert float(giou_loss(torch.ones(1, 4, 32, 16), corners[None], weight[None])) == 0


def test_the_network_answers_on_the_quarter_grid_with_positive_sides() -> None:
    output = CentreNet(3, 2, features=(8, 8, 8, 8, 8, 8)).eval()(torch.rand(1, 3, 128, 64)).detach()
    assert output.shape == (1, 6, 32, 16)
    assert (output[:, 2:] > 0).all()
    assert float(output[:, :2].sigmoid().max()) < 0.2


def test_of_overlapping_boxes_of_a_class_the_best_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [0, 0, 10, 10], [20, 20, 30, 30]])
    kept = suppress(boxes, torch.tensor([0.5, 0.9, 0.4, 0.3]), torch.tensor([0, 0, 1, 0]), 0.5)
    assert kept.tolist() == [1, 2, 3]


def test_overlaps_agree_with_monai() -> None:
    from monai.data.box_utils import box_iou

    generator = torch.Generator().manual_seed(0)
    low = torch.rand(20, 2, generator=generator) * 50
    boxes = torch.cat([low, low + 1 + torch.rand(20, 2, generator=generator) * 50], dim=1)
    assert torch.allclose(intersection_over_union(boxes, boxes.flip(0)), box_iou(boxes, boxes.flip(0)), atol=1e-5)


def test_average_precision_agrees_with_the_evaluation() -> None:
    from models.datasets.protocol import Box
    from models.evaluation.detection import statistics
    from models.evaluation.protocol import Case, ScoredBox

    generator = np.random.default_rng(4)
    found, true, cases = [], [], []
    for number in range(12):
        low = generator.uniform(0, 80, (6, 2))
        boxes = np.concatenate([low, low + generator.uniform(10, 40, (6, 2))], axis=1)
        guesses = np.concatenate([boxes + generator.normal(0, 4, boxes.shape), generator.uniform(0, 50, (4, 4)) + np.array([0, 0, 50, 50])])
        scores = np.sort(generator.uniform(0.1, 1, len(guesses)))[::-1].copy()
        truth = torch.from_numpy(boxes).float()
        true.append((truth, torch.zeros(6, dtype=torch.long)))
        found.append(Detections(torch.from_numpy(guesses).float(), torch.from_numpy(scores), torch.zeros(len(guesses), dtype=torch.long)))
        cases.append(
            Case(
                id=str(number),
                subject=str(number),
                boxes=tuple(ScoredBox("cell", float(score), *map(float, box)) for score, box in zip(scores, guesses, strict=True)),
                truth_boxes=tuple(Box("cell", *map(float, box)) for box in boxes),
            )
        )
    value = average_precision(found, true, 0)
    assert value is not None
    assert 0.2 < value < 0.95
    assert value == pytest.approx(statistics(cases, ["cell"])["map50.voc"].value, abs=0.02)
    assert average_precision(found, true, 1) is None
