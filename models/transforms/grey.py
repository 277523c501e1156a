"""From stored pixels to the grey that is meant: colour to luminance, MONOCHROME1 turned over, the window of the image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PS3.3 C.7.6.3.1.2 has it for YBR_FULL
INTERPRETATION = "photometric_interpretation"


def _like(values: torch.Tensor, image: torch.Tensor, **meta: Any) -> torch.Tensor:
    plain = values.as_tensor() if isinstance(values, MetaTensor) else values
    if not isinstance(image, MetaTensor):
        return plain
    return MetaTensor(plain, meta={**image.meta, **meta}, applied_operations=image.applied_operations)


class ToGreyscaled(MapTransform):
    """Three channels (RGB) become one, Y = 0.299 R + 0.587 G + 0.114 B; one channel stays.

    Raises ValueError for another number of channels. YBR and palette images are RGB once they are decoded.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if image.shape[0] == 1:
                continue
            if image.shape[0] != 3:
                raise ValueError(f"an image of {image.shape[0]} channels is neither grey nor RGB")
            weights = torch.tensor(LUMINANCE, dtype=torch.float32).reshape(3, *[1] * (image.ndim - 1))
            grey = (image.float() * weights).sum(0, keepdim=True)
            result[key] = _like(grey, image, **{INTERPRETATION: "MONOCHROME2"})
        return result


class InvertMonochrome1d(MapTransform):
    """An image whose lowest value is white (MONOCHROME1, PS3.3 C.7.6.3.1.2) is turned over: g = max + min - f.

    Others, and images of which it is not known, stay.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if isinstance(image, MetaTensor) and image.meta.get(INTERPRETATION) == "MONOCHROME1":
                result[key] = _like(image.max() + image.min() - image, image, **{INTERPRETATION: "MONOCHROME2"})
        return result


class Windowd(MapTransform):
    """The linear VOI transformation of PS3.3 C.11.2.1.2.1 to 0..1.

    g = clip((f - (center - 0.5)) / (width - 1) + 0.5, 0, 1)

    Parameters
    ----------
    center, width
        Of the window. Where they are not given, the image's own first window (``window_center`` and ``window_width``
        of its meta data); where it has none, its lowest and highest value.
    """

    def __init__(
        self, keys: KeysCollection, center: float | None = None, width: float | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if (center is None) != (width is None) or (width is not None and width <= 1):
            raise ValueError("center and width belong together, and width is above 1")
        self.center, self.width = center, width

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key].float()
            center, width = self._window(result[key])
            result[key] = _like(((image - (center - 0.5)) / (width - 1) + 0.5).clamp(0, 1), result[key])
        return result

    def _window(self, image: torch.Tensor) -> tuple[float, float]:
        if self.center is not None and self.width is not None:
            return self.center, self.width
        meta = image.meta if isinstance(image, MetaTensor) else {}
        center, width = meta.get("window_center"), meta.get("window_width")
        if center is not None and width is not None and float(width) > 1:
            return float(center), float(width)
        low, high = float(image.min()), float(image.max())
        width = max(high - low, 1e-6) + 1.0
        return (low + high) / 2 + 0.5, width
