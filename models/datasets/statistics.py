"""Numbers and words that describe an image, the same for the training data and for what arrives in service.

numbers
    ``size.x size.y size.z`` in pixels, ``spacing.x spacing.y spacing.z`` in mm (where it is known), ``channels``,
    ``intensity.p00`` to ``intensity.p100`` (percentiles), ``intensity.mean``, ``intensity.std``, ``age`` in years;
    ``at_minimum`` and ``at_maximum``: the share of pixels that have the lowest and the highest value.
words
    Values of the header attributes in WORDS.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from models.volume import Volume

PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)

#: Header attributes whose values are counted; none of them says who the patient is.
WORDS: Mapping[str, str] = {
    "modality": "Modality",
    "photometric_interpretation": "PhotometricInterpretation",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "body_part": "BodyPartExamined",
    "view": "ViewPosition",
    "field_strength": "MagneticFieldStrength",
    "kvp": "KVP",
    "sex": "PatientSex",
}

#: Percentiles are taken of at most so many pixels, evenly chosen.
ENOUGH = 250_000


def image_numbers(values: NDArray[Any], spacing: tuple[float, ...] | None) -> dict[str, float]:
    """Numbers of one image.

    Parameters
    ----------
    values
        (channels, x, y[, z]).
    spacing
        Millimetres in x, y[, z]; None where nobody knows.
    """
    numbers = {f"size.{axis}": float(size) for axis, size in zip("xyz", values.shape[1:], strict=False)}
    numbers |= {f"spacing.{axis}": float(size) for axis, size in zip("xyz", spacing or (), strict=False)}
    numbers["channels"] = float(values.shape[0])
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // ENOUGH)].astype(np.float64)
    lowest, highest = float(values.min()), float(values.max())
    for name, value in zip(PERCENTILES, np.percentile(flat, PERCENTILES), strict=True):
        numbers[f"intensity.p{name:02d}"] = float(value)
    numbers["intensity.p00"], numbers["intensity.p100"] = lowest, highest
    numbers["intensity.mean"], numbers["intensity.std"] = float(flat.mean()), float(flat.std())
    numbers["at_minimum"], numbers["at_maximum"] = float((flat == lowest).mean()), float((flat == highest).mean())
    return numbers


def volume_numbers(volume: Volume) -> dict[str, float]:
    """Numbers of a volume as the node reads it; a 2-D image has no z."""
    array = volume.array[0].T if volume.planar else volume.array.transpose(2, 1, 0)
    spacing = None if volume.planar and volume.pixel is None else volume.spacing[: array.ndim]
    age = header_age(volume.headers[0])
    return image_numbers(array[None], spacing) | ({} if age is None else {"age": age})


def header_words(header: Dataset) -> dict[str, str]:
    """Values of the header attributes in WORDS, where they are there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, which may identify the patient
        found = {name: " ".join(_text(header, keyword).split()) for name, keyword in WORDS.items()}
    return {name: value for name, value in found.items() if value}


def header_age(header: Dataset) -> float | None:
    """Patient's Age (0010,1010) in years."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match = re.fullmatch(r"(\d{1,3})([DWMY])", _text(header, "PatientAge").strip())
    return None if match is None else int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[match[2]]


def _text(header: Dataset, keyword: str) -> str:
    """A value as text; nothing where it cannot be converted (elements are converted when they are first used)."""
    try:
        return str(header.get(keyword) or "")
    except Exception:  # noqa: BLE001 - malformed elements raise anything
        return ""
