"""How strong, how many and in which directions edges are."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.features.region import Region
from models.filters import eight_bits

ORIENTATION_BINS = 9


def edge_features(region: Region) -> dict[str, float]:
    """Gradient magnitude (central differences in the image's units a millimetre) and, of 2-D images, Canny's edges
    and the histogram of gradient orientations."""
    image, mask = region.image[region.box], region.mask[region.box]
    gradients = [_gradient(image, axis, step) for axis, step in enumerate(region.spacing)]
    magnitude = np.sqrt(sum(each * each for each in gradients))[mask]
    found = {
        "edge.gradient_mean": float(magnitude.mean()),
        "edge.gradient_deviation": float(magnitude.std()),
        "edge.gradient_maximum": float(magnitude.max()),
        "edge.gradient_percentile_90": float(np.percentile(magnitude, 90)),
        "edge.laplacian_deviation": float(ndimage.laplace(image, mode="nearest")[mask].std()),
    }
    if image.ndim == 2:
        found |= _canny(region, image, mask) | _orientations(gradients, mask, magnitude)
    return found


def _gradient(image: NDArray[np.float64], axis: int, step: float) -> NDArray[np.float64]:
    if image.shape[axis] < 2:
        return np.zeros_like(image)
    return np.asarray(np.gradient(image, step, axis=axis))


def _canny(region: Region, image: NDArray[np.float64], mask: NDArray[np.bool_]) -> dict[str, float]:
    eight = eight_bits(image, region.values)
    edges = cv2.Canny(eight, 50, 100, L2gradient=True) > 0
    return {"edge.canny_density": float(edges[mask].mean())}


def _orientations(gradients: list[NDArray[np.float64]], mask: NDArray[np.bool_], magnitude: NDArray[np.float64]) -> dict[str, float]:
    """Unsigned orientations over 180 degrees, weighed with the magnitude (Dalal and Triggs, 2005), of the whole region."""
    angles = np.mod(np.arctan2(gradients[1][mask], gradients[0][mask]), np.pi)
    bins = np.minimum((angles / np.pi * ORIENTATION_BINS).astype(np.int64), ORIENTATION_BINS - 1)
    weights = np.bincount(bins, magnitude, minlength=ORIENTATION_BINS)
    total = weights.sum()
    shares = weights / total if total else np.full(ORIENTATION_BINS, 1 / ORIENTATION_BINS)
    found = {f"edge.orientation_{180 * number // ORIENTATION_BINS}deg": float(share) for number, share in enumerate(shares)}
    filled = shares[shares > 0]
    return {**found, "edge.orientation_entropy": float(-(filled * np.log2(filled)).sum()) + 0.0}
