"""A table of images (CSV), in the manner of ChestX-ray14: one row an image, its findings, patient, age, sex and view.

Which column is what is found by its usual names, or said: ``labels`` is one column whose words are parted by ``|``
(``Finding Labels``), or several columns with numbers, one for each label. So any list of images with labels is read,
of other names too: ORBS, for which no published layout exists, comes in this way, with its columns named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from models.datasets.collection import Collection, DataSetRefused, collect, stem
from models.datasets.csvfile import Row, find, head, number, rows
from models.datasets.protocol import Item, Skipped

Uncertain = Literal["ignore", "positive", "negative"]

IMAGE = ("Image Index", "image", "image_path", "image_id", "filename", "file_name", "file", "path", "dicom_id")
LABELS = ("Finding Labels", "labels", "findings", "label", "class", "diagnosis")
SUBJECT = ("Patient ID", "patient", "subject", "subject_id", "person_id", "case_id")
ATTRIBUTES = {
    "age": ("Patient Age", "age", "age_years"),
    "sex": ("Patient Gender", "Patient Sex", "sex", "gender"),
    "view": ("View Position", "view", "projection"),
    "site": ("site", "hospital", "institution", "center", "centre", "source"),
    "scanner": ("scanner", "manufacturer model name", "model", "device"),
    "modality": ("modality",),
    "split": ("split", "fold", "subset", "partition"),
}
NOTHING = frozenset({"", "no finding", "no findings", "none", "normal"})


@dataclass(frozen=True)
class Columns:
    """Which columns mean what.

    Parameters
    ----------
    images
        Folder of the images; default: the table's, and ``images`` and ``images_*/images`` beside it.
    image, labels, subject, mask
        Columns; ``labels`` may be several. Where ``subject`` is missing, each image is a subject of its own.
    attributes
        Attribute to column, beyond those that are found by their usual names.
    separator
        Parts the words in the column of labels.
    classes
        Labels that count; default: all that occur.
    uncertain
        What -1 in a column of numbers means (CheXpert writes it): no statement, or one.
    """

    images: str = ""
    image: str = ""
    labels: tuple[str, ...] = ()
    subject: str = ""
    mask: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    separator: str = "|"
    classes: tuple[str, ...] = ()
    uncertain: Uncertain = "ignore"


@dataclass(frozen=True)
class _Found:
    image: str
    labels: tuple[str, ...]
    subject: str | None
    mask: str | None
    attributes: Mapping[str, str]


def read_table(path: Path, columns: Columns | None = None, *, name: str = "") -> Collection:
    """Read a table of images; rows without image, label or patient are skipped with line and reason.

    Raises
    ------
    DataSetRefused
        The table cannot be read, a column that was named is not there, or no row is usable.
    """
    columns = columns or Columns()
    found = _columns(path, columns)
    folder = Images(path.parent, path.parent / columns.images if columns.images else None)
    items: list[Item] = []
    skipped: list[Skipped] = []
    for line, row in rows(path):
        try:
            items.append(_item(row, line, found, columns, folder, path))
        except ValueError as error:
            skipped.append(Skipped(str(path), f"line {line}", str(error)))
    occurring = tuple(sorted({label for item in items for label in item.labels}))
    classes = columns.classes or occurring
    if len(found.labels) == 1 and _in_words(path, found.labels[0]):
        items = [_complete(item, classes) for item in items]  # who lists findings denies the others
    task = "segmentation" if found.mask else "classification" if found.labels else "none"
    return collect(name or stem(path).removesuffix(".csv"), task, classes, items, skipped, path)  # type: ignore[arg-type]


def _columns(path: Path, columns: Columns) -> _Found:
    there = head(path)

    def one(named: str, usual: Sequence[str]) -> str | None:
        column = find(there, named or None, usual)
        if named and column is None:
            raise DataSetRefused(path, f"there is no column '{named}'; it has {', '.join(there)}", "line 1")
        return column

    image = one(columns.image, IMAGE)
    if image is None:
        raise DataSetRefused(path, f"no column names an image; say which: image=... of {', '.join(there)}", "line 1")
    labels = tuple(one(each, ()) or "" for each in columns.labels)
    usual = find(there, None, LABELS)
    attributes = {each: one("", names) for each, names in ATTRIBUTES.items()} | {
        each: one(column, ()) for each, column in columns.attributes.items()
    }
    taken = {image, *labels}
    return _Found(
        image,
        labels or ((usual,) if usual else ()),
        one(columns.subject, SUBJECT),
        one(columns.mask, ()) if columns.mask else None,
        {each: column for each, column in attributes.items() if column and column not in taken},
    )


class Images:
    """Finds images by what a table calls them: a path, a name, or a name without its suffix."""

    def __init__(self, base: Path, folder: Path | None) -> None:
        if folder is not None and not folder.is_dir():
            raise DataSetRefused(folder, "there is no such folder")
        self.base = base
        self.folders = [folder] if folder else [base, base / "images", *sorted(base.glob("images_*/images"))]
        self._names: dict[str, Path] | None = None

    def find(self, word: str) -> Path:
        """The file; raises ValueError where there is none, or the word leads out of the folder."""
        if not word:
            raise ValueError("no image is named")
        if Path(word).is_absolute() or ".." in Path(word).parts:
            raise ValueError("the image's path leads out of the folder")
        for folder in self.folders:
            if (folder / word).is_file():
                return folder / word
        if self._names is None:
            paths = [path for folder in self.folders if folder.is_dir() for path in folder.iterdir() if path.is_file()]
            self._names = {stem(path): path for path in reversed(paths)}
        found = self._names.get(Path(word).name) or self._names.get(stem(Path(word)))
        if found is None:
            raise ValueError(f"there is no image {Path(word).name}")
        return found


def _item(row: Row, line: int, found: _Found, columns: Columns, folder: Images, path: Path) -> Item:
    image = folder.find(row.get(found.image, ""))
    subject = row.get(found.subject, "") if found.subject else stem(image)
    if not subject:
        raise ValueError("it names no patient")
    labels = _labels(row, found, columns)
    if found.labels and not labels and not (len(found.labels) == 1 and row.get(found.labels[0], "").lower() in NOTHING - {""}):
        raise ValueError("it states no label")
    mask = folder.find(row[found.mask]) if found.mask else None
    attributes = {each: _attribute(each, row.get(column, "")) for each, column in found.attributes.items()}
    kept = {each: value for each, value in attributes.items() if value != ""}
    return Item(
        stem(image), subject, (image,), mask, labels=labels, attributes=kept, provenance={"source": path.name, "row": f"line {line}"}
    )


def _labels(row: Row, found: _Found, columns: Columns) -> dict[str, float]:
    if len(found.labels) == 1:
        text = row.get(found.labels[0], "")
        value = number(text)
        if value is None:
            said = [word.strip() for word in text.split(columns.separator)]
            return {word: 1.0 for word in said if word.lower() not in NOTHING}
        return stated({found.labels[0]: value}, columns.uncertain)
    values = {label: number(row.get(label, "")) for label in found.labels}
    return stated({label: value for label, value in values.items() if value is not None}, columns.uncertain)


def stated(values: Mapping[str, float], uncertain: Uncertain) -> dict[str, float]:
    """Labels with -1 resolved: left out, or taken as 1 or 0."""
    meant = {"positive": 1.0, "negative": 0.0}
    resolved = {label: meant.get(uncertain) if value == -1 else value for label, value in values.items()}
    return {label: value for label, value in resolved.items() if value is not None}


def _in_words(path: Path, column: str) -> bool:
    return any(number(row.get(column, "")) is None and row.get(column, "") for _, row in rows(path))


def _complete(item: Item, classes: Sequence[str]) -> Item:
    labels = {each: item.labels.get(each, 0.0) for each in classes}
    return Item(item.id, item.subject, item.image, item.mask, labels, item.boxes, item.attributes, item.provenance)


def _attribute(name: str, text: str) -> str | float:
    if name == "age":
        match = re.fullmatch(r"0*(\d+(?:\.\d+)?)([YMWD]?)", text.strip().upper())
        if match is None:
            return ""
        return float(match[1]) / {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[match[2]]
    if name == "sex":
        return {"male": "M", "m": "M", "female": "F", "f": "F"}.get(text.lower(), text)
    return text
