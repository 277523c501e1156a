"""From plane positions to a regular grid: order, affine, and the reasons to refuse.

All vectors are in the patient coordinate system of PS3.3 C.7.6.2.1.1: LPS, millimetres. The maths is
our own because :func:`highdicom.spatial.get_volume_positions` answers yes or no, and a refusal must
say which slice is wrong.

Tolerances. Positions and cosines travel as decimal strings of at most 16 characters, and devices round
them further (0.001 to 0.01 mm, 1e-4 in a cosine). So orientations may differ by 1e-3 (0.06 degrees), a step by
5 % of the median step, and a plane may lie off the stack's axis by half a pixel over the whole stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import GeometryRefused, Refusal

ORIENTATION_TOLERANCE = 1e-3
SPACING_TOLERANCE = 1e-3
STEP_TOLERANCE = 0.05
DRIFT_TOLERANCE_PIXELS = 0.5
DUPLICATE_FRACTION = 0.01
DUPLICATE_MM = 1e-4

FloatArray = NDArray[np.float64]

#: Turns LPS coordinates into RAS ones and back: NIfTI and MONAI think in RAS, DICOM in LPS.
LPS_TO_RAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Planes:
    """Where each plane of a series lies, in the order given.

    Parameters
    ----------
    positions
        (n, 3) LPS mm, centre of the first pixel (Image Position (Patient)).
    orientations
        (n, 6) row cosines then column cosines (Image Orientation (Patient)).
    spacings
        (n, 2) Pixel Spacing: distance between rows, distance between columns, mm.
    """

    positions: FloatArray
    orientations: FloatArray
    spacings: FloatArray


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid: ``order`` sorts the planes along the right-handed normal, ``affine`` maps
    (column, row, slice) indices to LPS millimetres."""

    order: NDArray[np.intp]
    affine: FloatArray


def regular_grid(planes: Planes, *, min_slices: int = 1, slice_thickness: float | None = None) -> Grid:
    """Order the planes and prove that they form a regular, orthogonal grid.

    Parameters
    ----------
    slice_thickness
        Depth of the voxels when there is only one plane; 1 mm where unknown.

    Raises
    ------
    GeometryRefused
        With the first reason found, from the coarse (orientation) to the fine (a missing slice).
    """
    row, column = _common_orientation(planes.orientations)
    rows_mm, columns_mm = _common_spacing(planes.spacings)
    normal = np.cross(row, column)
    distances = planes.positions @ normal
    order = np.argsort(distances, kind="stable")
    count = len(order)
    if count < max(1, min_slices):
        raise GeometryRefused(Refusal.TOO_FEW_SLICES, f"The series has {count} slices; the model needs at least {min_slices}.")
    if count == 1:
        axis = normal * (slice_thickness or 1.0)
    else:
        _refuse_drift(planes.positions[order], normal, min(rows_mm, columns_mm))
        _refuse_steps(distances[order])
        axis = normal * (distances[order[-1]] - distances[order[0]]) / (count - 1)
    affine = np.eye(4)
    affine[:3, 0] = row * columns_mm
    affine[:3, 1] = column * rows_mm
    affine[:3, 2] = axis
    affine[:3, 3] = planes.positions[order[0]]
    return Grid(order, affine)


