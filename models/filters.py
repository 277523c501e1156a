"""Smoothing filters on 2-D and 3-D images, in voxels or in millimetres.

All take an array (x, y[, z]) of numbers and give float32 of the same shape. Outside the image its border is
repeated. ``spacing`` are the millimetres between voxels, one for each axis; with it, sizes and widths are
millimetres, without it voxels. SciPy and OpenCV do the work where they have the filter; OpenCV is several times
faster in two dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

FloatImage = NDArray[np.float32]
TRUNCATE = 4.0  # widths at which the Gaussian's tail is cut
BILATERAL_TRUNCATE = 2.0


class FilterRefused(ValueError):
    """A filter cannot be used on this image, or with these parameters."""


def mean_filter(image: NDArray[Any], size: float | Sequence[float], spacing: Sequence[float] | None = None) -> FloatImage:
    """Mean over a box.

    g(p) = (1 / |B|) * sum over q in B of f(p + q), with B a box of ``size`` voxels a side (odd; millimetres are
    rounded to the nearest odd number of voxels).
    """
    values = _checked(image)
    sizes = _odd_sizes(size, values.ndim, spacing)
    if values.ndim == 2:
        return _float(cv2.blur(values, (sizes[1], sizes[0]), borderType=cv2.BORDER_REPLICATE))
    return _float(ndimage.uniform_filter(values, sizes, mode="nearest"))


def median_filter(image: NDArray[Any], size: float | Sequence[float], spacing: Sequence[float] | None = None) -> FloatImage:
    """Median over a box.

    g(p) = median of { f(p + q) : q in B }, with B a box of ``size`` voxels a side (odd).
    """
    values = _checked(image)
    sizes = _odd_sizes(size, values.ndim, spacing)
    if values.ndim == 2 and sizes[0] == sizes[1] and sizes[0] in (3, 5):
        return _float(cv2.medianBlur(values, sizes[0]))
    return _float(ndimage.median_filter(values, sizes, mode="nearest"))


def gaussian_filter(image: NDArray[Any], sigma: float | Sequence[float], spacing: Sequence[float] | None = None) -> FloatImage:
    """Gaussian smoothing.

    g(p) = sum over q of G(q) f(p + q) / sum over q of G(q), G(q) = exp(-sum over axes of q_a^2 / (2 sigma_a^2)),
    cut at 4 sigma.
    """
    values = _checked(image)
    sigmas = _widths(sigma, values.ndim, spacing, "sigma")
    if values.ndim == 2 and all(sigmas):
        kernels = [2 * int(TRUNCATE * each + 0.5) + 1 for each in sigmas]
        size = (kernels[1], kernels[0])
        return _float(cv2.GaussianBlur(values, size, sigmaX=sigmas[1], sigmaY=sigmas[0], borderType=cv2.BORDER_REPLICATE))
    return _float(ndimage.gaussian_filter(values, sigmas, mode="nearest", truncate=TRUNCATE))


def bilateral_filter(
    image: NDArray[Any], sigma: float | Sequence[float], sigma_intensity: float, spacing: Sequence[float] | None = None
) -> FloatImage:
    """Smoothing that keeps edges (Tomasi and Manduchi, 1998).

    g(p) = sum over q of w(p, q) f(q) / sum over q of w(p, q),
    w(p, q) = exp(-|p - q|^2 / (2 sigma^2)) * exp(-(f(p) - f(q))^2 / (2 sigma_intensity^2)),
    q over the ellipsoid of 2 sigma around p. OpenCV has it in two dimensions with one sigma. No library has it in three
    with a spacing: for each offset the whole image is weighed at once, and each pair of voxels only once, since
    w(p, q) = w(q, p).
    """
    values = _checked(image)
    if not sigma_intensity > 0:
        raise FilterRefused(f"sigma_intensity is {sigma_intensity}; it must be above 0")
    sigmas = _widths(sigma, values.ndim, spacing, "sigma")
    radii = [int(BILATERAL_TRUNCATE * each) for each in sigmas]
    if _opencv_has(values, sigmas, sigma_intensity):
        size = 2 * radii[0] + 1
        return _float(cv2.bilateralFilter(values, size, sigma_intensity, sigmas[0], borderType=cv2.BORDER_REPLICATE))
    padded = torch.as_tensor(np.pad(values, [(radius, radius) for radius in radii], mode="edge"))
    total, weights = padded.clone(), torch.ones_like(padded)
    for offset in _half_ball(radii, sigmas):
        here, there = neighbours(offset)
        near = float(np.exp(-sum((step / width) ** 2 for step, width in zip(offset, sigmas, strict=True) if step) / 2))
        first, second = padded[here], padded[there]
        weight = (first - second).square_().mul_(-0.5 / sigma_intensity**2).exp_().mul_(near)
        total[here].addcmul_(weight, second)
        total[there].addcmul_(weight, first)
        weights[here].add_(weight)
        weights[there].add_(weight)
    inner = tuple(slice(radius, radius + size) for radius, size in zip(radii, values.shape, strict=True))
    return _float((total[inner] / weights[inner]).numpy())


def _opencv_has(values: FloatImage, sigmas: Sequence[float], sigma_intensity: float) -> bool:
    """Whether OpenCV's filter is this one: the same disc of whole pixels, and weights that its table of 4096 values resolves."""
    if values.ndim != 2 or sigmas[0] != sigmas[1] or sigmas[0] < 0.5 or float(np.ptp(values)) > 40 * sigma_intensity:
        return False
    reach = BILATERAL_TRUNCATE * sigmas[0]
    whole = int(reach)
    squares = np.add.outer(np.arange(whole + 1) ** 2, np.arange(whole + 1) ** 2)
    return not ((squares > whole**2) & (squares <= reach**2 + 1e-9)).any()


