"""How a client wants an image rendered (PS3.18 8.3.5.1): window, viewport, quality; what is not supported is refused, not ignored."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dicom_node.web.dicomweb.errors import BadRequest

MAX_SIDE: Final = 4096
THUMBNAIL: Final = 200
DECIMAL: Final = r"[+\-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+\-]?[0-9]+)?"
_DECIMAL: Final = re.compile(DECIMAL)
FUNCTIONS: Final = ("linear", "linear-exact", "sigmoid")


@dataclass(frozen=True)
class Window:
    """Center and width in values after the modality LUT, and the VOI LUT function."""

    center: float
    width: float
    function: str = "linear"


@dataclass(frozen=True)
class Viewport:
    """Size of the picture in pixels, and the region of the image that it shows: left, top, width, height; None shows all of it."""

    width: int
    height: int
    region: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Rendering:
    """What is asked for; None where the image itself decides."""

    window: Window | None = None
    viewport: Viewport | None = None
    quality: int = 90

    def fingerprint(self, media_type: str, numbers: Sequence[int]) -> str:
        """Tells pictures of one instance apart."""
        return hashlib.sha256(repr((self, media_type, list(numbers))).encode()).hexdigest()[:16]


def rendering_of(parameters: Sequence[tuple[str, str]], *, thumbnail: bool) -> Rendering:
    """Read the parameters; raises BadRequest."""
    window: Window | None = None
    viewport = Viewport(THUMBNAIL, THUMBNAIL) if thumbnail else None
    quality, seen = 90, set()
    for name, value in parameters:
        if name in seen:
            raise BadRequest(f"{name} is there twice" if name.isalnum() else "a parameter is there twice")
        seen.add(name)
        if name == "window":
            window = _window(value)
        elif name == "viewport":
            viewport = _viewport(value)
        elif name == "quality":
            quality = _integer(value, "quality", 1, 100)
        elif name == "annotation":
            raise BadRequest("annotation is not supported: nothing is burnt into images")
        elif name not in ("accept", "charset"):
            raise BadRequest("a parameter that is none of window, viewport, quality, accept")
    return Rendering(window, viewport, quality)


def _window(text: str) -> Window:
    parts = text.split(",")
    if len(parts) not in (2, 3):
        raise BadRequest("window is center,width,function")
    center, width = _number(parts[0], "window"), _number(parts[1], "window")
    function = parts[2].lower() if len(parts) == 3 else "linear"
    if function not in FUNCTIONS:
        raise BadRequest(f"the function of window is none of {', '.join(FUNCTIONS)}")
    if width < (1 if function == "linear" else 1e-9):
        raise BadRequest("the width of window is too small")
    return Window(center, width, function)


def _viewport(text: str) -> Viewport:
    parts = text.split(",")
    if len(parts) not in (2, 6):
        raise BadRequest("viewport is width,height or width,height,sx,sy,sw,sh")
    width, height = (_integer(part, "viewport", 1, MAX_SIDE) for part in parts[:2])
    if len(parts) == 2:
        return Viewport(width, height)
    left, top, wide, high = (_number(part or default, "viewport") for part, default in zip(parts[2:], ("0", "0", "1e9", "1e9")))
    if left < 0 or top < 0 or wide == 0 or high == 0:
        raise BadRequest("the region of viewport is empty")
    return Viewport(width, height, (left, top, wide, high))


def _integer(text: str, name: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and low <= int(text) <= high):
        raise BadRequest(f"{name} is not between {low} and {high}")
    return int(text)


def decimal(text: str) -> float:
    """A decimal number; NaN for what is none."""
    return float(text) if len(text) <= 32 and _DECIMAL.fullmatch(text) else math.nan


def _number(text: str, name: str) -> float:
    value = decimal(text)
    if not math.isfinite(value) or abs(value) > 1e9:
        raise BadRequest(f"{name} holds something that is no number")
    return value
