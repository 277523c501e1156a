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
    box = bounding_box(mask)
    result = np.zeros_like(mask)
    if box is not None:
        labels, count = ndimage.label(mask[box], structure=np.ones((3,) * mask.ndim))
        result[box] = mask[box] if count == 1 else labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return result


def fill_holes(mask: Mask) -> Mask:
    """Set background that no path of faces leads out of."""
    box = bounding_box(mask)
    result = mask.copy()
    if box is not None:
        outside, _ = ndimage.label(np.pad(~mask[box], 1, constant_values=True))
        result[box] = (outside != outside.flat[0])[(slice(1, -1),) * mask.ndim]
    return result


class LargestSolidComponentd(MapTransform):
    """Keep the largest component of a binary (1, ...) tensor and fill its holes."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            tensor: torch.Tensor = result[key]
            solid = fill_holes(largest_component(tensor[0].cpu().numpy() > 0))
            cleaned = tensor.clone()
            cleaned[0] = torch.from_numpy(solid)
            result[key] = cleaned
        return result