def _half_ball(radii: Sequence[int], sigmas: Sequence[float]) -> list[tuple[int, ...]]:
    """Offsets within the ellipsoid, one of each opposite pair, without the centre."""
    limit = BILATERAL_TRUNCATE**2 + 1e-9
    offsets = itertools.product(*(range(-radius, radius + 1) for radius in radii))
    inside = (each for each in offsets if sum((step / width) ** 2 for step, width in zip(each, sigmas, strict=True) if step) <= limit)
    return [each for each in inside if each > (0,) * len(radii)]


def neighbours(offset: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices for two views of an array: the voxels, and their neighbours at ``offset``."""
    here = tuple(slice(max(0, -step), -step if step > 0 else None) for step in offset)
    there = tuple(slice(max(0, step), step if step < 0 else None) for step in offset)
    return here, there


def eight_bits(image: NDArray[Any], values: NDArray[Any] | None = None) -> NDArray[np.uint8]:
    """Stretched to 0..255 between the lowest and the highest of ``values``, by default the image's own; beyond them it is cut."""
    of = image if values is None else values
    low, high = float(of.min()), float(of.max())
    stretched = np.clip((image - low) * (255.0 / max(high - low, 1e-12)), 0, 255)
    return np.ascontiguousarray(stretched.round().astype(np.uint8))


def _checked(image: NDArray[Any]) -> FloatImage:
    if image.ndim not in (2, 3) or not image.size:
        raise FilterRefused(f"an image has two or three axes and at least one voxel, this one has the shape {image.shape}")
    values = np.ascontiguousarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise FilterRefused("the image has values that are not finite (NaN or infinite)")
    return values


def _widths(width: float | Sequence[float], axes: int, spacing: Sequence[float] | None, name: str) -> list[float]:
    """One width for each axis, in voxels."""
    widths = [float(width)] * axes if isinstance(width, int | float) else [float(each) for each in width]
    steps = [1.0] * axes if spacing is None else [float(each) for each in spacing]
    if len(widths) != axes or len(steps) != axes:
        raise FilterRefused(f"{name} and spacing need one number, or {axes}, one for each axis")
    if any(not each >= 0 for each in widths) or any(not each > 0 for each in steps):
        raise FilterRefused(f"{name} must not be negative, and spacing must be above 0")
    return [each / step for each, step in zip(widths, steps, strict=True)]


def _odd_sizes(size: float | Sequence[float], axes: int, spacing: Sequence[float] | None) -> list[int]:
    widths = _widths(size, axes, spacing, "size")
    if spacing is None and any(each < 1 or each % 2 != 1 for each in widths):
        raise FilterRefused(f"size is {size}; in voxels it must be odd")
    return [2 * int(each / 2) + 1 for each in widths]


def _float(values: NDArray[Any]) -> FloatImage:
    return np.asarray(values, dtype=np.float32)
