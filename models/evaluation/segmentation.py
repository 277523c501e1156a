"""Figures of a segmentation, item by item: overlap, surface distances in millimetres, volumes. By MONAI.

Defined so, and said so in the report:

- no answer of the model counts as an empty one;
- neither has the structure: overlap is not defined, the item is counted and left out of the means;
- only the model has it: overlap 0; surface distances need the structure in both.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.meaniou import compute_iou
from monai.metrics.surface_distance import compute_average_surface_distance
from numpy.typing import NDArray

from models.evaluation.bootstrap import Statistic, mean
from models.evaluation.protocol import Case, slug
from models.postprocess import bounding_box

Mask = NDArray[np.bool_]

#: Of each class and item: what is better (True: high, False: low, None: neither).
PER_ITEM: Mapping[str, bool | None] = {
    "dice": True,
    "iou": True,
    "asd": False,
    "hd95": False,
    "volume_bias": None,
    "volume_error": False,
}


def compare_masks(found: Mask, reference: Mask, spacing: Sequence[float]) -> dict[str, float | None]:
    """Figures of one structure in one item.

    Parameters
    ----------
    found, reference
        bool, of one shape: (slices, rows, columns) or (rows, columns).
    spacing
        Millimetres, one an axis.

    Returns
    -------
    dict
        dice, iou; asd (symmetric average surface distance) and hd95 in mm; reference and found in mL, or in 2-D
        in mm2; volume_bias = found - reference; volume_error = its size in percent of the reference. None: not defined.
    """
    size = math.prod(spacing) * (0.001 if len(spacing) == 3 else 1.0)
    counted, wanted = int(np.count_nonzero(found)), int(np.count_nonzero(reference))
    values: dict[str, float | None] = {
        **_overlap(found, reference, counted, wanted),
        "asd": None,
        "hd95": None,
        "reference": wanted * size,
        "found": counted * size,
        "volume_bias": (counted - wanted) * size if counted or wanted else None,
        "volume_error": 100.0 * abs(counted - wanted) / wanted if wanted else None,
    }
    if counted and wanted:
        values |= _distances(found, reference, spacing)
    return values


def _overlap(found: Mask, reference: Mask, counted: int, wanted: int) -> dict[str, float | None]:
    if not counted and not wanted:
        return {"dice": None, "iou": None}
    if not counted or not wanted:
        return {"dice": 0.0, "iou": 0.0}
    one, other = _batch(found), _batch(reference)
    return {
        "dice": float(compute_dice(one, other, include_background=True)),
        "iou": float(compute_iou(one, other, include_background=True)),
    }


def _distances(found: Mask, reference: Mask, spacing: Sequence[float]) -> dict[str, float | None]:
    box = bounding_box(found | reference)
    assert box is not None
    # A margin of one voxel keeps every surface inside; what is far from both structures changes nothing.
    inside = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
    one, other = _batch(_framed(found[inside])), _batch(_framed(reference[inside]))
    given: Any = tuple(spacing)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")  # MONAI calls its own deprecated argument
        average = compute_average_surface_distance(one, other, include_background=True, symmetric=True, spacing=given)
        hausdorff = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=given)
    return {"asd": float(average), "hd95": float(hausdorff)}


def _framed(mask: Mask) -> Mask:
    """With an empty border, so that a structure cut off by the image's edge has a surface there, in both masks alike."""
    return np.pad(mask, 1)


def _batch(mask: Mask) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask))[None, None]


def case_values(found: Mapping[str, Mask], reference: Mapping[str, Mask], spacing: Sequence[float]) -> dict[str, float | None]:
    """Figures of all classes of one item, by ``<figure>.<class>``, and ``dice.mean`` over its classes."""
    values: dict[str, float | None] = {}
    for name, wanted in reference.items():
        flat = wanted[0] if len(spacing) == 2 else wanted
        answer = found.get(name)
        mask = np.zeros_like(flat) if answer is None else (answer[0] if len(spacing) == 2 else answer)
        values |= {f"{key}.{slug(name)}": value for key, value in compare_masks(mask, flat, spacing).items()}
    overlaps = [value for key, value in values.items() if key.startswith("dice.") and value is not None]
    values["dice.mean"] = sum(overlaps) / len(overlaps) if overlaps else None
    return values


def statistics(cases: Sequence[Case], classes: Sequence[str]) -> dict[str, Statistic]:
    """The means over items of every figure of every class, by name."""
    found = {"dice.mean": mean([case.values.get("dice.mean") for case in cases])} if len(classes) > 1 else {}
    for name in classes:
        for key, better in PER_ITEM.items():
            metric = f"{key}.{slug(name)}"
            found[metric] = mean([case.values.get(metric) for case in cases], higher_is_better=better)
    return found


def bland_altman(cases: Sequence[Case], name: str) -> dict[str, float | int | None]:
    """Bias (found - reference), its deviation and the limits of agreement (1.96 deviations either side) of a class."""
    pairs = volume_pairs(cases, name)
    if not len(pairs):
        return {"n": 0, "bias": None, "deviation": None, "low": None, "high": None}
    apart = pairs[:, 1] - pairs[:, 0]
    bias = float(apart.mean())
    deviation = float(apart.std(ddof=1)) if len(apart) > 1 else None
    low, high = (None, None) if deviation is None else (bias - 1.96 * deviation, bias + 1.96 * deviation)
    return {"n": len(apart), "bias": bias, "deviation": deviation, "low": low, "high": high}


def volume_pairs(cases: Sequence[Case], name: str) -> NDArray[np.float64]:
    """(items, 2): reference and found, of the items where either has the structure."""
    key = slug(name)
    pairs = [(case.values.get(f"reference.{key}") or 0.0, case.values.get(f"found.{key}") or 0.0) for case in cases]
    return np.array([pair for pair in pairs if any(pair)], dtype=np.float64).reshape(-1, 2)


def presence(cases: Sequence[Case], name: str) -> dict[str, int]:
    """How many items have the structure in both, in one, in neither."""
    key = slug(name)
    there = [((case.values.get(f"reference.{key}") or 0) > 0, (case.values.get(f"found.{key}") or 0) > 0) for case in cases]
    return {
        "both": there.count((True, True)),
        "missed": there.count((True, False)),
        "only_found": there.count((False, True)),
        "neither": there.count((False, False)),
    }
