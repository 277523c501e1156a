"""Figures of segmentations: MONAI's agree with SciPy and SimpleITK, and empty structures mean what the report says."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

from models.evaluation.protocol import Case
from models.evaluation.segmentation import bland_altman, case_values, compare_masks, presence, statistics

SPACING = (3.0, 0.7, 1.2)


def ball(
    centre: tuple[int, ...], radius: float, shape: tuple[int, ...] = (24, 40, 36), spacing: tuple[float, ...] = SPACING
) -> NDArray[np.bool_]:
    grid = np.indices(shape)
    distance = sum(((axis - c) * step) ** 2 for axis, c, step in zip(grid, centre, spacing, strict=True))
    return np.asarray(distance <= radius**2)


def surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def surface_distances(one: NDArray[np.bool_], other: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    return np.asarray(ndimage.distance_transform_edt(~surface(other), sampling=spacing)[surface(one)])


@pytest.mark.parametrize(("shape", "spacing"), [((24, 40, 36), SPACING), ((60, 50), (0.5, 2.0))])
def test_figures_agree_with_scipy_and_simpleitk(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    middle = tuple(side // 2 for side in shape)
    reference = ball(middle, 9.0, shape, spacing)
    found = ball(tuple(c + 1 for c in middle), 8.0, shape, spacing)
    found[(slice(2, 4),) * len(shape)] = True  # something far off
    values = compare_masks(found, reference, spacing)

    both = np.count_nonzero(found & reference)
    assert values["dice"] == pytest.approx(2 * both / (found.sum() + reference.sum()), abs=1e-6)
    assert values["iou"] == pytest.approx(both / np.count_nonzero(found | reference), abs=1e-6)
    there, back = surface_distances(found, reference, spacing), surface_distances(reference, found, spacing)
    assert values["asd"] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)
    assert values["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)

    one, other = (SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (found, reference))
    for image in (one, other):
        image.SetSpacing(tuple(reversed(spacing)))
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(other, one)
    assert values["dice"] == pytest.approx(overlap.GetDiceCoefficient(), abs=1e-6)
    assert values["iou"] == pytest.approx(overlap.GetJaccardCoefficient(), abs=1e-6)
    distances = SimpleITK.GetArrayFromImage(
        SimpleITK.SignedMaurerDistanceMap(SimpleITK.LabelContour(other), squaredDistance=False, useImageSpacing=True)
    )
    contour = SimpleITK.GetArrayFromImage(SimpleITK.LabelContour(one)) > 0
    assert there.mean() == pytest.approx(np.abs(distances[contour]).mean(), rel=1e-4)


def test_a_structure_cut_by_the_edge_of_the_image_has_a_surface_there() -> None:
    reference = np.zeros((10, 10), bool)
    reference[:6, :6] = True
    found = np.zeros_like(reference)
    found[1:6, :6] = True
    assert compare_masks(found, reference, (2.0, 1.0))["hd95"] == pytest.approx(2.0)


def test_volumes_are_in_ml_and_areas_in_square_millimetres() -> None:
    reference, found = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    reference[:, :, :5], found[:, :, :6] = True, True
    values = compare_masks(found, reference, (1.0, 1.0, 2.0))
    assert values["reference"] == pytest.approx(1.0)
    assert values["volume_bias"] == pytest.approx(0.2)
    assert values["volume_error"] == pytest.approx(20.0)
    assert compare_masks(found[0], reference[0], (1.0, 2.0))["reference"] == pytest.approx(100.0)


def test_empty_structures_are_defined() -> None:
    empty, full = np.zeros((4, 8, 8), bool), ball((2, 4, 4), 2.0, (4, 8, 8), (1, 1, 1))
    neither = compare_masks(empty, empty, (1, 1, 1))
    assert (neither["dice"], neither["iou"], neither["hd95"], neither["volume_bias"]) == (None, None, None, None)
    for found, reference in ((empty, full), (full, empty)):
        values = compare_masks(found, reference, (1, 1, 1))
        assert (values["dice"], values["iou"], values["asd"], values["hd95"]) == (0.0, 0.0, None, None)


def test_a_missing_answer_counts_as_an_empty_one_and_the_mean_is_over_the_classes_that_are_there() -> None:
    full, empty = ball((2, 4, 4), 2.0, (4, 8, 8), (1, 1, 1)), np.zeros((4, 8, 8), bool)
    values = case_values({"A": full}, {"A": full, "B b": full, "C": empty}, (1, 1, 1))
    assert (values["dice.a"], values["dice.b_b"], values["dice.c"]) == (1.0, 0.0, None)
    assert values["dice.mean"] == pytest.approx(0.5)
    cases = [Case("1", "p", values=values), Case("2", "q", values=case_values({}, {"A": full, "B b": full, "C": full}, (1, 1, 1)))]
    found = statistics(cases, ["A", "B b", "C"])
    assert (found["dice.a"].value, found["dice.a"].n) == (pytest.approx(0.5), 2)
    assert (found["dice.c"].value, found["dice.c"].n) == (0.0, 1)
    assert found["hd95.b_b"].value is None
    assert presence(cases, "C") == {"both": 0, "missed": 1, "only_found": 0, "neither": 1}


def test_bland_altman_has_bias_and_limits_of_agreement() -> None:
    pairs = [(10.0, 11.0), (20.0, 22.0), (30.0, 33.0), (40.0, 40.0)]
    cases = [Case(str(i), str(i), values={"reference.a": one, "found.a": other}) for i, (one, other) in enumerate(pairs)]
    found = bland_altman(cases, "A")
    apart = np.array([1.0, 2.0, 3.0, 0.0])
    assert found["bias"] == pytest.approx(apart.mean())
    assert (found["low"], found["high"]) == pytest.approx(
        (apart.mean() - 1.96 * apart.std(ddof=1), apart.mean() + 1.96 * apart.std(ddof=1))
    )
    assert bland_altman(cases[:1], "A")["low"] is None
    assert bland_altman([], "A")["bias"] is None
