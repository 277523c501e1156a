"""A data set as one file: JSON lines, paths relative to the file, so that a folder can be moved as a whole.

The first line names the data set: ``{"schema": 1, "name": ..., "task": ..., "classes": [...]}``; every other line
is an item with the fields of :class:`models.datasets.protocol.Item` (those that are empty are left out).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from models.datasets.collection import Collection, DataSetRefused, collect
from models.datasets.protocol import Box, DataSet, Item, Skipped, Task
from models.datasets.writing import write_text

ITEM_KEYS = frozenset(field.name for field in dataclasses.fields(Item))


def write_manifest(path: Path, dataset: DataSet, items: Iterable[Item] | None = None) -> None:
    """Write a data set, or some items of it, with paths relative to the manifest."""
    path = path.absolute()
    head = {"schema": 1, "name": dataset.name, "task": dataset.task, "classes": list(dataset.classes)}
    lines = [head, *(_record(item, path.parent) for item in (dataset if items is None else items))]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _record(item: Item, folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = {"id": item.id, "subject": item.subject, "image": [_relative(each, folder) for each in item.image]}
    if item.mask is not None:
        record["mask"] = _relative(item.mask, folder)
    if item.boxes:
        record["boxes"] = [dataclasses.asdict(box) for box in item.boxes]
    for name in ("labels", "attributes", "provenance"):
        value: Mapping[str, Any] = getattr(item, name)
        if value:
            record[name] = dict(value)
    return record


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder)).as_posix()


def read_manifest(path: Path) -> Collection:
    """Read a manifest; rows that say nothing usable are skipped, with line and reason.

    Raises
    ------
    DataSetRefused
        The file cannot be read, its first line is no head, or no row is usable.
    """
    path = path.absolute()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataSetRefused(path, f"it cannot be read ({type(error).__name__})") from error
    name, task, classes = _head(lines[0] if lines else "", path)
    items, skipped = [], []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            items.append(_item(line, path.parent))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error) if type(error) is ValueError else "it is no record of an item"
            skipped.append(Skipped(str(path), f"line {number}", reason))
    return collect(name, task, classes, items, skipped, path)


def _head(line: str, path: Path) -> tuple[str, Task, tuple[str, ...]]:
    try:
        head = json.loads(line)
        if head["schema"] != 1 or head["task"] not in get_args(Task):
            raise DataSetRefused(path, "it is a manifest of another kind (schema or task)", "line 1")
        return str(head["name"]), head["task"], tuple(str(each) for each in head["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataSetRefused(path, "it does not begin with schema, name, task and classes", "line 1") from error


def _item(line: str, folder: Path) -> Item:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError("it is no JSON") from error
    unknown = sorted(set(record) - ITEM_KEYS)
    if unknown:
        raise ValueError(f"unknown key '{unknown[0]}'")
    image = tuple(folder / str(each) for each in record["image"])
    mask = folder / str(record["mask"]) if record.get("mask") else None
    missing = [each for each in (*image, mask) if each is not None and not each.is_file()]
    if missing or not image:
        raise ValueError(f"there is no file {missing[0].name}" if missing else "it names no image")
    boxes = tuple(Box(**each) for each in record.get("boxes", ()))
    if any(not (box.x_min < box.x_max and box.y_min < box.y_max) for box in boxes):
        raise ValueError("a box has no area")
    return Item(
        str(record["id"]),
        str(record["subject"]),
        image,
        mask,
        {str(key): float(value) for key, value in record.get("labels", {}).items()},
        boxes,
        dict(record.get("attributes", {})),
        {str(key): str(value) for key, value in record.get("provenance", {}).items()},
    )
