"""All features of one image, by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from models.features.colour import colour_features
from models.features.edges import edge_features
from models.features.glcm import glcm_features
from models.features.intensity import intensity_features
from models.features.region import FeaturesRefused, Region
from models.features.shape import shape_features
from models.features.texture import gabor_features, lbp_features
from models.transforms.grey import LUMINANCE

FeatureClass = Literal["intensity", "glcm", "lbp", "gabor", "edge", "shape", "colour"]
CLASSES: tuple[FeatureClass, ...] = get_args(FeatureClass)
FLAT_ONLY = frozenset({"lbp", "gabor", "colour"})


@dataclass(frozen=True)
class Extraction:
    """What is taken.

    Parameters
    ----------
    classes
        Of features; those that are of 2-D images, or of colour, are left out for others.
    bin_width, bins
        Grey levels: bins of this width in the image's own values, or else this many between lowest and highest.
    """

    classes: tuple[FeatureClass, ...] = CLASSES
    bin_width: float | None = None
    bins: int = 32


def extract(
    image: NDArray[Any], mask: NDArray[Any] | None = None, spacing: Sequence[float] | None = None, what: Extraction | None = None
) -> dict[str, float]:
    """Features of one image.

    Parameters
    ----------
    image
        (channels, x, y[, z]); three channels are red, green and blue, whose luminance is what grey features are of.
    mask
        (x, y[, z]), above 0 where the region is; the whole image without one. The shape class needs it.

    Raises
    ------
    FeaturesRefused
        With the reason.
    """
    what = what or Extraction()
    if image.shape[0] not in (1, 3) or image.ndim not in (3, 4):
        raise FeaturesRefused(f"an image has one or three channels and two or three axes; this one has the shape {image.shape}")
    grey = image[0] if image.shape[0] == 1 else np.tensordot(np.asarray(LUMINANCE), image, axes=1)
    region = Region.of(grey, mask, spacing)
    makers = {
        "intensity": lambda: intensity_features(region, bin_width=what.bin_width, bins=what.bins),
        "glcm": lambda: glcm_features(region, bin_width=what.bin_width, bins=what.bins),
        "lbp": lambda: lbp_features(region),
        "gabor": lambda: gabor_features(region),
        "edge": lambda: edge_features(region),
        "shape": lambda: shape_features(region) if mask is not None else {},
        "colour": lambda: colour_features(image, mask) if image.shape[0] == 3 else {},
    }
    found: dict[str, float] = {}
    for name in what.classes:
        if region.image.ndim == 2 or name not in FLAT_ONLY:
            found |= makers[name]()
    return found
