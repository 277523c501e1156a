"""Whether a sound volume is what a model is for: the limits in [geometry] of dicom.toml."""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import GeometryRefused, NotApplicable, Refusal
from models.spec import GeometrySpec
from models.volume import ImageFile, Volume, read_volume


def read_for(limits: GeometrySpec, files: Sequence[ImageFile]) -> Volume:
    """Read images as the model takes them: a volume, or one 2-D image.

    Raises
    ------
    GeometryRefused
    """
    return read_volume(files, min_slices=limits.min_slices, dimensions=limits.dimensions, views=limits.views)


def check_volume(limits: GeometrySpec, volume: Volume) -> None:
    """Raise when the volume lies outside the limits.

    Raises
    ------
    GeometryRefused
        Too few slices.
    NotApplicable
        Any other limit, with the measured value and the limit.
    """
    if volume.planar != (limits.dimensions == 2):
        raise GeometryRefused(Refusal.NO_GEOMETRY, f"The model takes {limits.dimensions}-D images, and this is another kind.")
    if volume.planar:
        _check_pixels(limits, volume)
        return
    slices = volume.array.shape[0]
    if slices < limits.min_slices:
        raise GeometryRefused(Refusal.TOO_FEW_SLICES, f"The series has {slices} slices; the model needs at least {limits.min_slices}.")
    if slices > limits.max_slices:
        raise NotApplicable(f"The series has {slices} slices; the model takes at most {limits.max_slices}.", "too-many-slices")
    if volume.plane not in limits.planes:
        raise NotApplicable(f"The slices are {volume.plane}; the model takes {' or '.join(limits.planes)} ones.", "wrong-plane")
    coarsest = max(volume.spacing)
    if limits.max_spacing is not None and coarsest > limits.max_spacing * 1.001:
        raise NotApplicable(
            f"The voxels are {coarsest:.1f} mm wide; the model takes at most {limits.max_spacing:g} mm.", "voxels-too-large"
        )
    _check_extent(limits, volume)


def _check_pixels(limits: GeometrySpec, volume: Volume) -> None:
    size = volume.pixel
    coarsest = max(size.between_rows, size.between_columns) if size else 0.0
    if limits.max_spacing is not None and coarsest > limits.max_spacing * 1.001:
        raise NotApplicable(
            f"The pixels are {coarsest:.2f} mm wide; the model takes at most {limits.max_spacing:g} mm.", "voxels-too-large"
        )


def _check_extent(limits: GeometrySpec, volume: Volume) -> None:
    counts = reversed(volume.array.shape)
    extent = tuple(count * step for count, step in zip(counts, volume.spacing, strict=True))
    text = " x ".join(f"{side:.0f}" for side in extent)
    if limits.min_extent and any(side < least for side, least in zip(sorted(extent), sorted(limits.min_extent), strict=True)):
        raise NotApplicable(f"The volume measures {text} mm, less than the model needs to see.", "field-of-view-too-small")
    if limits.max_extent and any(side > most for side, most in zip(sorted(extent), sorted(limits.max_extent), strict=True)):
        raise NotApplicable(f"The volume measures {text} mm, more than the model is made for.", "field-of-view-too-large")
