"""What can go wrong between a bundle and a prediction.

    ModelError
    ├── BundleInvalid        the bundle's files contradict themselves or name unknown keys
    ├── WeightsMissing       a referenced weight file was not fetched, or cannot be
    ├── WeightsMismatch      a weight file is not the one the bundle pins
    ├── GeometryRefused      the images do not form the volume that a model needs (code and sentence)
    ├── NotApplicable        the images are sound, and not what this model is for (code and sentence)
    └── InferenceFailed      the model ran and failed
        └── OutOfMemory      the device's memory did not suffice; another device may do

No message ever carries patient identity: UIDs, numbers and file names of the bundle only.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from models.memory import Course


class ModelError(Exception):
    """Anything that ends a run inside :mod:`models`."""


class BundleInvalid(ModelError):
    """The bundle cannot be used; the message lists every problem found."""


class WeightsMissing(ModelError):
    """A weight file is not in the cache and cannot be fetched from where the bundle says it is."""


class WeightsMismatch(ModelError):
    """A weight file's SHA-256 is not the pinned one."""


class Refusal(StrEnum):
    """Why images make no volume. The value is kept with the run and is stable."""

    NO_IMAGES = "no-images"
    UNREADABLE = "unreadable"
    NOT_AN_IMAGE = "not-an-image"
    NOT_MONOCHROME = "not-monochrome"
    UNSUPPORTED_MULTIFRAME = "unsupported-multiframe"
    MIXED_OBJECTS = "mixed-objects"
    NO_GEOMETRY = "no-geometry"
    MIXED_SIZE = "mixed-size"
    MIXED_SPACING = "mixed-pixel-spacing"
    MIXED_ORIENTATION = "mixed-orientation"
    MIXED_FRAME_OF_REFERENCE = "mixed-frame-of-reference"
    MIXED_SERIES = "mixed-series"
    OTHER_FRAME_OF_REFERENCE = "other-frame-of-reference"
    OTHER_PLACE = "other-place"
    DUPLICATE_SLICES = "duplicate-slices"
    MISSING_SLICES = "missing-slices"
    UNEVEN_SPACING = "uneven-spacing"
    GANTRY_TILT = "gantry-tilt"
    TOO_FEW_SLICES = "too-few-slices"
    SEVERAL_IMAGES = "several-images"
    WRONG_VIEW = "wrong-view"
    TOO_LARGE = "too-large"
    PIXEL_DATA_BROKEN = "pixel-data-broken"


class GeometryRefused(ModelError):
    """The images do not form a regular volume.

    Parameters
    ----------
    code
        One of :class:`Refusal`; stable, for rules and metrics.
    sentence
        What is wrong, in words a radiographer understands.
    """

    def __init__(self, code: Refusal, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence

    def __reduce__(self) -> tuple[type[GeometryRefused], tuple[Refusal, str]]:
        return type(self), (self.code, self.sentence)


class NotApplicable(ModelError):
    """The images are sound and the model says nothing about such images.

    Parameters
    ----------
    reason
        A readable sentence.
    code
        Stable word for rules and metrics.
    """

    def __init__(self, reason: str, code: str = "not-applicable") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code

    def __reduce__(self) -> tuple[type[NotApplicable], tuple[str, str]]:
        return type(self), (self.reason, self.code)


class InferenceFailed(ModelError):
    """The model's code raised; ``stage`` says where: load, preprocess, forward or postprocess."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage = stage
        self.message = message

    def __reduce__(self) -> tuple[type[InferenceFailed], tuple[str, str]]:
        return type(self), (self.stage, self.message)


class OutOfMemory(InferenceFailed):
    """The device has too little memory for this model and input.

    Parameters
    ----------
    course
        What was known and tried, where it came to applying the network.
    later
        Nothing was tried: what is free does not suffice, and will when other work has ended.
    final
        By what is known it will never fit here: trying again does not help.
    """

    def __init__(self, stage: str, message: str, course: Course | None = None, *, later: bool = False, final: bool = False) -> None:
        super().__init__(stage, message)
        self.course = course
        self.later = later
        self.final = final

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.stage, self.message, self.course), {"later": self.later, "final": self.final}
