"""The filters of :mod:`models.filters` as dictionary transforms, each channel by itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform

from models.filters import FloatImage, bilateral_filter, gaussian_filter, mean_filter, median_filter

Units = Literal["voxel", "mm"]
Lengths = float | Sequence[float]


class _Filterd(MapTransform):
    """A filter of (channels, x, y[, z]); lengths are voxels, or millimetres by the image's affine."""

    def __init__(self, keys: KeysCollection, units: Units = "voxel", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if units not in ("voxel", "mm"):
            raise ValueError(f"units are 'voxel' or 'mm', not {units!r}")
        self.units = units

    @abstractmethod
    def apply(self, channel: FloatImage, spacing: Sequence[float] | None) -> FloatImage:
        """Filter one channel."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._filtered(result[key])
        return result

    def _filtered(self, image: Any) -> torch.Tensor:
        tensor = torch.as_tensor(image)
        plain = np.asarray(tensor.detach().cpu(), dtype=np.float32)
        filtered = torch.from_numpy(np.stack([self.apply(channel, self._spacing(tensor)) for channel in plain]))
        filtered = filtered.to(tensor.device)
        if not isinstance(tensor, MetaTensor):
            return filtered
        return MetaTensor(filtered, meta=tensor.meta, applied_operations=tensor.applied_operations)

    def _spacing(self, tensor: torch.Tensor) -> list[float] | None:
        if self.units == "voxel":
            return None
        if not isinstance(tensor, MetaTensor):
            raise ValueError(f"{type(self).__name__} works in millimetres and the image has no affine")
        return [float(step) for step in tensor.pixdim[: tensor.ndim - 1]]


class MeanFilterd(_Filterd):
    """Mean over a box of ``size``, see :func:`models.filters.mean_filter`."""

    def __init__(self, keys: KeysCollection, size: Lengths = 3, units: Units = "voxel", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, units, allow_missing_keys)
        self.size = size

    def apply(self, channel: FloatImage, spacing: Sequence[float] | None) -> FloatImage:
        return mean_filter(channel, self.size, spacing)


class MedianFilterd(_Filterd):
    """Median over a box of ``size``, see :func:`models.filters.median_filter`."""

    def __init__(self, keys: KeysCollection, size: Lengths = 3, units: Units = "voxel", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, units, allow_missing_keys)
        self.size = size

    def apply(self, channel: FloatImage, spacing: Sequence[float] | None) -> FloatImage:
        return median_filter(channel, self.size, spacing)


class GaussianFilterd(_Filterd):
    """Gaussian of width ``sigma``, see :func:`models.filters.gaussian_filter`."""

    def __init__(self, keys: KeysCollection, sigma: Lengths = 1.0, units: Units = "voxel", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, units, allow_missing_keys)
        self.sigma = sigma

    def apply(self, channel: FloatImage, spacing: Sequence[float] | None) -> FloatImage:
        return gaussian_filter(channel, self.sigma, spacing)


class BilateralFilterd(_Filterd):
    """Bilateral filter, see :func:`models.filters.bilateral_filter`; ``sigma_intensity`` is in the image's own values."""

    def __init__(
        self,
        keys: KeysCollection,
        sigma: Lengths = 1.5,
        sigma_intensity: float = 50.0,
        units: Units = "voxel",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, units, allow_missing_keys)
        self.sigma = sigma
        self.sigma_intensity = sigma_intensity

    def apply(self, channel: FloatImage, spacing: Sequence[float] | None) -> FloatImage:
        return bilateral_filter(channel, self.sigma, self.sigma_intensity, spacing)
