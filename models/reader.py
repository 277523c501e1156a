"""How a bundle's LoadImaged gets its image from a DICOM volume instead of a path.

MONAI's LoadImage asks an ImageReader; this one hands out the volume it holds, whatever the name. So
every option that a bundle gives to LoadImaged (dtype, channel, keys) keeps its effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.data.image_reader import ImageReader
from numpy.typing import NDArray

from models.volume import Volume

#: Stands in the data dictionary where a path would.
PLACEHOLDER = "dicom-volume"


class VolumeReader(ImageReader):
    """Serves ``volume`` as MONAI sees images: (x, y, z) with an affine to RAS millimetres."""

    def __init__(self) -> None:
        super().__init__()
        self.volume: Volume | None = None

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        return True

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> Volume:
        if self.volume is None:
            raise RuntimeError("no volume is being predicted")
        return self.volume

    def get_data(self, img: Volume) -> tuple[NDArray[Any], dict[str, Any]]:
        array = img.array.transpose(2, 1, 0)
        return array, {
            "affine": img.affine.copy(),
            "original_affine": img.affine.copy(),
            "spatial_shape": array.shape,
            "space": "RAS",
            "original_channel_dim": float("nan"),
        }
