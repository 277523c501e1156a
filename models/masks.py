"""Another model's segments as a volume: the label of each voxel, on the grid of the images that they were found in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from models.errors import GeometryRefused, Refusal
from models.geometry import FloatArray
from models.volume import ImageFile, Volume, bytes_of

_OFF_MM = 0.5  # that a frame may lie beside the slice that it belongs to


def read_segments(files: Sequence[ImageFile], images: Volume, *, label: str = "") -> Volume:
    """Read a SEG object (PS3.3 A.51) on the grid of the images that it was made of.

    Parameters
    ----------
    label
        Only the segment of that label, as 1; else each voxel has the number of its segment.

    Returns
    -------
    Volume
        int16, (slices, rows, columns), 0 where there is no segment.

    Raises
    ------
    GeometryRefused
        It cannot be read, has no such segment, or lies on another grid.
    """
    from io import BytesIO

    if len(files) != 1:
        raise GeometryRefused(Refusal.NO_IMAGES, f"One object with segments is expected, and there are {len(files)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, which may identify the patient
        try:
            dataset = dcmread(BytesIO(bytes_of(files[0])))
            array = _labels(dataset, images, label)
        except (GeometryRefused, MemoryError):
            raise
        except (InvalidDicomError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise GeometryRefused(Refusal.UNREADABLE, f"The segments cannot be understood ({type(error).__name__}).") from error
    del dataset.PixelData
    return Volume(array, images.affine_lps, (dataset,), images.frames)


def _labels(dataset: Dataset, images: Volume, label: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    wanted = {int(each.SegmentNumber): int(each.SegmentNumber) for each in dataset.SegmentSequence}
    if label:
        wanted = {int(each.SegmentNumber): 1 for each in dataset.SegmentSequence if str(each.SegmentLabel) == label}
        if not wanted:
            raise GeometryRefused(Refusal.NO_IMAGES, f"There is no segment '{label}' among those that were found.")
    slices, rows, columns = images.array.shape
    if (int(dataset.Rows), int(dataset.Columns)) != (rows, columns):
        raise GeometryRefused(Refusal.OTHER_PLACE, "The segments are not on the grid of the images.")
    pixels = np.asarray(dataset.pixel_array).reshape(-1, rows, columns)
    half = 0.5 * float(dataset.get("MaximumFractionalValue") or 1) if dataset.SegmentationType == "FRACTIONAL" else 0.5
    array = np.zeros((slices, rows, columns), np.int16)
    into: FloatArray = np.linalg.inv(images.affine_lps).astype(np.float64)
    for pixel, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        number = _number(dataset, groups)
        if number in wanted:
            array[_slice(dataset, groups, into, images)][pixel >= half] = wanted[number]
    return array


def _number(dataset: Dataset, groups: Dataset) -> int:
    holder = groups if "SegmentIdentificationSequence" in groups else dataset.SharedFunctionalGroupsSequence[0]
    return int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _slice(dataset: Dataset, groups: Dataset, into: FloatArray, images: Volume) -> int:
    holder = groups if "PlanePositionSequence" in groups else dataset.SharedFunctionalGroupsSequence[0]
    position = [float(value) for value in holder.PlanePositionSequence[0].ImagePositionPatient]
    found = into @ np.array([*position, 1.0])
    index = round(float(found[2]))
    off = images.affine_lps @ np.array([0.0, 0.0, float(index), 1.0]) - np.array([*position, 1.0])
    if not 0 <= index < len(images.array) or float(np.linalg.norm(off)) > _OFF_MM:
        raise GeometryRefused(Refusal.OTHER_PLACE, "The segments are not on the grid of the images.")
    return index
