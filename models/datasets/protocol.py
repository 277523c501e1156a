"""What a data set is to training and evaluation: items that name their files, labels and subject. Nothing is opened here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

Task = Literal["segmentation", "classification", "detection", "none"]


@dataclass(frozen=True)
class Box:
    """A labelled rectangle in pixels of the stored image: 0-based, half open, so ``x_max - x_min`` is its width."""

    label: str
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    difficult: bool = False


@dataclass(frozen=True)
class Item:
    """One image with all that is known of it.

    Parameters
    ----------
    id
        Unique in the data set, the same whenever it is read.
    subject
        Who: splits are by it. A pseudonym where the source names a patient.
    image
        One file (NIfTI, DICOM, PNG, JPEG), or all files of a DICOM series.
    mask
        Label map on the image's grid; 0 is background.
    labels
        Of classification: label to 0 or 1, or a value.
    attributes
        What subgroups are made of: sex, age, site, scanner, view, modality.
    provenance
        Source, row, licence.
    """

    id: str
    subject: str
    image: tuple[Path, ...]
    mask: Path | None = None
    labels: Mapping[str, float] = field(default_factory=dict)
    boxes: tuple[Box, ...] = ()
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Skipped:
    """What a reader or a long job passed over: file, row within it, and why."""

    where: str
    row: str
    reason: str


@runtime_checkable
class DataSet(Protocol):
    """A named collection of items.

    ``classes`` are the names of what is learnt: of a segmentation, ``classes[i]`` is label value ``i + 1``.
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    skipped: Sequence[Skipped]

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Item]: ...
