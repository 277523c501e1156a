"""A contact sheet: small pictures of items with the outlines of their masks and their boxes, in one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.datasets.icon import Grey, as_grey, resized
from models.datasets.loading import ItemUnreadable, Sample, load
from models.datasets.protocol import Box, Item
from models.datasets.survey import orientation

CELL = 176
CAPTION = 16
COLUMNS = 8
COLOURS = (
    (80, 200, 255),
    (255, 170, 60),
    (130, 230, 110),
    (255, 110, 160),
    (200, 150, 255),
    (255, 240, 100),
    (110, 240, 220),
    (230, 120, 80),
)


def contact_sheet(items: Sequence[Item], classes: Sequence[str], *, most: int = 48, columns: int = COLUMNS) -> bytes:
    """A PNG of at most ``most`` items, evenly chosen; what cannot be read is an empty cell with its reason."""
    chosen = evenly(items, most)
    rows = max(1, -(-len(chosen) // columns))
    sheet = Image.new("RGB", (columns * CELL, rows * (CELL + CAPTION)), (18, 20, 24))
    for index, item in enumerate(chosen):
        left, top = index % columns * CELL, index // columns * (CELL + CAPTION)
        draw = ImageDraw.Draw(sheet)
        try:
            cell = thumbnail(item, load(item, classes=len(classes) if item.mask and classes else None), classes)
            sheet.paste(cell, (left + (CELL - cell.width) // 2, top + (CELL - cell.height) // 2))
        except ItemUnreadable as error:
            draw.text((left + 4, top + CELL // 2), error.reason[:30], fill=(255, 120, 120))
        draw.text((left + 4, top + CELL + 2), item.id[-28:], fill=(190, 195, 205))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, evenly chosen over all, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def thumbnail(item: Item, sample: Sample, classes: Sequence[str], side: int = CELL - 6) -> Image.Image:
    """The image, or of a volume the plane across z with most of its mask, from its 1st to its 99th percentile.

    A volume is shown as a radiologist looks at it: the patient's right at the left, anterior (or superior) at the top.
    """
    values = sample.image.as_tensor().numpy()
    mask = None if sample.mask is None else sample.mask.as_tensor().numpy()[0]
    spacing = torch.linalg.norm(sample.image.affine[:3, :2], dim=0).tolist()
    if values.ndim == 4:
        level = values.shape[3] // 2 if mask is None or not mask.any() else int((mask > 0).sum(axis=(0, 1)).argmax())
        turn = tuple(slice(None, None, -1 if towards in "RAS" else 1) for towards in orientation(sample.image.affine.numpy())[:2])
        mask = None if mask is None else mask[:, :, level][turn]
        values = values[:, :, :, level][:, *turn]
    colours = values if values.shape[0] == 3 else values.mean(axis=0, keepdims=True, dtype=np.float32)
    low, high = (float(each) for each in np.percentile(values, (1, 99)))
    inverted = sample.image.meta.get("photometric_interpretation") == "MONOCHROME1"
    rows, columns = values.shape[2] * spacing[1], values.shape[1] * spacing[0]
    shrink = side / max(rows, columns)
    size = max(1, round(rows * shrink)), max(1, round(columns * shrink))
    channels = [_scaled(as_grey(each.T, low, high, inverted=inverted), *size) for each in colours]
    picture = np.stack(channels if len(channels) == 3 else channels * 3, axis=2)
    if mask is not None:
        _outline(picture, _nearest(mask.T, *size))
    cell = Image.fromarray(picture)
    _boxes(cell, item.boxes, classes, size[1] / values.shape[1], size[0] / values.shape[2])
    return cell


def _scaled(grey: Grey, rows: int, columns: int) -> Grey:
    if rows <= grey.shape[0] and columns <= grey.shape[1]:
        return resized(grey, rows, columns)
    return np.asarray(Image.fromarray(grey).resize((columns, rows), Image.Resampling.BILINEAR))


def _nearest(labels: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    row = (np.arange(rows) + 0.5) * labels.shape[0] / rows
    column = (np.arange(columns) + 0.5) * labels.shape[1] / columns
    nearest: NDArray[np.uint8] = labels[row.astype(int)[:, None], column.astype(int)[None, :]]
    return nearest


def _outline(picture: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Colour the pixels of a structure that touch something else."""
    around = np.pad(labels, 1, mode="edge")
    shifted = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    edge = np.any([each != labels for each in shifted], axis=0) & (labels > 0)
    for label in np.unique(labels[edge]):
        picture[edge & (labels == label)] = COLOURS[(int(label) - 1) % len(COLOURS)]


def _boxes(cell: Image.Image, boxes: Sequence[Box], classes: Sequence[str], across: float, down: float) -> None:
    draw = ImageDraw.Draw(cell)
    for box in boxes:
        colour = COLOURS[(classes.index(box.label) if box.label in classes else len(classes)) % len(COLOURS)]
        draw.rectangle(
            (
                box.x_min * across,
                box.y_min * down,
                max(box.x_min * across, box.x_max * across - 1),
                max(box.y_min * down, box.y_max * down - 1),
            ),
            outline=colour,
        )
