"""Colour of pictures: moments (Stricker and Orengo, 1995) in RGB, HSV and CIE Lab, and a histogram of hues."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.features.region import FeaturesRefused

HUES = 12


def colour_features(picture: NDArray[Any], mask: NDArray[Any] | None = None) -> dict[str, float]:
    """Mean, deviation and skewness of each channel, and the shares of hues weighed with saturation.

    Parameters
    ----------
    picture
        (3, x, y): red, green, blue from 0 to 255.

    Raises
    ------
    FeaturesRefused
        It has not three channels, values outside 0..255, or an empty or unfitting mask.
    """
    if picture.ndim != 3 or picture.shape[0] != 3:
        raise FeaturesRefused(f"colour needs three channels of a 2-D picture; this one has the shape {picture.shape}")
    inside = np.ones(picture.shape[1:], np.bool_) if mask is None else np.asarray(mask) > 0
    if inside.shape != picture.shape[1:] or not inside.any():
        raise FeaturesRefused("the mask is empty, or has another size than the picture")
    if not np.isfinite(picture).all() or picture.min() < 0 or picture.max() > 255:
        raise FeaturesRefused("the picture has values that are not between 0 and 255")
    rgb = np.ascontiguousarray(picture.transpose(1, 2, 0), dtype=np.float32) / 255.0
    hsv, lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV), cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    found: dict[str, float] = {}
    for space, names, values in (("rgb", "rgb", rgb), ("hsv", "hsv", hsv), ("lab", "lab", lab)):
        for number, name in enumerate(names):
            if (space, name) != ("hsv", "h"):  # an angle has no mean of this kind: its histogram stands for it
                found |= _moments(f"colour.{space}_{name}", values[..., number][inside])
    return found | _hues(hsv[inside])


def _moments(name: str, values: NDArray[Any]) -> dict[str, float]:
    values = values.astype(np.float64)
    mean, deviation = float(values.mean()), float(values.std())
    skewness = float(((values - mean) ** 3).mean()) / deviation**3 if deviation > 1e-9 else 0.0
    return {f"{name}_mean": mean, f"{name}_deviation": deviation, f"{name}_skewness": skewness}


def _hues(hsv: NDArray[Any]) -> dict[str, float]:
    bins = np.minimum((hsv[:, 0] / 360.0 * HUES).astype(np.int64), HUES - 1)
    weights = np.bincount(bins, hsv[:, 1].astype(np.float64), minlength=HUES)
    total = weights.sum()
    shares = weights / total if total > 1e-9 else np.zeros(HUES)
    return {f"colour.hue_{360 * number // HUES}deg": float(share) for number, share in enumerate(shares)}
