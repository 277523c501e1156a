"""What is in a data set: counts, geometry, intensities, balance of labels, one table for each attribute, and what may be a problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from models.datasets.fingerprint import Fingerprint, fingerprint, label_counts
from models.datasets.protocol import DataSet, Item, Skipped, Task
from models.datasets.survey import Look

#: Attributes with more different values than this are no groups.
GROUPS = 24


@dataclass(frozen=True)
class Balance:
    """A label, a class of boxes or a structure.

    Parameters
    ----------
    items, subjects
        Those that have it.
    without
        Items that are known not to have it (of a structure: whose mask has none).
    share
        Of the items about which anything is known.
    objects
        Boxes, or nothing.
    size
        Lowest, median and highest: volume of a structure in ml, area of a mask in mm2, or px where no size is known;
        area of boxes in px.
    unit
        Of the size.
    """

    label: str
    items: int
    subjects: int
    without: int
    share: float
    objects: int | None = None
    size: tuple[float, float, float] | None = None
    unit: str = ""


@dataclass(frozen=True)
class Group:
    """Items with the same value of an attribute; ``labels``: how many of them have each label."""

    value: str
    items: int
    subjects: int
    age: float | None
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Description:
    """A data set in figures; ``looked_at`` is smaller than ``items`` where the survey was interrupted."""

    name: str
    task: Task
    classes: tuple[str, ...]
    items: int
    subjects: int
    looked_at: int
    skipped: tuple[Skipped, ...]
    unreadable: tuple[Skipped, ...]
    items_per_subject: tuple[int, float, int]
    balance: tuple[Balance, ...]
    groups: Mapping[str, tuple[Group, ...]]
    parts: Mapping[str, tuple[Group, ...]]
    concerns: tuple[str, ...]
    fingerprint: Fingerprint


def describe(dataset: DataSet, looks: Mapping[str, Look], parts: Mapping[str, str] | None = None) -> Description:
    """Describe what was looked at.

    Parameters
    ----------
    looks
        Of :func:`models.datasets.survey.survey`; items without one count, and are in no statistics of images.
    parts
        Item id to part of a split, where there is one.
    """
    items = list(dataset)
    seen = [item for item in items if item.id in looks]
    good = [item for item in seen if looks[item.id].problem is None]
    unreadable = tuple(problem for item in seen if (problem := looks[item.id].problem) is not None)
    balance = tuple(_balance(dataset, items, good, looks))
    known = {item.id: _labels_of(item, looks.get(item.id), dataset.classes) for item in items}
    each = _per_subject(items)
    return Description(
        dataset.name,
        dataset.task,
        tuple(dataset.classes),
        len(items),
        len(each),
        len(seen),
        tuple(dataset.skipped),
        unreadable,
        (min(each.values(), default=0), float(median(each.values())) if each else 0.0, max(each.values(), default=0)),
        balance,
        {
            name: _groups(items, known, {item.id: _word(item.attributes.get(name, "unknown")) for item in items})
            for name in _attributes(items)
        },
        {"part": _groups(items, known, {item.id: parts.get(item.id, "none") for item in items})} if parts else {},
        tuple(_concerns(dataset, items, good, looks, balance)),
        fingerprint(seen, looks),
    )


def _word(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _per_subject(items: Sequence[Item]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item.subject] = counts.get(item.subject, 0) + 1
    return counts


def _labels_of(item: Item, look: Look | None, classes: Sequence[str]) -> set[str]:
    stated = {label for label, value in item.labels.items() if value} | {box.label for box in item.boxes}
    found = {classes[int(value) - 1] for value in (look.voxels if look else ()) if 0 < int(value) <= len(classes)}
    return stated | found


def _balance(dataset: DataSet, items: Sequence[Item], good: Sequence[Item], looks: Mapping[str, Look]) -> Iterable[Balance]:
    if dataset.task == "segmentation":
        for index, name in enumerate(dataset.classes, start=1):
            yield _of_structure(name, str(index), good, looks)
        return
    counts = label_counts(items)
    for name in dict.fromkeys((*dataset.classes, *counts)):
        having = [item for item in items if item.labels.get(name) or any(box.label == name for box in item.boxes)]
        boxes = [box for item in items for box in item.boxes if box.label == name]
        without = len(items) - len(having) if dataset.task == "detection" else counts.get(name, {}).get("negative", 0)
        yield Balance(
            name,
            len(having),
            len({item.subject for item in having}),
            without,
            _share(len(having), without),
            len(boxes) if dataset.task == "detection" else None,
            _spread([(box.x_max - box.x_min) * (box.y_max - box.y_min) for box in boxes]),
            "px" if boxes else "",
        )


def _of_structure(name: str, value: str, good: Sequence[Item], looks: Mapping[str, Look]) -> Balance:
    masked = [item for item in good if item.mask is not None]
    having = [item for item in masked if value in looks[item.id].voxels]
    flat = all(not looks[item.id].orientation for item in having)
    unit = "ml" if not flat else "mm2" if having and all("spacing.x" in looks[item.id].numbers for item in having) else "px"
    sizes = [looks[item.id].volumes[value] for item in having]
    without = len(masked) - len(having)
    return Balance(
        name, len(having), len({item.subject for item in having}), without, _share(len(having), without), None, _spread(sizes), unit
    )


def _share(having: int, without: int) -> float:
    return having / (having + without) if having + without else 0.0


def _spread(values: Sequence[float]) -> tuple[float, float, float] | None:
    return (min(values), float(median(values)), max(values)) if values else None


def _attributes(items: Sequence[Item]) -> list[str]:
    """Attributes that make groups: words, or few different numbers."""
    values: dict[str, set[str | float]] = {}
    for item in items:
        for name, value in item.attributes.items():
            if name != "age":
                values.setdefault(name, set()).add(value)
    first = ("site", "scanner", "manufacturer", "modality", "view", "sex", "split")
    names = [name for name, found in values.items() if len(found) <= (GROUPS if any(isinstance(each, str) for each in found) else 5)]
    return sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name))


def _groups(items: Sequence[Item], known: Mapping[str, set[str]], values: Mapping[str, str]) -> tuple[Group, ...]:
    together: dict[str, list[Item]] = {}
    for item in items:
        together.setdefault(values[item.id], []).append(item)
    groups = []
    for name, members in together.items():
        ages = [float(age) for item in members if isinstance(age := item.attributes.get("age"), int | float)]
        labels: dict[str, int] = {}
        for item in members:
            for label in sorted(known[item.id]):
                labels[label] = labels.get(label, 0) + 1
        groups.append(Group(name, len(members), len({item.subject for item in members}), median(ages) if ages else None, labels))
    return tuple(sorted(groups, key=lambda group: (-group.items, group.value)))


def _concerns(
    dataset: DataSet, items: Sequence[Item], good: Sequence[Item], looks: Mapping[str, Look], balance: Sequence[Balance]
) -> Iterable[str]:
    subjects = len({item.subject for item in items})
    if subjects < 3:
        yield f"{subjects} subject{'' if subjects == 1 else 's'}: training, validation and test by subject need three or more"
    for each in balance:
        if each.items == 0:
            yield f"the class {each.label} has no example"
        elif each.subjects < 10:
            yield f"the class {each.label} has {each.subjects} subject{'' if each.subjects == 1 else 's'} only"
    if dataset.task in ("segmentation",):
        empty = sum(1 for item in good if item.mask is not None and not looks[item.id].voxels)
        if empty:
            yield f"{empty} masks are empty"
    elsewhere = sum(looks[item.id].other_grid for item in good)
    if elsewhere:
        yield f"{elsewhere} masks state another place than their image"
    if len(good) < len(items) and len(looks) >= len(items):
        yield f"{len(items) - len(good)} items cannot be read"
    for name, words in _mixtures(good, looks).items():
        yield f"images differ in {name}: {words}"


def _mixtures(good: Sequence[Item], looks: Mapping[str, Look]) -> dict[str, str]:
    """What should be the same in all images and is not."""
    kinds: dict[str, dict[str, int]] = {"number of axes": {}, "channels": {}, "modality": {}, "orientation": {}}
    for item in good:
        look = looks[item.id]
        found = {
            "number of axes": "3" if look.orientation else "2",
            "channels": f"{look.numbers['channels']:g}",
            "modality": look.words.get("modality", str(item.attributes.get("modality", ""))),
            "orientation": look.orientation,
        }
        for name, value in found.items():
            if value:
                kinds[name][value] = kinds[name].get(value, 0) + 1
    return {
        name: ", ".join(f"{value} ({count})" for value, count in sorted(found.items())) for name, found in kinds.items() if len(found) > 1
    }
