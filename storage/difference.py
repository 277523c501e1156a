"""Two data sets side by side, attribute by attribute, for the person who must choose between them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag

from storage.header_json import UNREADABLE

SHOWN = 120


@dataclass(frozen=True)
class Difference:
    """One attribute that differs; None where one side lacks it. `path` is its tag, with item numbers inside sequences."""

    path: str
    keyword: str
    existing: str | None
    offered: str | None


def compare(existing: BinaryIO, offered: BinaryIO) -> list[Difference]:
    """Differences between two Part 10 files, file meta aside, in the order of their tags.

    Values longer than a line are shown by length and SHA-256, so pixel data fits too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings show values
        return list(_datasets(_read(existing), _read(offered), ""))


def _read(file: BinaryIO) -> Dataset:
    try:
        return dcmread(file, force=True)
    except UNREADABLE:
        return Dataset()


def _datasets(existing: Dataset, offered: Dataset, path: str) -> Iterator[Difference]:
    for tag in sorted(set(existing.keys()) | set(offered.keys())):
        here = f"{path}({tag >> 16:04X},{tag & 0xFFFF:04X})"
        left, right = _value(existing, tag), _value(offered, tag)
        if isinstance(left, list) and isinstance(right, list):
            yield from _sequences(left, right, here, tag)
        elif _text(left) != _text(right):
            yield Difference(here, keyword_for_tag(tag), _text(left), _text(right))


def _sequences(existing: list[Dataset], offered: list[Dataset], path: str, tag: int) -> Iterator[Difference]:
    for number, (left, right) in enumerate(zip(existing, offered), 1):
        yield from _datasets(left, right, f"{path}[{number}].")
    if len(existing) != len(offered):
        yield Difference(path, keyword_for_tag(tag), _text(existing), _text(offered))


def _value(dataset: Dataset, tag: int) -> list[Dataset] | str | bytes | None:
    if tag not in dataset:
        return None
    try:
        element = dataset[tag]
        if element.VR == "SQ":
            return list(element.value or [])
        return element.value if isinstance(element.value, bytes) else str(element.value if element.value is not None else "")
    except UNREADABLE:
        raw = dataset.get_item(tag)
        value = getattr(raw, "value", None)
        return value if isinstance(value, bytes) else "unreadable"


def _text(value: list[Dataset] | str | bytes | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, list):
        return f"{len(value)} items"
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    if len(data) > SHOWN:
        return f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:16]}"
    return value.hex(" ") if isinstance(value, bytes) else value
