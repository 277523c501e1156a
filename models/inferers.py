"""Inferers that MONAI does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer
from numpy.typing import NDArray
from torch import Tensor

from models.errors import NotApplicable
from models.postprocess import largest_component

Box = tuple[slice, slice, slice]


class LocateThenSegment(Inferer):
    """Two networks: one finds the organ in a coarse copy of the volume, one segments it in the box around.

    The volume is sampled (nearest voxel) to ``locate_size`` per axis; the first network's largest
    component, widened by ``margin`` of its size on either side, is the box; the box is sampled to
    ``segment_size`` and the second network's foreground is brought back to the volume's own grid.
    Intensities are clipped to the quantiles of the coarse copy and standardised, then brought to mean
    0.449 and deviation 0.226. This is what deepbet does, and its weights expect exactly this.

    Parameters
    ----------
    locator
        The first network; ``network`` of the call is the second. Both map (1, 1, n, n, n) to class
        probabilities (1, classes, n, n, n).
    foreground
        Share of a plane that the organ must fill for the plane to belong to the box.
    """

    def __init__(
        self,
        locator: Callable[[Tensor], Tensor],
        locate_size: int = 128,
        segment_size: int = 256,
        margin: float = 0.1,
        foreground: float = 0.02,
        quantiles: tuple[float, float] = (0.005, 0.995),
        threshold: float = 0.5,
        channel: int = 1,
    ) -> None:
        self.locator = locator
        self.locate_size = locate_size
        self.segment_size = segment_size
        self.margin = margin
        self.foreground = foreground
        self.quantiles = quantiles
        self.threshold = threshold
        self.channel = channel

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Mask (1, 1, x, y, z), uint8, of a volume (1, 1, x, y, z) in RAS order."""
        volume = inputs[0, 0]
        coarse = as_float(sample(volume, (self.locate_size,) * 3))
        low, high = (float(q) for q in np.quantile(coarse.cpu().numpy(), self.quantiles))
        if not high > low:
            raise NotApplicable("The images are blank: all pixel values are the same.", "blank-images")
        box = self._locate(coarse, low, high, tuple(volume.shape))
        fine = as_float(sample(volume[box], (self.segment_size,) * 3))
        inside = network(standardise(fine, low, high)[None, None])[0, self.channel] > self.threshold
        shape = tuple(s.stop - s.start for s in box)
        mask = torch.zeros_like(volume, dtype=torch.uint8)
        mask[box] = sample(inside, shape).to(torch.uint8)
        return mask[None, None]

    def _locate(self, coarse: Tensor, low: float, high: float, shape: tuple[int, ...]) -> Box:
        found = self.locator(standardise(coarse, low, high)[None, None])[0, self.channel] > self.threshold
        organ = largest_component(found.cpu().numpy())
        box = []
        for axis, length in enumerate(shape):
            others = tuple(other for other in range(3) if other != axis)
            planes = np.flatnonzero(organ.mean(axis=others) > self.foreground)
            if not planes.size:
                raise NotApplicable("The structure that the model segments was not found in the images.", "structure-not-found")
            box.append(self._widen(planes[0], planes[-1] + 1, length / organ.shape[axis], length))
        return box[0], box[1], box[2]

    def _widen(self, first: int, end: int, scale: float, length: int) -> slice:
        """Centre and size are rounded to whole voxels, half to even, before the margins are cut at the border."""
        centre = round(float(np.float32(scale * (first + end) / 2)))
        size = round(float(np.float32((1 + 2 * self.margin) * scale * (end - first))))
        return slice(max(0, int(centre - size / 2)), min(length, int(centre + size / 2)))


class AnomalyInferer(Inferer):
    """How unlike its training images an image is to an autoencoder: one score, (1, 1).

    Parameters
    ----------
    quantiles
        Mean absolute errors of images that it was not trained on, from the least to the largest in equal steps. The
        score is the share of them below the image's own: 0 to 1.
    """

    def __init__(self, quantiles: Sequence[float]) -> None:
        self.quantiles = np.asarray(quantiles, dtype=np.float64)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        drawn = network(inputs)
        drawn = drawn[0] if isinstance(drawn, tuple | list) else drawn
        error = float((drawn.float() - inputs).abs().mean())
        return torch.tensor([[np.interp(error, self.quantiles, np.linspace(0, 1, len(self.quantiles)))]], dtype=torch.float32)


def sample(volume: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Nearest-voxel sampling to ``shape``, centres aligned (torch's ``nearest-exact``), in any dtype.

    One gather an axis, from the axis that strides furthest to the one that lies in a row in memory, so
    that whatever is dropped is never touched. On the CPU numpy gathers: it keeps the strides in view.
    """
    indices = [nearest_exact(old, new) for old, new in zip(volume.shape, shape, strict=True)]
    if volume.device.type != "cpu":
        for axis, index in enumerate(indices):
            volume = volume.index_select(axis, torch.from_numpy(index).to(volume.device))
        return volume
    array = volume.numpy()
    order = _by_stride(volume)
    array = array.transpose(order)
    for position, axis in enumerate(order):
        array = array.take(indices[axis], axis=position, mode="clip")
    return torch.from_numpy(array.transpose(np.argsort(order)))


def as_float(values: Tensor) -> Tensor:
    """Single precision, with zero where a floating point image holds no number."""
    return values.nan_to_num().float() if values.is_floating_point() else values.float()


def nearest_exact(old: int, new: int) -> NDArray[np.intp]:
    """Index of the old voxel that holds the centre of each new one, in single precision as torch has it."""
    centres = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
    index: NDArray[np.intp] = np.minimum(np.floor(centres).astype(np.intp), old - 1)
    return index


def standardise(values: Tensor, low: float, high: float) -> Tensor:
    """Clip to low..high and shift to mean 0.449 and deviation 0.226. In place.

    Standardising undoes any linear map, so the usual scaling to 0..1 in between is left out; the moments
    are summed about the middle of the range and plane by plane, as exact as a pass in double precision.
    """
    values = values.clamp_(low, high).sub_((low + high) / 2)
    ordered = values.permute(_by_stride(values))
    count = values.numel()
    mean = float(ordered.sum((1, 2)).sum(dtype=torch.float64)) / count
    squares = float(torch.linalg.vector_norm(ordered, dim=(1, 2)).double().square().sum())
    variance = (squares - count * mean**2) / (count - 1)
    scale = 0.226 / variance**0.5
    return values.mul_(scale).add_(0.449 - mean * scale)


def _by_stride(values: Tensor) -> list[int]:
    strides = values.stride()
    return sorted(range(values.ndim), key=lambda axis: -strides[axis])
