"""Several series as the channels of one input: all on the grid of the first, or refused with the reason.

Two series of a study lie in the same place of the patient only where they share a Frame of Reference (PS3.3 C.7.4.1): without it, or
beyond the limits that the bundle states (:class:`models.spec.GridSpec`), nothing is put on top of anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.errors import GeometryRefused, NotApplicable, Refusal
from models.geometry import FloatArray
from models.masks import read_segments
from models.reader import Stack
from models.spec import DicomSpec, InputSpec
from models.suitability import check_volume, read_for
from models.volume import ImageFile, Volume

SAME_PLACE_MM = 0.01  # between the corners of two grids that are one
_PROBES = 24  # points along each axis at which the overlap is measured


def read_inputs(spec: DicomSpec, files: Sequence[Sequence[ImageFile]]) -> Volume:
    """Read what a model is given.

    Parameters
    ----------
    files
        Of each input, in the order of dicom.toml, its images; none where an optional one is missing.

    Raises
    ------
    GeometryRefused, NotApplicable
        The reason names the input where there are several.
    """
    if len(spec.inputs) == 1:
        return read_for(spec.limits_of(spec.inputs[0].name), files[0])
    if len(files) != len(spec.inputs):
        raise GeometryRefused(Refusal.NO_IMAGES, f"The model takes {len(spec.inputs)} inputs, and {len(files)} are given.")
    first = _read(spec, spec.inputs[0], files[0], None)
    assert first is not None
    volumes = [first, *(_read(spec, each, images, first) for each, images in zip(spec.inputs[1:], files[1:], strict=True))]
    pairs = list(zip(spec.inputs[1:], volumes[1:], strict=True))
    others = [on_grid(first, volume, each) for each, volume in pairs if not each.prior]
    return Stack(
        first.array,
        first.affine_lps,
        first.headers,
        first.frames,
        channels=np.stack([first.array.astype(np.float32), *others]),
        others=tuple(volumes[1:]),
        priors={each.name: volume if volume is not None else _nothing(first) for each, volume in pairs if each.prior},
    )


def _nothing(first: Volume) -> Volume:
    """What stands for an earlier study that there is not: zeros where the first input is."""
    return Volume(np.zeros_like(first.array), first.affine_lps, first.headers, first.frames)


def check_input(spec: DicomSpec, volume: Volume) -> None:
    """Raise when what a model is given is not what it takes: GeometryRefused, NotApplicable."""
    if (len(spec.inputs) > 1) != isinstance(volume, Stack):
        raise GeometryRefused(Refusal.NO_IMAGES, f"The model takes {len(spec.inputs)} inputs at once, and this is another number.")
    check_volume(spec.limits_of(spec.inputs[0].name), volume)


def _read(spec: DicomSpec, each: InputSpec, images: Sequence[ImageFile], first: Volume | None) -> Volume | None:
    if not images and (each.optional or (spec.prior is not None and each.prior and not spec.prior.required)):
        return None
    limits = spec.limits_of(each.name)
    try:
        if each.segments_of is not None and first is not None:
            return read_segments(images, first, label=each.segment)
        volume = read_for(limits, images)
        check_volume(limits, volume)
    except GeometryRefused as error:
        raise GeometryRefused(error.code, f"Input {each.name}: {error.sentence}") from error
    except NotApplicable as error:
        raise NotApplicable(f"Input {each.name}: {error.reason}", error.code) from error
    return volume


def on_grid(first: Volume, other: Volume | None, spec: InputSpec) -> NDArray[np.float32]:
    """The values of a further input on the grid of the first: (slices, rows, columns), float32; zeros for one that is missing.

    Up to one of its voxels beyond its edge stands the edge's value, further outside its lowest one.

    Raises
    ------
    GeometryRefused
        Another Frame of Reference, or a grid beyond the limits.
    """
    if other is None:
        return np.zeros(first.array.shape, np.float32)
    frames = [str(volume.headers[0].get("FrameOfReferenceUID") or "") for volume in (first, other)]
    if not all(frames) or frames[0] != frames[1]:
        what = "lies in another Frame of Reference than the first" if all(frames) else "or the first one states no Frame of Reference"
        raise GeometryRefused(Refusal.OTHER_FRAME_OF_REFERENCE, f"Input {spec.name} {what}, so it cannot be put on top of it.")
    if _one_grid(first, other):
        return other.array.astype(np.float32)
    angle = _angle(first.affine_lps, other.affine_lps)
    if angle > spec.grid.max_angle:
        raise GeometryRefused(
            Refusal.OTHER_PLACE, f"Input {spec.name} is turned by {angle:.0f} degrees; the model takes at most {spec.grid.max_angle:g}."
        )
    into = np.linalg.inv(other.affine_lps) @ first.affine_lps
    covered = _overlap(into, first.array.shape, other.array.shape)
    if covered < spec.grid.min_overlap:
        raise GeometryRefused(
            Refusal.OTHER_PLACE,
            f"Input {spec.name} covers {covered:.0%} of the first input's volume; the model needs {spec.grid.min_overlap:.0%}.",
        )
    backwards = into[:3, :3][::-1, ::-1]  # of (slice, row, column) indices
    values = np.pad(other.array.astype(np.float32), 1, mode="edge")  # a grid that begins on the edge is not outside by rounding
    resampled: NDArray[np.float32] = ndimage.affine_transform(
        values, backwards, into[:3, 3][::-1] + 1.0, output_shape=first.array.shape, order=1, mode="constant", cval=float(values.min())
    )
    return resampled


def _one_grid(first: Volume, other: Volume) -> bool:
    if first.array.shape != other.array.shape:
        return False
    slices, rows, columns = first.array.shape
    corners = np.array([[c, r, s, 1] for c in (0, columns - 1) for r in (0, rows - 1) for s in (0, slices - 1)], dtype=float).T
    return bool(np.abs((first.affine_lps - other.affine_lps) @ corners).max() <= SAME_PLACE_MM)


def _angle(first: FloatArray, other: FloatArray) -> float:
    """Degrees by which the axes of two grids differ at most, whichever of them are swapped or turned about."""
    axes = [affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) for affine in (first, other)]
    nearest = np.abs(axes[0].T @ axes[1]).max(axis=1)
    return float(np.degrees(np.arccos(np.clip(nearest.min(), 0.0, 1.0))))


def _overlap(into: FloatArray, shape: tuple[int, ...], other: tuple[int, ...]) -> float:
    """The share of the first grid's voxels that lie within the other's."""
    along = [np.linspace(0, size - 1, min(size, _PROBES)) for size in reversed(shape)]
    points = np.stack(np.meshgrid(*along, indexing="ij")).reshape(3, -1)
    found = into[:3, :3] @ points + into[:3, 3:]
    limits = np.array(list(reversed(other)), dtype=float)[:, None] - 0.5
    return float(np.all((found >= -0.5) & (found <= limits), axis=0).mean())
