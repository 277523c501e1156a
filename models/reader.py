"""How a bundle's LoadImaged gets its image from a DICOM volume instead of a path.

MONAI's LoadImage asks an ImageReader; this one hands out the volume it holds, whatever the name. So
every option that a bundle gives to LoadImaged (dtype, channel, keys) keeps its effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from monai.data.image_reader import ImageReader
from numpy.typing import NDArray

from models.geometry import FloatArray
from models.volume import Volume

#: Stands in the data dictionary where a path would.
PLACEHOLDER = "dicom-volume"


@dataclass(frozen=True, eq=False)
class Axes:
    """The order of axes that a bundle sees: ``xyz`` (column, row, slice) or ``zyx``, as in memory."""

    order: Literal["xyz", "zyx"] = "xyz"

    def array(self, volume: Volume) -> NDArray[Any]:
        """The volume's values with its axes in this order; of a 2-D image, (column, row) or (row, column)."""
        if volume.planar:
            plane: NDArray[Any] = volume.array[0]
            return plane if self.order == "zyx" else plane.T
        return volume.array if self.order == "zyx" else volume.array.transpose(2, 1, 0)

    def affine(self, volume: Volume) -> FloatArray:
        """Index in this order to RAS millimetres."""
        if volume.planar:
            return volume.affine[:, [1, 0, 2, 3]][[1, 0, 2, 3]] if self.order == "zyx" else volume.affine
        return volume.affine[:, [2, 1, 0, 3]] if self.order == "zyx" else volume.affine

    def to_frames(self, array: NDArray[Any]) -> NDArray[Any]:
        """(channels, ...) in this order as (channels, slices, rows, columns)."""
        if array.ndim == 3:
            return (array if self.order == "zyx" else array.transpose(0, 2, 1))[:, None]
        return array if self.order == "zyx" else array.transpose(0, 3, 2, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class ColourVolume(Volume):
    """A 2-D picture in colour, which comes from files of other kinds than DICOM; ``colour`` is (channels, rows, columns)."""

    colour: NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Stack(Volume):
    """Several volumes on the grid of the first; ``channels`` is (inputs, slices, rows, columns), float32. ``others``: each further volume
    as it was read, on its own grid; None for an optional one that is missing. ``priors``: by input, volumes of an earlier study, which are
    no channels."""

    channels: NDArray[Any]
    others: tuple[Volume | None, ...]
    priors: Mapping[str, Volume]


class VolumeReader(ImageReader):
    """Serves ``volume`` as MONAI sees images: an array with an affine to RAS millimetres."""

    def __init__(self, axes: Axes) -> None:
        super().__init__()
        self.axes = axes
        self.volume: Volume | None = None
        self.others: Mapping[str, Volume] = {}

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        return True

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> Volume:
        if self.volume is None:
            raise RuntimeError("no volume is being predicted")
        name = str(data[0] if isinstance(data, list | tuple) else data)
        return self.others.get(name.rpartition(":")[2], self.volume)

    def get_data(self, img: Volume) -> tuple[NDArray[Any], dict[str, Any]]:
        array, affine = self.axes.array(img), self.axes.affine(img)
        shape, channel = array.shape, float("nan")
        if isinstance(img, ColourVolume):
            array, channel = img.colour.transpose((1, 2, 0) if self.axes.order == "zyx" else (2, 1, 0)), -1
        elif isinstance(img, Stack):
            array, channel = img.channels.transpose((1, 2, 3, 0) if self.axes.order == "zyx" else (3, 2, 1, 0)), -1
        return array, {
            "affine": affine,
            "original_affine": affine.copy(),
            "spatial_shape": shape,
            "space": "RAS",
            "original_channel_dim": channel,
            **described(img),
        }


def described(volume: Volume) -> dict[str, str | float]:
    """What transforms may ask about the values: how they are meant to be shown (with the first window), and what made them."""
    header = volume.headers[0]
    keywords = {"photometric_interpretation": "PhotometricInterpretation", "modality": "Modality"}
    found: dict[str, str | float] = {name: str(header.get(keyword) or "") for name, keyword in keywords.items()}
    window = [_first(header.get(keyword)) for keyword in ("WindowCenter", "WindowWidth")]
    if window[0] is not None and window[1] is not None:
        found |= {"window_center": window[0], "window_width": window[1]}
    return found


def _first(value: Any) -> float | None:
    try:
        return float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)
    except (TypeError, ValueError, IndexError):
        return None
