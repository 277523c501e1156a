"""Random changes that MONAI does not have: what differs between the films of two hospitals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, RandomizableTransform


class RandInvertd(RandomizableTransform, MapTransform):
    """Turn black into white with probability ``prob``: ``low + high - value`` of values from ``low`` to ``high``."""

    def __init__(self, keys: KeysCollection, prob: float = 0.1, low: float = 0.0, high: float = 1.0) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.total = low + high

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.key_iterator(result):
                result[key] = self.total - result[key]
        return result


class RandCollimationd(RandomizableTransform, MapTransform):
    """Cover the borders of a 2-D image, as a collimator, a film's edge or a padded square does.

    Each side gets a border of up to ``widest`` of the image, half of them none; its value is ``low`` (three of
    four) or ``high``. The mask stays: what lies under the border is still where it was, unless ``hide`` names the
    keys of masks that lose it too.
    """

    def __init__(
        self,
        keys: KeysCollection,
        hide: tuple[str, ...] = (),
        prob: float = 0.3,
        widest: float = 0.15,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.hide, self.widest, self.low, self.high = tuple(hide), widest, low, high

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        widths = self.R.uniform(0, self.widest, 4) * (self.R.uniform(size=4) < 0.5)
        value = self.low if self.R.uniform() < 0.75 else self.high
        for key in self.key_iterator(result):
            result[key] = _covered(result[key], widths, value)
        for key in self.hide:
            if key in result:
                result[key] = _covered(result[key], widths, 0)
        return result


class RandResolutiond(RandomizableTransform, MapTransform):
    """Lose detail with probability ``prob``: shrink to a random share between ``coarsest`` and 1, and grow again.

    Linear both ways, 2-D and 3-D; MONAI's RandSimulateLowResolution takes volumes only.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.2, coarsest: float = 0.4) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.coarsest = coarsest

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize(None)
        if self._do_transform:
            share = self.R.uniform(self.coarsest, 1.0)
            for key in self.key_iterator(result):
                result[key] = _coarse(result[key], share)
        return result


def _coarse(image: MetaTensor, share: float) -> MetaTensor:
    size = list(image.shape[1:])
    mode = "bilinear" if len(size) == 2 else "trilinear"
    plain = image.as_tensor()[None]
    small = torch.nn.functional.interpolate(plain, [max(1, round(side * share)) for side in size], mode=mode, antialias=len(size) == 2)
    back = torch.nn.functional.interpolate(small, size, mode=mode)
    return MetaTensor(back[0], affine=image.affine)


def _covered(image: torch.Tensor, widths: np.ndarray[Any, Any], value: float) -> torch.Tensor:
    image = image.clone()
    columns, rows = image.shape[1:]
    left, right = int(widths[0] * columns), columns - int(widths[1] * columns)
    top, bottom = int(widths[2] * rows), rows - int(widths[3] * rows)
    image[:, :left] = value
    image[:, right:] = value
    image[:, :, :top] = value
    image[:, :, bottom:] = value
    return image
