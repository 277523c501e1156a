"""Feature points: places of an image that can be found again, with a description of what is around them.

SIFT (Lowe, 2004) and ORB (Rublee et al., 2011) as OpenCV has them, on 2-D images; of a volume, slice by slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from models.filters import FilterRefused, eight_bits

Detector = Literal["sift", "orb"]


@dataclass(frozen=True, eq=False)
class FeaturePoints:
    """Points of one image, strongest first.

    Parameters
    ----------
    position
        float32 (points, 2): pixels (x, y), 0-based, the centre of the first pixel is 0.
    scale
        float32 (points,): diameter of the neighbourhood, pixels.
    orientation
        float32 (points,): degrees, clockwise from the x axis.
    response
        float32 (points,): strength.
    descriptor
        (points, 128) float32 of SIFT, (points, 32) uint8 of ORB (256 bits: compare by Hamming distance).
    """

    position: NDArray[np.float32]
    scale: NDArray[np.float32]
    orientation: NDArray[np.float32]
    response: NDArray[np.float32]
    descriptor: NDArray[Any]

    def __len__(self) -> int:
        return len(self.position)

    def millimetres(self, affine: NDArray[Any]) -> NDArray[np.float64]:
        """(points, 3) in the space that the image's 4x4 affine leads to."""
        homogeneous = np.column_stack([self.position, np.zeros(len(self)), np.ones(len(self))])
        return (homogeneous @ np.asarray(affine, dtype=np.float64).T)[:, :3]


def feature_points(image: NDArray[Any], detector: Detector = "sift", most: int = 500) -> FeaturePoints:
    """Find feature points.

    Parameters
    ----------
    image
        (x, y); stretched to 8 bits between its lowest and highest value.

    Raises
    ------
    FilterRefused
        It has not two axes, or values that are not finite.
    """
    if image.ndim != 2 or not np.isfinite(image).all():
        raise FilterRefused(f"feature points need a 2-D image of finite values; this one has the shape {image.shape}")
    made = cv2.SIFT.create(nfeatures=most) if detector == "sift" else cv2.ORB.create(nfeatures=most)
    points, descriptors = made.detectAndCompute(eight_bits(image).T, None)
    order = sorted(range(len(points)), key=lambda number: -points[number].response)[:most]
    empty = np.zeros((0, 128), np.float32) if detector == "sift" else np.zeros((0, 32), np.uint8)
    return FeaturePoints(
        np.array([points[n].pt for n in order], np.float32).reshape(-1, 2),
        np.array([points[n].size for n in order], np.float32),
        np.array([points[n].angle for n in order], np.float32),
        np.array([points[n].response for n in order], np.float32),
        empty if descriptors is None else descriptors[order],
    )


def match(first: FeaturePoints, second: FeaturePoints, ratio: float = 0.75) -> NDArray[np.int64]:
    """(matches, 2) numbers of points that describe the same: nearest, and nearer than ``ratio`` times the second nearest (Lowe)."""
    if len(first) < 1 or len(second) < 2:
        return np.zeros((0, 2), np.int64)
    norm = cv2.NORM_HAMMING if first.descriptor.dtype == np.uint8 else cv2.NORM_L2
    pairs = cv2.BFMatcher(norm).knnMatch(first.descriptor, second.descriptor, k=2)
    good = [(a.queryIdx, a.trainIdx) for a, b in pairs if a.distance < ratio * b.distance]
    return np.array(good, np.int64).reshape(-1, 2)
