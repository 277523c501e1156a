"""What a model found, as frozen values: the only thing that leaves :mod:`models`.

Everything is on the grid of the source images, so that the encoders of result objects need no
resampling: a mask has one plane per source frame, in volume order. Codes are DICOM coded entries
(PS3.3 section 8.8); units are UCUM (PS3.16 CID 82).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.memory import Course


@dataclass(frozen=True)
class Code:
    """A coded entry: code value, coding scheme designator, code meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, eq=False)
class Segment:
    """One labelled region.

    Parameters
    ----------
    number
        Segment number, from 1, without gaps.
    mask
        bool, (frames, rows, columns), in volume order.
    category, type
        Segmented property category and type (CID 7150, CID 7151).
    color
        Recommended display colour, sRGB 0-255.
    tracking_id
        The finding's name within the bundle; the Tracking UID is derived from study, bundle and this.
    probability
        float32 0..1 of the mask's shape, where fractional output was asked for.
    """

    number: int
    label: str
    category: Code
    type: Code
    mask: NDArray[np.bool_]
    color: tuple[int, int, int] | None
    tracking_id: str
    probability: NDArray[np.float32] | None = None

    @property
    def empty(self) -> bool:
        return not bool(self.mask.any())


@dataclass(frozen=True)
class Measurement:
    """A number with its meaning; ``segment`` is the number of the segment it was taken from."""

    name: Code
    value: float
    unit: Code
    segment: int | None
    method: Code | None = None
    derivation: Code | None = None


@dataclass(frozen=True)
class Classification:
    """A decision about the whole input: ``value`` is the code that was decided for."""

    name: Code
    label: str
    value: Code
    probability: float | None
    threshold: float | None
    positive: bool


@dataclass(frozen=True)
class ModelIdentity:
    """Who made the finding (PS3.16 TID 4019, CID 7162); ``digest`` is the release digest, hex."""

    name: str
    version: str
    manufacturer: str
    digest: str
    family: Code
    intended_use: str
    licence: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    experimental: bool = False


@dataclass(frozen=True)
class Timings:
    """Seconds. ``forward`` counts the network modules' calls only; ``load`` is zero when warm."""

    load: float = 0.0
    preprocess: float = 0.0
    forward: float = 0.0
    postprocess: float = 0.0


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything one run says about one input.

    Parameters
    ----------
    sources
        SOP Instance UIDs in volume order; for an enhanced object its one UID.
    frame_numbers
        Frame numbers (from 1) in volume order of an enhanced object; all 1 for single-frame sources.
    memory
        How the network was applied otherwise than configured because memory did not suffice; empty: as configured.
    course
        What was known of the memory it takes, and what was measured.
    """

    model: ModelIdentity
    segments: tuple[Segment, ...]
    measurements: tuple[Measurement, ...]
    classifications: tuple[Classification, ...]
    sources: tuple[str, ...]
    frame_numbers: tuple[int, ...]
    device: str
    timings: Timings
    memory: str = ""
    course: Course | None = None

    @property
    def empty(self) -> bool:
        """True when no segment has a voxel and no classification is positive."""
        return all(s.empty for s in self.segments) and not any(c.positive for c in self.classifications)
