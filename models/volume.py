"""DICOM images as one ordered volume of values.

Single-frame images of one series, or one enhanced multi-frame object, become an array (slices, rows,
columns) with its affine; a 2-D image alone becomes one slice without a place in the patient. Anything else
is refused with a code and a sentence, before anything large is decoded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from models.errors import GeometryRefused, Refusal
from models.frames import Frame, flat_frame, frames_of
from models.geometry import LPS_TO_RAS, FloatArray, Planes, as_vectors, describe_plane, regular_grid
from models.pixels import check_size, decode_values, refuse_inflation
from models.planar import PixelSize, pixel_size, planar_affine, the_image

ImageFile = Path | BinaryIO | Callable[[], BinaryIO]

DEFAULT_MAX_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class SourceFrame:
    """One plane of the volume: which object and which frame of it (from 1)."""

    sop_instance_uid: str
    frame_number: int


@dataclass(frozen=True, eq=False)
class Volume:
    """A regular volume in its own grid.

    Parameters
    ----------
    array
        (slices, rows, columns): int16 where the stored values are the values, else float32, after the
        modality transformation (rescale slope and intercept, or LUT).
    affine_lps
        4x4: (column, row, slice) index to LPS millimetres, centre of the voxel. Slices ascend along the
        cross product of row and column direction, so the grid is right-handed.
    headers
        The data sets without their pixels, in volume order (one for an enhanced object).
    frames
        One entry per slice, in volume order.
    planar
        True for a single 2-D image: one slice, whose affine has no direction in the patient.
    pixel
        Of a 2-D image, the size of a pixel, where known.
    """

    array: NDArray[Any]
    affine_lps: FloatArray
    headers: tuple[Dataset, ...]
    frames: tuple[SourceFrame, ...]
    planar: bool = False
    pixel: PixelSize | None = None

    @property
    def affine(self) -> FloatArray:
        """The affine to RAS millimetres, as NIfTI and MONAI have it; of a 2-D image its own, which has no direction."""
        return self.affine_lps if self.planar else LPS_TO_RAS @ self.affine_lps

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between columns, rows and slices."""
        column, row, slice_ = (float(np.linalg.norm(self.affine_lps[:3, axis])) for axis in range(3))
        return column, row, slice_

    @property
    def voxel_ml(self) -> float:
        return abs(float(np.linalg.det(self.affine_lps[:3, :3]))) / 1000.0

    @property
    def plane(self) -> str:
        return describe_plane(self.affine_lps)

    @property
    def sources(self) -> tuple[str, ...]:
        """SOP Instance UIDs, one per header."""
        return tuple(str(header.SOPInstanceUID) for header in self.headers)

    @property
    def frame_numbers(self) -> tuple[int, ...]:
        return tuple(frame.frame_number for frame in self.frames)


def read_volume(
    files: Sequence[ImageFile],
    *,
    min_slices: int = 1,
    max_bytes: int = DEFAULT_MAX_BYTES,
    dimensions: Literal[2, 3] = 3,
    views: Sequence[str] = (),
) -> Volume:
    """Read images into one volume.

    Parameters
    ----------
    files
        Paths, open binary files, or callables that open one; each a Part 10 file.
    min_slices
        Fewer are refused.
    max_bytes
        Cap on the decoded size of the whole volume, checked before any decoding.
    dimensions, views
        2 reads one single-frame image, of several the one in one of the ``views`` (View Position); it needs no geometry.

    Raises
    ------
    GeometryRefused
        The images form no regular volume; the reason says why.
    """
    if not files:
        raise GeometryRefused(Refusal.NO_IMAGES, "There are no images to read.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, which may identify the patient
        try:
            if dimensions == 2:
                return _flat(_read_datasets(files, max_bytes), views)
            datasets = _read_datasets(files, max_bytes)
            return _assemble(datasets, frames_of(datasets), min_slices)
        except (GeometryRefused, MemoryError):
            raise
        except Exception as error:  # elements are converted when first used, and malformed ones raise anything
            raise GeometryRefused(Refusal.UNREADABLE, f"The images' headers cannot be understood ({type(error).__name__}).") from error


def _read_datasets(files: Sequence[ImageFile], max_bytes: int) -> list[Dataset]:
    datasets: list[Dataset] = []
    total = 0
    for number, file in enumerate(files, start=1):
        dataset = _read(file, number, max_bytes)
        total += check_size(dataset, number, max_bytes - total)
        datasets.append(dataset)
    return datasets


def _flat(datasets: list[Dataset], views: Sequence[str]) -> Volume:
    image = the_image(datasets, views)
    array = decode_values([image], [flat_frame(image)])
    del image.PixelData
    size = pixel_size(image)
    source = SourceFrame(str(image.SOPInstanceUID), 1)
    return Volume(array, planar_affine(size), (image,), (source,), planar=True, pixel=size)


def _assemble(datasets: list[Dataset], frames: list[Frame], min_slices: int) -> Volume:
    grid = regular_grid(_planes(frames), min_slices=min_slices, slice_thickness=frames[0].thickness)
    ordered = [frames[index] for index in grid.order]
    array = decode_values(datasets, ordered)
    for dataset in datasets:
        del dataset.PixelData
    headers = tuple(datasets) if len(datasets) == 1 else tuple(datasets[frame.dataset] for frame in ordered)
    sources = tuple(SourceFrame(str(datasets[frame.dataset].SOPInstanceUID), frame.index + 1) for frame in ordered)
    return Volume(array, grid.affine, headers, sources)


def _planes(frames: Sequence[Frame]) -> Planes:
    try:
        return Planes(
            as_vectors([frame.position for frame in frames], 3),
            as_vectors([frame.orientation for frame in frames], 6),
            as_vectors([frame.spacing for frame in frames], 2),
        )
    except ValueError:
        raise GeometryRefused(
            Refusal.NO_GEOMETRY, "Image Position, Image Orientation or Pixel Spacing is incomplete in some image."
        ) from None


def _read(file: ImageFile, number: int, max_bytes: int) -> Dataset:
    try:
        data = bytes_of(file)
        refuse_inflation(data, max_bytes)
        return dcmread(BytesIO(data))
    except GeometryRefused:
        raise
    except Exception as error:  # malformed files raise anything
        raise GeometryRefused(Refusal.UNREADABLE, f"Image {number} cannot be read as DICOM ({type(error).__name__}).") from error


def bytes_of(file: ImageFile) -> bytes:
    """The whole content of a file, as it is given."""
    if isinstance(file, Path):
        return file.read_bytes()
    if callable(file):
        with file() as opened:
            return opened.read()
    return file.read()
