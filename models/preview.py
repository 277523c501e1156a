"""The preprocessing of a bundle, step by step: what an image was before and after each of its transforms, and pictures of both.

Arrays are shown as a network gets them: the first axis to the right, the second downwards. The caption says where
the axes lead in the patient, so that a step that turns or mirrors the image is seen in both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.bundle import Bundle
from models.datasets.loading import load
from models.datasets.protocol import Item
from models.errors import InferenceFailed
from models.evaluation.volumes import volume_of
from models.keypoints import FeaturePoints
from models.preprocess import Preprocessing
from models.reader import Axes, VolumeReader

PANEL = 400  # pixels, the longer side
MARGIN, LINE = 12, 18
PAPER, INK, POINT = (250, 250, 250), (20, 20, 20), (255, 190, 0)


@dataclass(frozen=True, eq=False)
class Stage:
    """One step of the graph on one image; ``before`` and ``after`` are (channels, x, y[, z])."""

    number: int
    name: str
    settings: Mapping[str, Any]
    before: MetaTensor
    after: MetaTensor
    points: FeaturePoints | None
    seconds: float

    @property
    def file_name(self) -> str:
        return f"{self.number:02d}-{self.name}.png"


def read_input(bundle: Bundle, files: Sequence[Path]) -> MetaTensor:
    """The image as the bundle's loading hands it to its first transform: float32, (channels, ...) in the bundle's order of axes.

    Raises
    ------
    ItemUnreadable, GeometryRefused
    """
    item = Item("preview", "preview", tuple(files))
    reader = VolumeReader(Axes(bundle.dicom.run.axes))
    array, meta = reader.get_data(volume_of(item, load(item), bundle))
    channel = meta.pop("original_channel_dim")
    array = array[None] if np.isnan(channel) else np.moveaxis(array, int(channel), 0)
    return MetaTensor(torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32)), meta=meta)


def stages(graph: Preprocessing, image: MetaTensor) -> Iterator[Stage]:
    """Run the graph step by step.

    Raises
    ------
    InferenceFailed
        A step fails on this image; its number and name are in the message. Steps before it have been yielded.
    """
    data: dict[str, Any] = {graph.image_key: image}
    for number, (step, transform) in enumerate(zip(graph.steps, graph.image().transforms, strict=True), 1):
        name = str(step["_target_"]).rsplit(".", 1)[-1]
        before = data[graph.image_key].clone()
        started = time.perf_counter()
        try:
            data = transform(data)
        except Exception as error:  # transforms are foreign code and raise anything
            reason = f"step {number} ({name}) fails on this image: {type(error).__name__}: {str(error)[:300]}"
            raise InferenceFailed("preprocess", reason) from error
        seconds = time.perf_counter() - started
        settings = {key: value for key, value in step.items() if key not in ("_target_", "keys")}
        points = data.get(f"{graph.image_key}_points")
        yield Stage(number, name, settings, before, _meta(data[graph.image_key]), points, seconds)


def _meta(image: Any) -> MetaTensor:
    return image if isinstance(image, MetaTensor) else MetaTensor(torch.as_tensor(image))


def draw_stage(stage: Stage) -> Image.Image:
    """Before and after, side by side; also the difference where the step changes values a little (a filter)."""
    alike = _alike(stage.before, stage.after)
    window = _window(stage.before) if alike else None
    columns = [("before", _column(stage.before, window)), ("after", _column(stage.after, window, stage.points))]
    captions = [describe(stage.before), describe(stage.after)]
    if alike:
        change = MetaTensor(stage.after.as_tensor().float() - stage.before.as_tensor().float(), meta=stage.after.meta)
        reach = max(float(change.abs().max()), 1e-12)
        columns.append(("after - before", _column(change, (-reach, reach))))
        captions.append(f"grey is 0, black {-reach:.4g}, white {reach:.4g}")
    if stage.points is not None:
        captions[1] += f", {len(stage.points)} points"
    settings = ", ".join(f"{name}={json.dumps(value, default=str)}" for name, value in stage.settings.items())
    return _sheet(f"{stage.number}. {stage.name}", f"{settings}", columns, captions)


def draw_input(image: MetaTensor, name: str) -> Image.Image:
    """The image before any step."""
    return _sheet("0. Input", name, [("as read", _column(image))], [describe(image)])


def describe(image: MetaTensor) -> str:
    """Size, spacing, directions in the patient (of volumes) and values in one line."""
    values = image.as_tensor().float()
    spacing = " x ".join(f"{float(step):.3g}" for step in image.pixdim[: image.ndim - 1])
    size = " x ".join(str(each) for each in image.shape[1:])
    channels = f"{image.shape[0]} channels, " if image.shape[0] > 1 else ""
    low, high, mean = (float(each) for each in (values.min(), values.max(), values.mean()))
    place = f"pixel {spacing}" if image.ndim == 3 else f"{spacing} mm; to {_axes(image)}"
    return f"{channels}{size}; {place}; {low:.4g} .. {high:.4g}, mean {mean:.4g}"


def _axes(image: MetaTensor) -> str:
    codes: tuple[str | None, ...] = aff2axcodes(np.asarray(image.affine.cpu(), dtype=np.float64))  # type: ignore[no-untyped-call]
    return "".join(code or "-" for code in codes)


def _alike(before: MetaTensor, after: MetaTensor) -> bool:
    """Whether the same window and a difference mean something: the same grid, and values that moved little."""
    if before.shape != after.shape or not torch.allclose(before.affine.double(), after.affine.double()):
        return False
    first, second = before.as_tensor().float(), after.as_tensor().float()
    reach = float(first.max() - first.min())
    return 0 < float((second - first).abs().mean()) < 0.1 * reach


def _window(image: MetaTensor) -> tuple[float, float]:
    values = image.as_tensor().float().numpy().ravel()
    values = values[:: max(1, values.size // 500_000)]
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    if high <= low:
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return float(low), max(float(high), float(low) + 1e-12)


def _column(image: MetaTensor, window: tuple[float, float] | None = None, points: FeaturePoints | None = None) -> list[Image.Image]:
    """A picture of a 2-D image, three middle planes of a 3-D one."""
    low, high = window or _window(image)
    values = np.nan_to_num(image.as_tensor().float().cpu().numpy(), nan=low)
    grey = (np.clip((values - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    steps = [float(each) for each in image.pixdim[: image.ndim - 1]]
    if image.ndim == 3:
        shown = grey if grey.shape[0] == 3 else grey[:1]
        return [_with_points(_panel(shown, (steps[0], steps[1])), image.shape[1], points)]
    middle = [size // 2 for size in grey.shape[1:]]
    planes = [
        (grey[:1, :, :, middle[2]], (steps[0], steps[1])),
        (grey[:1, :, middle[1]], (steps[0], steps[2])),
        (grey[:1, middle[0]], (steps[1], steps[2])),
    ]
    return [_panel(plane, spacing) for plane, spacing in planes]


def _panel(values: NDArray[np.uint8], spacing: tuple[float, float]) -> Image.Image:
    """(1 or 3, x, y) as a picture in its true proportions."""
    pixels = values.transpose(2, 1, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])).convert("RGB")
    width, height = picture.width * spacing[0], picture.height * spacing[1]
    scale = PANEL / max(width, height, 1e-9)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smaller = size[0] < picture.width or size[1] < picture.height
    return picture.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)


def _with_points(picture: Image.Image, columns: int, points: FeaturePoints | None) -> Image.Image:
    if points is None:
        return picture
    scale = picture.width / columns
    pen = ImageDraw.Draw(picture)
    for (x, y), size, angle in zip(points.position, points.scale, np.radians(points.orientation), strict=True):
        centre, radius = ((x + 0.5) * scale, (y + 0.5) * scale), max(2.0, size / 2 * scale)
        pen.ellipse((centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius), outline=POINT)
        pen.line((*centre, centre[0] + radius * float(np.cos(angle)), centre[1] + radius * float(np.sin(angle))), fill=POINT)
    return picture


def _sheet(title: str, below: str, columns: Sequence[tuple[str, list[Image.Image]]], captions: Sequence[str]) -> Image.Image:
    large, small = ImageFont.load_default(18), ImageFont.load_default(12)
    width = max(MARGIN + len(columns) * (PANEL + MARGIN), 2 * PANEL)
    heights = [max(pictures[row].height for _, pictures in columns) for row in range(len(columns[0][1]))]
    texts = [_wrapped(f"{heading}: {caption}", small, PANEL) for (heading, _), caption in zip(columns, captions, strict=True)]
    settings = _wrapped(below, small, width - 2 * MARGIN)
    top = MARGIN + 26 + LINE * len(settings)
    caption_height = LINE * max(len(text) for text in texts)
    sheet = Image.new("RGB", (width, top + caption_height + sum(heights) + MARGIN * len(heights) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, large)
    pen.multiline_text((MARGIN, MARGIN + 26), "\n".join(settings), INK, small)
    for number, ((_, pictures), text) in enumerate(zip(columns, texts, strict=True)):
        left, y = MARGIN + number * (PANEL + MARGIN), top
        pen.multiline_text((left, y), "\n".join(text), INK, small)
        y += caption_height
        for picture, height in zip(pictures, heights, strict=True):
            sheet.paste(picture, (left, y))
            y += height + MARGIN
    return sheet


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
