"""Filters agree with SciPy, OpenCV, SimpleITK and with their own formula."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import gaussian as skimage_gaussian

from models.filters import FilterRefused, bilateral_filter, gaussian_filter, mean_filter, median_filter

SHAPES = [(37, 52), (23, 19, 14)]


def picture(shape: tuple[int, ...], seed: int = 1) -> NDArray[np.float32]:
    steps = np.indices(shape)[0] > shape[0] // 2
    return (np.random.default_rng(seed).normal(0, 20, shape) + 200 * steps).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [3, 5, 7])
def test_mean_is_scipys(shape: tuple[int, ...], size: int) -> None:
    image = picture(shape)
    np.testing.assert_allclose(mean_filter(image, size), ndimage.uniform_filter(image, size, mode="nearest"), atol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [3, 5, 7, (3, 5, 7)])
def test_median_is_scipys(shape: tuple[int, ...], size: int | tuple[int, ...]) -> None:
    image = picture(shape)
    wanted = size if isinstance(size, int) else size[: len(shape)]
    np.testing.assert_array_equal(median_filter(image, wanted), ndimage.median_filter(image, wanted, mode="nearest"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [0.8, 2.0, (1.0, 2.5, 0.7)])
def test_gaussian_is_scipys_and_scikit_images(shape: tuple[int, ...], sigma: float | tuple[float, ...]) -> None:
    image = picture(shape)
    wanted = sigma if isinstance(sigma, float) else sigma[: len(shape)]
    found = gaussian_filter(image, wanted)
    np.testing.assert_allclose(found, ndimage.gaussian_filter(image, wanted, mode="nearest"), atol=2e-2)
    np.testing.assert_allclose(found, skimage_gaussian(image, wanted, mode="nearest", preserve_range=True), atol=2e-2)


@pytest.mark.parametrize("shape", [(12, 9), (7, 6, 5)])
@pytest.mark.parametrize("spacing", [None, (1.0, 0.5, 2.0)])
def test_bilateral_is_its_formula(shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> None:
    image = picture(shape)
    steps = np.ones(len(shape)) if spacing is None else np.asarray(spacing[: len(shape)])
    found = bilateral_filter(image, 1.1, 40.0, spacing=None if spacing is None else spacing[: len(shape)])
    np.testing.assert_allclose(found, formula(image, 1.1, 40.0, steps), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("sigma", "narrow"), [(1.5, 40.0), (2.0, 15.0), (1.2, 40.0), (0.4, 40.0), (2.0, 2.0)])
def test_bilateral_is_its_formula_with_and_without_opencv(sigma: float, narrow: float) -> None:
    image = picture((17, 12))
    np.testing.assert_allclose(bilateral_filter(image, sigma, narrow), formula(image, sigma, narrow, np.ones(2)), atol=0.01)


def formula(image: NDArray[np.float32], sigma: float, sigma_intensity: float, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    radius = [int(2 * sigma / step) for step in steps]
    padded = np.pad(image.astype(np.float64), [(r, r) for r in radius], mode="edge")
    result = np.zeros(image.shape)
    for place in np.ndindex(image.shape):
        centre = float(image[place])
        total = weights = 0.0
        for offset in itertools.product(*(range(-r, r + 1) for r in radius)):
            distance = float(np.sum((np.asarray(offset) * steps) ** 2))
            if distance > 4 * sigma**2 + 1e-9:
                continue
            other = float(padded[tuple(p + o + r for p, o, r in zip(place, offset, radius, strict=True))])
            weight = np.exp(-distance / (2 * sigma**2)) * np.exp(-((centre - other) ** 2) / (2 * sigma_intensity**2))
            total, weights = total + weight * other, weights + weight
        result[place] = total / weights
    return result


def test_bilateral_is_opencvs_in_two_dimensions() -> None:
    image = picture((64, 48))
    reference = cv2.bilateralFilter(image, 9, 40.0, 2.0, borderType=cv2.BORDER_REPLICATE)  # a circle of radius 4
    np.testing.assert_allclose(bilateral_filter(image, 2.0, 40.0), reference, atol=0.5)


def test_bilateral_is_near_simpleitks_in_three_dimensions() -> None:
    image = picture((20, 18, 16))
    reference = sitk.GetArrayFromImage(sitk.Bilateral(sitk.GetImageFromArray(image), 1.5, 40.0, 1000))
    difference = np.abs(bilateral_filter(image, 1.5, 40.0) - reference)[3:-3, 3:-3, 3:-3]
    assert difference.mean() < 1.0  # it cuts its kernel at 2.5 sigma and tabulates the second weight
    assert np.abs(image - reference)[3:-3, 3:-3, 3:-3].mean() > 8.0


def test_bilateral_keeps_the_edge_that_gaussian_blurs() -> None:
    image = picture((60, 60))
    edge = slice(29, 33)
    steep = np.ptp(np.median(bilateral_filter(image, 2.0, 50.0), axis=1)[edge])
    assert steep > 1.5 * np.ptp(np.median(gaussian_filter(image, 2.0), axis=1)[edge])


def test_millimetres_are_voxels_times_spacing() -> None:
    image = picture((23, 19, 14))
    spacing = (0.5, 1.0, 2.0)
    np.testing.assert_array_equal(gaussian_filter(image, 2.0, spacing), gaussian_filter(image, (4.0, 2.0, 1.0)))
    np.testing.assert_array_equal(median_filter(image, 3.0, spacing), median_filter(image, (7, 3, 1)))
    np.testing.assert_array_equal(mean_filter(image, 3.0, spacing), mean_filter(image, (7, 3, 1)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    image = picture((8, 8))
    image[3, 3] = value
    for run in (lambda: mean_filter(image, 3), lambda: bilateral_filter(image, 1.0, 10.0)):
        with pytest.raises(FilterRefused, match="finite"):
            run()


def test_parameters_that_mean_nothing_are_refused() -> None:
    image = picture((8, 8))
    with pytest.raises(FilterRefused, match="odd"):
        mean_filter(image, 4)
    with pytest.raises(FilterRefused, match="one for each axis"):
        gaussian_filter(image, (1.0, 1.0, 1.0))
    with pytest.raises(FilterRefused, match="above 0"):
        gaussian_filter(image, 1.0, (1.0, 0.0))
    with pytest.raises(FilterRefused, match="sigma_intensity"):
        bilateral_filter(image, 1.0, 0.0)
    with pytest.raises(FilterRefused, match="two or three axes"):
        mean_filter(np.zeros(5), 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_constant_image_stays_as_it_is(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 7.0, np.float32)
    for found in (mean_filter(image, 3), median_filter(image, 3), gaussian_filter(image, 1.0), bilateral_filter(image, 1.0, 5.0)):
        np.testing.assert_allclose(found, 7.0, rtol=1e-6)
