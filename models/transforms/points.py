"""Feature points as a dictionary transform: the image stays, its points stand beside it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform

from models.keypoints import Detector, feature_points


class FeaturePointsd(MapTransform):
    """Puts the :class:`models.keypoints.FeaturePoints` of a 2-D image of one channel under ``<key>_points``.

    Parameters
    ----------
    detector
        ``sift`` or ``orb``.
    most
        Points kept, the strongest.
    """

    def __init__(self, keys: KeysCollection, detector: Detector = "sift", most: int = 500, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if detector not in ("sift", "orb"):
            raise ValueError(f"the detector is 'sift' or 'orb', not {detector!r}")
        self.detector: Detector = detector
        self.most = most

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            plain = np.asarray(torch.as_tensor(result[key]).cpu())
            if plain.ndim != 3 or plain.shape[0] != 1:
                raise ValueError(f"feature points need one channel of a 2-D image; the image has the shape {plain.shape}")
            result[f"{key}_points"] = feature_points(plain[0], self.detector, self.most)
        return result
