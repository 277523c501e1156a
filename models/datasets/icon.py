"""Small greyscale pictures of images: what a contact sheet shows and a perceptual hash is made of."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn

Grey = NDArray[np.uint8]

#: Rows and columns of the icon that hashes and comparisons are made of.
SIDE = 32


def planes(values: NDArray[Any]) -> list[NDArray[np.float32]]:
    """(channels, x, y[, z]) as pictures (row, column): the image itself, or the middle planes across z, y and x."""
    grey: NDArray[np.float32] = values.mean(axis=0, dtype=np.float32)
    if grey.ndim == 2:
        return [grey.T]
    x, y, z = (size // 2 for size in grey.shape)
    return [grey[:, :, z].T, grey[:, y, ::-1].T, grey[x, :, ::-1].T]


def as_grey(picture: NDArray[np.float32], low: float, high: float, *, inverted: bool = False) -> Grey:
    """Values from ``low`` to ``high`` as black to white."""
    scaled: NDArray[np.float32] = np.clip((picture - low) / max(high - low, 1e-12), 0.0, 1.0)
    grey: Grey = ((1.0 - scaled if inverted else scaled) * 255.0 + 0.5).astype(np.uint8)
    return grey


def resized(picture: Grey, rows: int, columns: int) -> Grey:
    """The picture at another size, each pixel the mean of what it covers."""
    tensor = torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32))[None, None]
    small = torch.nn.functional.adaptive_avg_pool2d(tensor, (rows, columns))[0, 0]
    return cast(Grey, small.round().to(torch.uint8).numpy())


def perceptual_hash(icon: Grey) -> int:
    """64 bits: which of the 8x8 lowest frequencies of a discrete cosine transform are above their median.

    Images that look alike differ in few bits, whatever their size, brightness and compression.
    """
    frequencies = dctn(icon.astype(np.float64), norm="ortho")[:8, :8].ravel()
    bits = frequencies > np.median(frequencies[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)


def likeness(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Pearson correlation of two pictures of the same size; 0 where one of them is blank."""
    one, other = first.ravel() - first.mean(), second.ravel() - second.mean()
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm > 0 else 0.0
