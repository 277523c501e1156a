"""An item of a data set as the volume that the node would hand to a model, and its label map on that volume's grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from pydicom import Dataset

from models.bundle import Bundle
from models.datasets.loading import ItemUnreadable, Sample
from models.datasets.protocol import Item
from models.geometry import LPS_TO_RAS
from models.planar import PixelPlane, PixelSize
from models.reader import ColourVolume
from models.suitability import read_for
from models.volume import SourceFrame, Volume

NOT_DICOM = (".nii", ".nii.gz", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SOURCE = "2.25.0"  # of pixels that came from no DICOM object


def volume_of(item: Item, sample: Sample, bundle: Bundle) -> Volume:
    """The volume for a bundle: DICOM is read as serving reads it, other files as their sample.

    Raises
    ------
    GeometryRefused
        The images are not what the model takes.
    ItemUnreadable
        A volume in several channels.
    """
    if not item.image[0].name.lower().endswith(NOT_DICOM):
        return read_for(bundle.dicom.geometry, item.image)
    return volume_from(sample, where=str(item.image[0]))


def volume_from(sample: Sample, where: str = "image") -> Volume:
    """A sample as a volume: (channels, x, y[, z]) becomes (slices, rows, columns)."""
    image = sample.image
    planar, channels = image.ndim == 3, image.shape[0]
    if channels != 1 and not planar:
        raise ItemUnreadable(where, f"the image has {channels} channels; a volume has one")
    affine = np.asarray(image.affine, dtype=np.float64)
    array = frames_of(image).astype(np.float32, copy=False)
    parts: dict[str, Any] = {
        "array": np.ascontiguousarray(array),
        "affine_lps": affine if planar else LPS_TO_RAS @ affine,
        "headers": (_header(image),),
        "frames": tuple(SourceFrame(SOURCE, 1) for _ in array),
        "planar": planar,
        "pixel": _pixel(affine) if planar and unit_of(image) == "mm" else None,
    }
    return Volume(**parts) if channels == 1 else ColourVolume(**parts, colour=image.as_tensor().numpy().transpose(0, 2, 1))


def frames_of(tensor: MetaTensor) -> NDArray[Any]:
    """The first channel of (channels, x, y[, z]) as (slices, rows, columns)."""
    array: NDArray[Any] = tensor.as_tensor()[0].numpy()
    return array.T[None] if array.ndim == 2 else array.transpose(2, 1, 0)


def spacing_of(tensor: MetaTensor) -> tuple[float, ...]:
    """Millimetres between slices, rows and columns; of a 2-D image between rows and columns."""
    axes = tensor.ndim - 1
    affine = np.asarray(tensor.affine, dtype=np.float64)
    return tuple(float(np.linalg.norm(affine[:3, axis])) for axis in reversed(range(axes)))


def unit_of(tensor: MetaTensor) -> str:
    """``mm``, or ``px`` where nobody said how large a pixel is: it then counts as a millimetre."""
    return "mm" if tensor.meta.get("spacing_known", not np.allclose(np.asarray(tensor.affine), np.eye(4))) else "px"


def _pixel(affine: NDArray[np.float64]) -> PixelSize:
    columns, rows = (float(np.linalg.norm(affine[:3, axis])) for axis in (0, 1))
    return PixelSize(rows, columns, PixelPlane.UNSTATED)


def _header(image: MetaTensor) -> Dataset:
    header = Dataset()
    header.SOPInstanceUID = SOURCE
    header.PhotometricInterpretation = str(image.meta.get("photometric_interpretation") or "MONOCHROME2")
    header.Modality = str(image.meta.get("modality") or "")
    return header
