"""Size and form of a region, in millimetres (IBSI 3.1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from models.features.region import Region

Points = NDArray[np.float64]


def shape_features(region: Region) -> dict[str, float]:
    """Of a 2-D region area, perimeter and form; of a 3-D one volume, surface (marching cubes) and form; axes of both."""
    return _flat(region) if region.mask.ndim == 2 else _solid(region)


def _solid(region: Region) -> dict[str, float]:
    from skimage.measure import marching_cubes, mesh_surface_area

    padded = np.pad(region.mask[region.box], 1)
    vertices, faces, _, _ = marching_cubes(padded.astype(np.float32), 0.5, spacing=region.spacing)
    corners = vertices[faces].astype(np.float64)
    volume = abs(float(np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum())) / 6.0
    area = float(mesh_surface_area(vertices, faces))
    voxels = int(region.mask.sum())
    return {
        "shape.volume_mesh": volume,
        "shape.volume_voxels": voxels * float(np.prod(region.spacing)),
        "shape.surface_area": area,
        "shape.surface_to_volume_ratio": area / volume,
        "shape.sphericity": float((36 * np.pi * volume**2) ** (1 / 3)) / area,
        "shape.compactness_2": float(36 * np.pi * volume**2 / area**3),
        "shape.maximum_3d_diameter": _diameter(vertices.astype(np.float64)),
        **_axes(region),
    }


def _flat(region: Region) -> dict[str, float]:
    from skimage.measure import find_contours

    padded = np.pad(region.mask[region.box], 1).astype(np.float64)
    contours = [np.asarray(each) * region.spacing for each in find_contours(padded, 0.5)]
    perimeter = float(sum(np.linalg.norm(np.diff(each, axis=0), axis=1).sum() for each in contours))
    area = abs(float(sum(_signed_area(each) for each in contours)))
    corners = np.concatenate(contours)
    return {
        "shape.area_mesh": area,
        "shape.area_pixels": int(region.mask.sum()) * float(np.prod(region.spacing)),
        "shape.perimeter": perimeter,
        "shape.perimeter_to_area_ratio": perimeter / area,
        "shape.circularity": float(4 * np.pi * area / perimeter**2),
        "shape.solidity": area / _hull_area(corners),
        "shape.euler_number": _euler_number(region.mask[region.box]),
        "shape.maximum_diameter": _diameter(corners),
        **_axes(region),
    }


def _euler_number(mask: NDArray[np.bool_]) -> float:
    """Parts less holes; pixels that touch at a corner are of one part."""
    _, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    is_hole = hierarchy[0][:, 3] >= 0
    return float(len(is_hole) - 2 * is_hole.sum())


def _signed_area(contour: Points) -> float:
    x, y = contour.T
    return float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2.0


def _hull_area(points: Points) -> float:
    return float(ConvexHull(points).volume)  # of a plane, SciPy calls the area a volume


def _diameter(points: Points) -> float:
    """The largest distance between two points, looked for on their hull."""
    try:
        outer = points[ConvexHull(points).vertices]
    except QhullError:
        outer = points
    return float(pdist(outer).max()) if len(outer) > 1 else 0.0


def _axes(region: Region) -> dict[str, float]:
    """Lengths of the axes of the ellipsoid with the same second moments: 4 sqrt(eigenvalue) (IBSI 3.1.11 to 3.1.15)."""
    covariance = _covariance(region.mask[region.box], region.spacing)
    eigenvalues = np.clip(np.linalg.eigvalsh(covariance)[::-1], 0.0, None)
    lengths = 4.0 * np.sqrt(eigenvalues)
    found = {"shape.major_axis_length": float(lengths[0]), "shape.minor_axis_length": float(lengths[1])}
    found["shape.elongation"] = float(np.sqrt(eigenvalues[1] / eigenvalues[0])) if eigenvalues[0] else 1.0
    if len(lengths) == 3:
        found["shape.least_axis_length"] = float(lengths[2])
        found["shape.flatness"] = float(np.sqrt(eigenvalues[2] / eigenvalues[0])) if eigenvalues[0] else 1.0
    return found


def _covariance(mask: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Of the positions of the voxels that count, in square millimetres; from the mask's projections, which are small."""
    count, axes = int(mask.sum()), range(mask.ndim)
    found = np.zeros((mask.ndim, mask.ndim))
    if count < 2:
        return found
    along = [mask.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes]
    away = [np.arange(len(voxels)) - np.average(np.arange(len(voxels)), weights=voxels) for voxels in along]
    for one, two in itertools.combinations(axes, 2):
        plane = mask.sum(axis=tuple(axis for axis in axes if axis not in (one, two)), dtype=np.float64)
        found[one, two] = found[two, one] = away[one] @ plane @ away[two]
    found[np.diag_indices(mask.ndim)] = [voxels @ distance**2 for voxels, distance in zip(along, away, strict=True)]
    scaled: NDArray[np.float64] = found * np.outer(spacing, spacing) / (count - 1)
    return scaled