def _common_orientation(orientations: FloatArray) -> tuple[FloatArray, FloatArray]:
    first = orientations[0]
    worst = float(np.abs(orientations - first).max())
    if worst > ORIENTATION_TOLERANCE:
        groups = _count_distinct(orientations)
        raise GeometryRefused(
            Refusal.MIXED_ORIENTATION,
            f"The images lie in {groups} different orientations (a localizer?); one volume needs one orientation.",
        )
    row, column = first[:3], first[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(float(row @ column)) > 0.01:
        raise GeometryRefused(Refusal.NO_GEOMETRY, "Image Orientation (Patient) does not hold two perpendicular unit vectors.")
    row = row / lengths[0]
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def _count_distinct(orientations: FloatArray) -> int:
    found: list[FloatArray] = []
    for orientation in orientations:
        if not any(np.abs(orientation - other).max() <= ORIENTATION_TOLERANCE for other in found):
            found.append(orientation)
    return len(found)


def _common_spacing(spacings: FloatArray) -> tuple[float, float]:
    first = spacings[0]
    if not (first > 0).all():
        raise GeometryRefused(Refusal.NO_GEOMETRY, "Pixel Spacing is missing or not positive.")
    if float(np.abs(spacings / first - 1).max()) > SPACING_TOLERANCE:
        raise GeometryRefused(Refusal.MIXED_SPACING, "The images do not all have the same Pixel Spacing.")
    return float(first[0]), float(first[1])


def _refuse_drift(ordered: FloatArray, normal: FloatArray, pixel: float) -> None:
    """Planes must be stacked straight along their normal: neither sheared (tilt) nor shifted."""
    offsets = ordered - ordered[0]
    along = offsets @ normal
    sideways = offsets - np.outer(along, normal)
    drift = np.linalg.norm(sideways, axis=1)
    if float(drift.max()) <= DRIFT_TOLERANCE_PIXELS * pixel:
        return
    extent = float(along[-1])
    shear = sideways[-1] / extent if extent > 0 else np.zeros(3)
    residual = np.linalg.norm(sideways - np.outer(along, shear), axis=1)
    if float(residual.max()) <= DRIFT_TOLERANCE_PIXELS * pixel:
        angle = float(np.degrees(np.arctan(np.linalg.norm(shear))))
        raise GeometryRefused(
            Refusal.GANTRY_TILT, f"The slices are stacked at a tilt of {angle:.1f} degrees (gantry tilt); the model needs an upright stack."
        )
    worst = int(residual.argmax())
    raise GeometryRefused(
        Refusal.UNEVEN_SPACING, f"Slice {worst + 1} of {len(ordered)} lies {float(drift[worst]):.1f} mm beside the axis of the stack."
    )


def _refuse_steps(distances: FloatArray) -> None:
    steps = np.diff(distances)
    positive = steps[steps > DUPLICATE_MM]
    if positive.size == 0:
        raise GeometryRefused(Refusal.DUPLICATE_SLICES, f"All {len(distances)} images lie at the same position.")
    usual = float(np.median(positive))
    repeated = steps <= max(DUPLICATE_MM, DUPLICATE_FRACTION * usual)
    if repeated.any():
        first = int(repeated.argmax()) + 1
        raise GeometryRefused(
            Refusal.DUPLICATE_SLICES,
            f"{int(repeated.sum())} of {len(distances)} images repeat the position of another one (first at slice {first}); "
            "the series may hold several echoes or time points.",
        )
    step = float(np.median(positive[positive < 1.5 * positive.min()]))
    _refuse_gaps(steps, step, usual)


def _refuse_gaps(steps: FloatArray, step: float, usual: float) -> None:
    """``step`` is the spacing of the grid: where every other slice is missing, gaps outnumber steps."""
    relative = steps / step
    wrong = np.flatnonzero(np.abs(relative - 1) > STEP_TOLERANCE)
    if not wrong.size:
        return
    count, first = len(steps) + 1, int(wrong[0]) + 1
    multiples = np.rint(relative[wrong])
    if bool((multiples >= 2).all() and (np.abs(relative[wrong] - multiples) <= STEP_TOLERANCE * multiples).all()):
        missing = int((multiples - 1).sum())
        what = "1 slice is" if missing == 1 else f"{missing} slices are"
        raise GeometryRefused(Refusal.MISSING_SLICES, f"{what} missing: the first gap is after slice {first} of {count}.")
    raise GeometryRefused(
        Refusal.UNEVEN_SPACING,
        f"The slices are unevenly spaced: {float(steps.min()):.2f} to {float(steps.max()):.2f} mm, most often {usual:.2f} mm.",
    )


def describe_plane(affine: FloatArray) -> str:
    """``axial``, ``coronal`` or ``sagittal``: the plane closest to the stack's."""
    axis = int(np.abs(affine[:3, 2] / np.linalg.norm(affine[:3, 2])).argmax())
    return ("sagittal", "coronal", "axial")[axis]


def as_vectors(values: Sequence[Sequence[float]], width: int) -> FloatArray:
    """Rows of numbers as one array; raises ValueError unless every row has ``width`` finite numbers."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != width or not np.isfinite(array).all():
        raise ValueError(f"expected rows of {width} finite numbers")
    return array
