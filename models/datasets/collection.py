"""A data set in memory, and what all readers share: refusals, file names, pseudonyms."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.datasets.protocol import Item, Skipped, Task
from models.errors import ModelError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI = (".nii.gz", ".nii")
DICOM = (".dcm", ".dicom", ".ima")
SUFFIXES = (*NIFTI, *DICOM, *PICTURES)


class DataSetRefused(ModelError):
    """A data set cannot be used as it is: ``where`` (a file), ``row`` in it (or empty) and ``reason``."""

    def __init__(self, where: str | Path, reason: str, row: str = "") -> None:
        super().__init__(f"{where}{f', {row}' if row else ''}: {reason}")
        self.where = str(where)
        self.row = row
        self.reason = reason

    def __reduce__(self) -> tuple[type[DataSetRefused], tuple[str, str, str]]:
        return type(self), (self.where, self.reason, self.row)


@dataclass(eq=False)
class Collection:
    """A data set that was read whole; no image is opened for it."""

    name: str
    task: Task
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    skipped: Sequence[Skipped] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


def collect(
    name: str, task: Task, classes: Sequence[str], items: Iterable[Item], skipped: Iterable[Skipped], where: str | Path
) -> Collection:
    """A collection whose ids are unique: of several items with one id the first stays, the others are skipped.

    Raises
    ------
    DataSetRefused
        Nothing usable was found; the first reasons are named.
    """
    kept: dict[str, Item] = {}
    left = list(skipped)
    for item in items:
        if item.id in kept:
            left.append(Skipped(str(where), item.provenance.get("row", item.id), f"there is another item with the id {item.id}"))
        else:
            kept[item.id] = item
    if not kept:
        reasons = list(dict.fromkeys(each.reason for each in left))
        raise DataSetRefused(where, "there is no usable image" + (f" ({len(left)} skipped: {'; '.join(reasons[:3])})" if left else ""))
    return Collection(name, task, tuple(classes), tuple(kept.values()), tuple(left))


def stem(path: Path) -> str:
    """A file's name without the suffix of its format (``.nii.gz`` is one)."""
    lowered = path.name.lower()
    return next((path.name[: -len(suffix)] for suffix in SUFFIXES if lowered.endswith(suffix)), path.name)


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix or, of names without a known one, by the prefix of DICOM files (PS3.10 section 7.1)."""
    if path.name.startswith("."):
        return False
    return path.name.lower().endswith(SUFFIXES) or (not re.search(r"\.[A-Za-z]+$", path.name) and has_preamble(path))


def is_dicom(path: Path) -> bool:
    return not path.name.lower().endswith((*NIFTI, *PICTURES))


def has_preamble(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def pseudonym(patient_id: str, issuer: str = "") -> str:
    """What stands for a patient in items and reports: the same for the same patient, without the identifier itself."""
    return "p" + hashlib.sha256(f"{issuer}\0{patient_id}".encode()).hexdigest()[:12]


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts image2 before image10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def number_or_text(text: str) -> str | float:
    """A value of an attribute: a number where it is one."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if abs(value) < float("inf") else text
