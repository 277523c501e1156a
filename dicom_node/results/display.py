"""Source images as a viewer shows them: the window that they state, else from the least value to the greatest (PS3.3 C.11.2)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

OPACITY = 0.3  # of a segment that is drawn into an image


def window_of(header: Dataset, frame: int | None = None) -> tuple[float, float] | None:
    """Centre and width of the first window that an image states, or the frame (from 1) of a multi-frame one."""
    for holder in _holders(header, frame):
        try:
            center, width = _first(holder.get("WindowCenter")), _first(holder.get("WindowWidth"))
        except (TypeError, ValueError):
            continue
        if center is not None and width is not None and isfinite(center) and isfinite(width) and width >= 1:
            return center, width
    return None


def _holders(header: Dataset, frame: int | None) -> list[Dataset]:
    found = [header]
    if frame is not None:
        groups = list(header.get("PerFrameFunctionalGroupsSequence") or ())[frame - 1 : frame]
        for group in (*groups, *(header.get("SharedFunctionalGroupsSequence") or ())):
            found += group.get("FrameVOILUTSequence") or ()
    return found


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)


def spacing_of(header: Dataset) -> tuple[float, float] | None:
    """Millimetres between rows and between columns, where the image states them."""
    holders = [header]
    for group in (*(header.get("PerFrameFunctionalGroupsSequence") or ())[:1], *(header.get("SharedFunctionalGroupsSequence") or ())):
        holders += group.get("PixelMeasuresSequence") or ()
    for holder in holders:
        spacing = [float(value) for value in holder.get("PixelSpacing") or ()]
        if len(spacing) == 2 and min(spacing) > 0:
            return spacing[0], spacing[1]
    return None


def shown(values: NDArray[Any], header: Dataset, frame: int | None = None) -> NDArray[np.uint8]:
    """One image, (rows, columns) of values after the modality transformation, as grey levels; MONOCHROME1 is inverted."""
    window = window_of(header, frame)
    plane = values.astype(np.float32)
    if window is None:
        low, high = float(plane.min()), float(plane.max())
    else:
        center, width = window
        low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2  # LINEAR
    scaled = np.clip((plane - low) / max(high - low, 1e-6), 0, 1) if high > low else (plane > low).astype(np.float32)
    grey: NDArray[np.uint8] = np.rint(scaled * 255).astype(np.uint8)
    return 255 - grey if str(header.get("PhotometricInterpretation") or "") == "MONOCHROME1" else grey


def rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost pixels of a mask."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outermost: NDArray[np.bool_] = mask & ~inner
    return outermost
