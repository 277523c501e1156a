"""Grey level co-occurrence (Haralick, 1973; IBSI 3.6): how often grey levels lie beside each other.

One symmetric matrix for each of the 4 (2-D) or 13 (3-D) directions at distance 1; a feature is the mean over the
directions that have a pair of voxels (IBSI's aggregation 'without merging').
"""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.features.region import Region
from models.filters import neighbours

Matrix = NDArray[np.float64]


def glcm_features(region: Region, *, bin_width: float | None = None, bins: int = 32, distance: int = 1) -> dict[str, float]:
    """Features of the co-occurrence matrices."""
    levels, number = region.levels(bin_width, bins)
    matrices = co_occurrence(levels, number, distance)
    if not len(matrices):  # a region whose voxels have no neighbours
        matrices = np.zeros((1, number, number))
        matrices[0, 0, 0] = 1.0
    return {f"glcm.{name}": float(values.mean()) for name, values in _features(matrices).items()}


def co_occurrence(levels: NDArray[np.integer[Any]], number: int, distance: int = 1) -> Matrix:
    """(directions, levels, levels) of probabilities, symmetric; directions without a pair are left out.

    Parameters
    ----------
    levels
        Grey levels from 1; 0 does not count.
    """
    small = levels.astype(np.uint8, copy=False) if number < 256 else levels
    found = []
    for offset in directions(levels.ndim):
        here, there = neighbours([step * distance for step in offset])
        pairs = _pairs(small[here], small[there], number)
        total = pairs.sum()
        if total:
            found.append((pairs + pairs.T) / (2.0 * total))
    return np.stack(found) if found else np.zeros((0, number, number))


def _pairs(here: NDArray[Any], there: NDArray[Any], number: int) -> Matrix:
    """How often each level lies beside each other one; OpenCV counts small numbers faster than NumPy, exactly below 2^24."""
    width = number + 1
    if number < 256 and 0 < here.size < 2**24:
        channels = [np.ascontiguousarray(each).reshape(1, -1) for each in (here, there)]
        counts = cv2.calcHist(channels, [0, 1], None, [width, width], [0, width, 0, width])
    else:
        counts = np.bincount((here.astype(np.int64) * width + there).ravel(), minlength=width * width).reshape(width, width)
    return np.asarray(counts, dtype=np.float64)[1:, 1:]


def directions(axes: int) -> list[tuple[int, ...]]:
    """One of each pair of opposite neighbours: 4 in two dimensions, 13 in three."""
    return [each for each in itertools.product((-1, 0, 1), repeat=axes) if each > (0,) * axes]


def _features(p: Matrix) -> dict[str, NDArray[np.float64]]:
    """Each feature for each matrix."""
    number = p.shape[1]
    i, j = (axis + 1.0 for axis in np.meshgrid(np.arange(number), np.arange(number), indexing="ij"))
    apart = np.abs(i - j)
    mean = _sum(p * i)
    variance = _sum(p * (i - mean[:, None, None]) ** 2)
    difference, sums = _diagonals(p, number)
    k, s = np.arange(number, dtype=np.float64), np.arange(2, 2 * number + 1, dtype=np.float64)
    difference_mean, sum_mean = difference @ k, sums @ s
    around = i + j - 2 * mean[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.where(variance > 1e-12, (_sum(p * i * j) - mean**2) / variance, 1.0)
        inverse = np.where(apart > 0, 1.0 / np.where(apart > 0, apart, 1.0) ** 2, 0.0)
    return {
        "joint_maximum": p.max(axis=(1, 2)),
        "joint_average": mean,
        "joint_variance": variance,
        "joint_entropy": _entropy(p.reshape(len(p), -1)),
        "difference_average": difference_mean,
        "difference_variance": (difference * (k - difference_mean[:, None]) ** 2).sum(1),
        "difference_entropy": _entropy(difference),
        "sum_average": sum_mean,
        "sum_variance": (sums * (s - sum_mean[:, None]) ** 2).sum(1),
        "sum_entropy": _entropy(sums),
        "angular_second_moment": _sum(p * p),
        "contrast": _sum(p * apart**2),
        "dissimilarity": _sum(p * apart),
        "inverse_difference": _sum(p / (1 + apart)),
        "normalised_inverse_difference": _sum(p / (1 + apart / number)),
        "inverse_difference_moment": _sum(p / (1 + apart**2)),
        "normalised_inverse_difference_moment": _sum(p / (1 + (apart / number) ** 2)),
        "inverse_variance": _sum(p * inverse),
        "correlation": correlation,
        "autocorrelation": _sum(p * i * j),
        "cluster_tendency": _sum(p * around**2),
        "cluster_shade": _sum(p * around**3),
        "cluster_prominence": _sum(p * around**4),
    }


def _diagonals(p: Matrix, number: int) -> tuple[Matrix, Matrix]:
    """Probabilities of differences 0..n-1 and of sums 2..2n, for each matrix."""
    flat = p.reshape(len(p), -1)
    rows, columns = np.indices((number, number)).reshape(2, -1)
    difference, sums = np.zeros((len(p), number)), np.zeros((len(p), 2 * number - 1))
    for matrix, of_difference, of_sum in zip(flat, difference, sums, strict=True):
        of_difference += np.bincount(np.abs(rows - columns), matrix, minlength=number)
        of_sum += np.bincount(rows + columns, matrix, minlength=2 * number - 1)
    return difference, sums


def _sum(values: Matrix) -> NDArray[np.float64]:
    total: NDArray[np.float64] = values.sum(axis=(1, 2))
    return total


def _entropy(p: Matrix) -> NDArray[np.float64]:
    terms = p * np.log2(np.where(p > 0, p, 1.0))
    total: NDArray[np.float64] = -terms.sum(axis=1)
    return total + 0.0
