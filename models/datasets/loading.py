"""From an item to its pixels, as the node would hand them to a bundle: the same reader, axes and affine.

Spatial axes are (x, y[, z]) = (column, row, slice); the affine leads to RAS millimetres. Pictures without a
size of a pixel have an identity affine: there a pixel counts as a millimetre.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel.loadsave
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread

from models.datasets.protocol import Item
from models.datasets.statistics import header_age, header_words
from models.errors import ModelError
from models.reader import Axes, described
from models.volume import read_volume

Loaded = tuple[NDArray[Any], NDArray[Any], Mapping[str, Any]]  # (channels, x, y[, z]), 4x4, meta


class ItemUnreadable(ModelError):
    """A file of an item cannot be used: ``where`` it is, and ``reason``."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Sample:
    """An item's pixels.

    Parameters
    ----------
    image
        float32, (channels, x, y[, z]), with an affine to RAS millimetres; ``meta`` carries photometric_interpretation,
        modality and the other words of :mod:`models.datasets.statistics` where they are known, ``age`` in years, and
        ``spacing_known``, False where a pixel counts as a millimetre because nobody knows better.
    mask
        uint8, (1, x, y[, z]), on the same grid; None where there is none. ``meta["other_grid"]`` is True where its
        file states another place than the image's.
    """

    image: MetaTensor
    mask: MetaTensor | None = None


def load(item: Item, *, classes: int | None = None) -> Sample:
    """Read an item.

    Parameters
    ----------
    classes
        Number of labels; a mask with a larger value is refused.

    Raises
    ------
    ItemUnreadable
        A file is missing, broken, no image, has values that are no numbers, or the mask does not fit.
    """
    image = _tensor(item.image)
    if not np.isfinite(image.as_tensor().numpy()).all():
        raise ItemUnreadable(str(item.image[0]), "the image has values that are not finite (NaN or infinite)")
    if item.mask is None:
        return Sample(image)
    return Sample(image, load_mask(item.mask, image, classes))


def load_mask(path: Path, image: MetaTensor, classes: int | None = None) -> MetaTensor:
    """Read a label map on the grid of ``image``; raises ItemUnreadable where it is another one or no label map."""
    values = _tensor((path,))
    own = values.affine
    if values.shape[1:] != image.shape[1:]:
        sizes = " against ".join("x".join(str(size) for size in each.shape[1:]) for each in (values, image))
        raise ItemUnreadable(str(path), f"the mask has another size than the image ({sizes})")
    if values.shape[0] != 1:
        raise ItemUnreadable(str(path), f"the mask has {values.shape[0]} channels; one is expected")
    found = np.unique(values.as_tensor().numpy())  # in NumPy, whose one thread is faster here than a pool that must be woken
    if not np.isfinite(found).all() or (found != found.round()).any() or found[0] < 0:
        raise ItemUnreadable(str(path), "the mask has values that are no labels (negative, fractional or not finite)")
    highest = int(found[-1])
    if classes == 1 and set(found.tolist()) <= {0.0, 255.0}:
        values = MetaTensor(
            (values.as_tensor() > 0).float(), affine=own, meta={"spacing_known": values.meta["spacing_known"]}
        )  # a picture's black and white
        highest = min(highest, 1)
    if highest > (255 if classes is None else classes):
        raise ItemUnreadable(str(path), f"the mask has the label {highest}; the labels end at {classes or 255}")
    other = bool(values.meta["spacing_known"] and image.meta.get("spacing_known") and not _same_place(own, image.affine))
    return MetaTensor(values.as_tensor().to(torch.uint8), affine=image.affine, meta={"other_grid": other})


def _same_place(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two affines agree to a hundredth of a pixel in size and a tenth of a millimetre in place."""
    return torch.allclose(first[:3, :3], second[:3, :3], atol=1e-2) and torch.allclose(first[:3, 3], second[:3, 3], atol=0.1)


def mask_volumes(item: Item) -> dict[int, float]:
    """Volume of each structure in an item's mask, by label value: ml, or cubic or square pixels where no size is known.

    Raises
    ------
    ItemUnreadable
        The item has no mask, or it cannot be read.
    """
    if item.mask is None:
        raise ItemUnreadable(item.id, "it has no mask")
    mask = _tensor((item.mask,))
    labels, counts = torch.unique(mask.as_tensor(), return_counts=True)
    size = abs(float(torch.linalg.det(mask.affine[:3, :3]))) / (1000.0 if mask.meta["spacing_known"] else 1.0)
    return {int(label): int(count) * size for label, count in zip(labels, counts, strict=True) if label > 0}


def _tensor(files: tuple[Path, ...]) -> MetaTensor:
    if not files:
        raise ItemUnreadable("item", "it names no image")
    reader = _reader(files[0])
    try:
        array, affine, meta = reader(files)
    except ItemUnreadable:
        raise
    except FileNotFoundError as error:
        raise ItemUnreadable(str(files[0]), "there is no such file") from error
    except Exception as error:  # readers are foreign code and raise anything
        raise ItemUnreadable(str(files[0]), f"cannot be read ({_why(error)})") from error
    if array.size == 0:
        raise ItemUnreadable(str(files[0]), "the image has no pixels")
    values = np.ascontiguousarray(array, dtype=np.float32)
    tensor = torch.from_numpy(values if values.flags.writeable else values.copy())
    return MetaTensor(tensor, affine=torch.as_tensor(affine, dtype=torch.float64), meta=dict(meta))


def _why(error: Exception) -> str:
    """A reason without the text of foreign errors, which may quote what is in the file."""
    if isinstance(error, ModelError):
        return str(error)
    if isinstance(error, EOFError | zlib.error | ImageFileError) or "truncated" in str(error):
        return "the file ends too early or is damaged"
    return type(error).__name__


def _reader(path: Path) -> Callable[[tuple[Path, ...]], Loaded]:
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _nifti
    return _picture if name.endswith((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")) else _dicom


def _nifti(files: tuple[Path, ...]) -> Loaded:
    image = nibabel.loadsave.load(files[0])
    if not isinstance(image, SpatialImage):
        raise ItemUnreadable(str(files[0]), "it holds no image with an affine")
    array = np.asarray(image.dataobj)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3):
        raise ItemUnreadable(str(files[0]), f"{array.ndim} axes; an image has two or three")
    return array[None], np.asarray(image.affine), {"spacing_known": True}


def _picture(files: tuple[Path, ...]) -> Loaded:
    with Image.open(files[0]) as opened:
        picture = opened.convert("RGB") if opened.mode in ("P", "RGBA", "CMYK", "YCbCr", "LA") else opened
        array = np.asarray(picture)
    channels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    interpretation = "MONOCHROME2" if array.ndim == 2 else "RGB"
    return channels.transpose(0, 2, 1), np.eye(4), {"photometric_interpretation": interpretation, "spacing_known": False}


def _dicom(files: tuple[Path, ...]) -> Loaded:
    placed = len(files) > 1 or _has_place(files[0])
    volume = read_volume(list(files), dimensions=3 if placed else 2)
    axes, header = Axes(), volume.headers[0]
    age = header_age(header)
    meta: dict[str, Any] = {**described(volume), **header_words(header), "spacing_known": not volume.planar or volume.pixel is not None}
    return axes.array(volume)[None], axes.affine(volume), meta if age is None else {**meta, "age": age}


def _has_place(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, which may identify the patient
        header = dcmread(path, stop_before_pixels=True, specific_tags=["ImagePositionPatient", "PerFrameFunctionalGroupsSequence"])
    return "ImagePositionPatient" in header or "PerFrameFunctionalGroupsSequence" in header
