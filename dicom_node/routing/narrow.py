"""A rule's choice among the series that it matches: alternatives, exclusions, ranges, planes and numbers of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_node.config_rules import Plane, Select
from dicom_node.routing.selection import images_of, unfit

_PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")  # across the x, y and z axis of the patient (PS3.3 C.7.6.2.1.1)


def left_out(select: Select, attributes: Mapping[str, Any]) -> str | None:
    """Say why a series is not among those that a rule selects; None when it is."""
    reason = unfit(select, attributes)
    if reason is not None:
        return reason
    for keyword, (low, high) in select.ranges.items():
        if attributes.get(keyword) in (None, "", []):
            return f"{keyword} is absent, not {low:g} to {high:g}"
    images = images_of(attributes)
    if select.max_instances is not None and images > select.max_instances:
        return f"{images} images, and at most {select.max_instances} are asked for"
    if select.planes:
        plane = plane_of(attributes)
        if plane not in select.planes:
            return f"it is {plane or 'of unknown orientation'}, not {' or '.join(select.planes)}"
    return None


def plane_of(attributes: Mapping[str, Any]) -> Plane | None:
    """The plane that a series' images are nearest to; None where they do not say."""
    try:
        a, b, c, d, e, f = (float(value) for value in attributes.get("ImageOrientationPatient") or ())
    except (TypeError, ValueError):
        return None
    across = [abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d)]
    return _PLANES[across.index(max(across))] if max(across) > 0 else None
