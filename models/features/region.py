"""What features are taken from: values on a grid, and the voxels that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


class FeaturesRefused(ValueError):
    """No features can be taken of this image with this mask; the text says why."""


@dataclass(frozen=True, eq=False)
class Region:
    """A part of an image.

    Parameters
    ----------
    image
        (x, y[, z]) of finite values.
    mask
        bool of the same shape: the voxels that count.
    spacing
        Millimetres between voxels, one for each axis.
    """

    image: NDArray[np.float64]
    mask: NDArray[np.bool_]
    spacing: tuple[float, ...]

    @classmethod
    def of(cls, image: NDArray[Any], mask: NDArray[Any] | None = None, spacing: Sequence[float] | None = None) -> Region:
        """Check and take; without a mask the whole image counts.

        Raises
        ------
        FeaturesRefused
            Values that are not finite, a mask of another size or without a voxel, spacing that is none.
        """
        if image.ndim not in (2, 3) or not image.size:
            raise FeaturesRefused(f"an image has two or three axes and at least one voxel, this one has the shape {image.shape}")
        values = np.asarray(image, dtype=np.float64)
        inside = np.ones(values.shape, dtype=np.bool_) if mask is None else np.asarray(mask) > 0
        if inside.shape != values.shape:
            raise FeaturesRefused(f"the mask has another size than the image ({inside.shape} against {values.shape})")
        if not inside.any():
            raise FeaturesRefused("the mask is empty: there is no voxel to describe")
        if not np.isfinite(values if mask is None else values[inside]).all():
            raise FeaturesRefused("the image has values that are not finite (NaN or infinite)")
        steps = tuple(float(step) for step in (spacing or (1.0,) * values.ndim))
        if len(steps) != values.ndim or not all(step > 0 for step in steps):
            raise FeaturesRefused(f"spacing is {steps}; {values.ndim} numbers above 0 are needed")
        return cls(values, inside, steps)

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The values that count, in one row."""
        return self.image.ravel() if self.mask.all() else self.image[self.mask]

    @cached_property
    def box(self) -> tuple[slice, ...]:
        """The smallest box around the voxels that count."""
        found = []
        for axis in range(self.mask.ndim):
            there = np.flatnonzero(self.mask.any(axis=tuple(other for other in range(self.mask.ndim) if other != axis)))
            found.append(slice(int(there[0]), int(there[-1]) + 1))
        return tuple(found)

    def levels(self, bin_width: float | None, bins: int = 32) -> tuple[NDArray[np.integer[Any]], int]:
        """Grey levels from 1 on the box, 0 outside the mask, and their number (IBSI 2.7); bytes where they suffice.

        With ``bin_width`` bins of fixed size, whose edges are its multiples; else ``bins`` between the lowest and
        the highest value. A region of one value has one level.
        """
        image, mask = self.image[self.box], self.mask[self.box]
        low, high = float(self.values.min()), float(self.values.max())
        if high == low:
            return mask.astype(np.uint8), 1
        if bin_width is not None:
            found = image / bin_width
            np.floor(found, out=found)
            first = np.floor(low / bin_width)
            found -= first
            number = int(np.floor(high / bin_width) - first) + 1
        else:
            found = image - low
            found /= high - low
            found *= bins
            number = bins
        if not mask.all():
            found[~mask] = 0  # what lies there may be anything, NaN too
        levels: NDArray[np.integer[Any]] = found.astype(np.uint8) if number < 256 else found.astype(np.int64)
        np.minimum(levels, number - 1, out=levels)
        levels += 1
        levels *= mask
        return levels, number
