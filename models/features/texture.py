"""Texture of 2-D images beyond co-occurrence: local binary patterns and Gabor energies."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.features.region import FeaturesRefused, Region
from models.filters import eight_bits

#: Wavelengths of the Gabor bank, pixels.
WAVELENGTHS = (4.0, 8.0, 16.0)
ORIENTATIONS = 4


def lbp_features(region: Region, *, points: int = 8, radius: float = 1.0) -> dict[str, float]:
    """Shares of the rotation invariant uniform local binary patterns (Ojala et al., 2002), 2-D only.

    Pattern n < points + 1 has n brighter neighbours in a row on the circle; the last holds all that are not uniform.
    """
    from skimage.feature import local_binary_pattern

    _flat(region)
    image = region.image[region.box]
    eight = eight_bits(image, region.values)
    codes = local_binary_pattern(eight, points, radius, method="uniform").astype(np.int64)
    counts = np.bincount(codes[region.mask[region.box]], minlength=points + 2)
    shares = counts / counts.sum()
    named = {f"lbp.uniform_{number}": float(share) for number, share in enumerate(shares[:-1])}
    return {**named, "lbp.not_uniform": float(shares[-1])}


def gabor_features(region: Region, *, wavelengths: Sequence[float] = WAVELENGTHS, orientations: int = ORIENTATIONS) -> dict[str, float]:
    """Mean and standard deviation of the magnitude of complex Gabor filters, 2-D only.

    h(u, v) = exp(-(u'^2 + v'^2) / (2 s^2)) exp(2 pi i u' / wavelength), s = 0.56 wavelength (one octave), turned by k pi / orientations,
    without its mean, so that a constant image answers with 0.
    """
    _flat(region)
    image = region.image[region.box].astype(np.float32)
    found = {}
    for wavelength in wavelengths:
        for number in range(orientations):
            real, imaginary = _gabor(wavelength, np.pi * number / orientations)
            parts = [cv2.filter2D(image, cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE) for kernel in (real, imaginary)]
            strength = cv2.magnitude(*parts)[region.mask[region.box]]
            name = f"gabor.{wavelength:g}px_{180 * number // orientations}deg"
            found[f"{name}_mean"] = float(strength.mean(dtype=np.float64))
            found[f"{name}_deviation"] = float(strength.std(dtype=np.float64))
    return found


def _gabor(wavelength: float, angle: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    sigma = 0.56 * wavelength
    reach = int(np.ceil(3 * sigma))
    x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    envelope = np.exp(-(along**2 + across**2) / (2 * sigma**2))
    envelope /= envelope.sum()
    wave = 2 * np.pi * along / wavelength
    real, imaginary = envelope * np.cos(wave), envelope * np.sin(wave)
    return (real - real.sum() * envelope).astype(np.float32), imaginary.astype(np.float32)


def _flat(region: Region) -> None:
    if region.image.ndim != 2:
        raise FeaturesRefused("local binary patterns and Gabor filters are of 2-D images; take a volume slice by slice")
