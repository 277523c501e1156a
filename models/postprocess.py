"""Cleaning masks: components and holes, worked in the mask's bounding box only.

MONAI has such transforms; on a volume of forty million voxels these are several times faster, because
a brain fills a tenth of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    """The smallest box that holds the mask; None when it is empty."""
    box = []
    for axis in range(mask.ndim):
        planes = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not planes.size:
            return None
        box.append(slice(int(planes[0]), int(planes[-1]) + 1))
    return tuple(box)


def largest_component(mask: Mask) -> Mask:
    """The largest part whose voxels touch by face, edge or corner; of two equal ones the first."""
    labels, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    if count < 2:
        return mask
    kept: Mask = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return kept


def fill_holes(mask: Mask) -> Mask:
    """Set background that no path of faces leads out of."""
    labels, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    filled: Mask = (labels != labels.flat[0])[(slice(1, -1),) * mask.ndim]
    return filled


class LargestSolidComponentd(MapTransform):
    """Keep the largest component of a binary (1, ...) tensor and fill its holes."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = _solid(result[key])
        return result


def _solid(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.cpu()
    mask = tensor[0].numpy() > 0
    cleaned = torch.zeros_like(tensor)
    box = bounding_box(mask)
    if box is not None:
        solid = cleaned[0].numpy()
        solid[box] = fill_holes(largest_component(mask[box]))
    return cleaned
