"""A source image with the findings drawn in, and a legend below it: what a Secondary Capture shows.

Nothing of the image is covered: fills are translucent, outlines one pixel wide, words stand below. Pixels become square.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.findings import Prediction

from .display import OPACITY, rim
from .key_images import NOT_VERIFIED, said_of, said_of_all, title_of
from .segmentation import color_of

_AMBER, _WHITE, _GREY = (255, 190, 60), (235, 235, 235), (165, 165, 165)
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Line:
    """A line of a legend, with a patch of colour where it is about a segment."""

    text: str
    color: Color = _WHITE
    patch: Color | None = None


def legend(prediction: Prediction) -> list[Line]:
    """What stands below every picture of a run."""
    lines = [Line(NOT_VERIFIED, _AMBER), Line(title_of(prediction.model))]
    for segment in prediction.segments:
        if not segment.empty:
            said = said_of(prediction, segment.number)
            lines.append(Line(f"{segment.label}{f': {said}' if said else ''}", patch=color_of(segment)))
    return lines + [Line(text) for text in said_of_all(prediction)]


def scale_for(rows: int, columns: int, spacing: Sequence[float], least: int) -> tuple[int, int]:
    """Rows and columns of a picture with square pixels whose shorter side is at least `least`; never fewer than the image has."""
    high, wide = rows * max(spacing[0] / spacing[1], 1.0), columns * max(spacing[1] / spacing[0], 1.0)
    factor = max(1, -(-least // max(int(min(high, wide)), 1)))
    return round(high * factor), round(wide * factor)


def overlaid(grey: NDArray[np.uint8], prediction: Prediction, plane: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """(rows, columns, 3) of one image, as large as `shape`, with the segments of that plane."""
    rows, columns = shape
    picture = np.asarray(Image.fromarray(grey).resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
    colored = np.repeat(picture[..., None], 3, axis=2)
    for segment in prediction.segments:
        small = segment.mask[plane]
        if small.any():
            mask = np.asarray(Image.fromarray(small).resize((columns, rows), Image.Resampling.NEAREST))
            color = np.asarray(color_of(segment), np.float32)
            colored[mask] = colored[mask] * (1 - OPACITY) + color * OPACITY
            colored[rim(mask)] = color
    return np.rint(colored).astype(np.uint8)


def captioned(picture: NDArray[np.uint8], lines: Sequence[Line], place: str) -> NDArray[np.uint8]:
    """The picture with the legend below it; `place` says which image it is."""
    rows, columns = picture.shape[:2]
    size = max(11, min(22, columns // 32))
    font = ImageFont.load_default(size)
    wrapped = [part for line in (*lines, Line(place, _GREY)) for part in _wrapped(line, font, columns - 2 * size)]
    height = round(size * 1.45)
    canvas = Image.new("RGB", (columns, rows + height * len(wrapped) + size))
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    draw.line([(0, rows), (columns, rows)], fill=_AMBER, width=2)
    for number, line in enumerate(wrapped):
        top = rows + size // 2 + number * height
        left = size // 2
        if line.patch is not None:
            draw.rectangle((left, top + 2, left + size, top + size), fill=line.patch)
            left += round(size * 1.6)
        draw.text((left, top), line.text, fill=line.color, font=font)
    return np.asarray(canvas)


def _wrapped(line: Line, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> Iterator[Line]:
    """A line as so many as it takes; only the first has the patch."""
    patch, text = line.patch, ""
    for word in line.text.split():
        longer = f"{text} {word}".strip()
        if text and font.getlength(longer) > width:
            yield Line(text, line.color, patch)
            patch, text = None, word
        else:
            text = longer
    yield Line(text, line.color, patch)
