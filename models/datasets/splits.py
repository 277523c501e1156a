"""Training, validation and test parts: by subject, seeded, stored with what they were made of.

A subject is in one part only; a file that says otherwise is refused wherever it is read. The file also keeps
the digest of the data set's records, so that a split is not used with other data by mistake.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, Literal, get_args

from models.datasets.collection import DataSetRefused
from models.datasets.fingerprint import label_counts, records_digest
from models.datasets.protocol import DataSet, Item
from models.datasets.stratify import deal
from models.datasets.writing import write_text

Split = Literal["train", "validation", "test"]
PARTS: tuple[Split, ...] = get_args(Split)
DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.6, "validation": 0.15, "test": 0.25}
BANDS = 4

#: What data sets call the parts.
STATED: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), PARTS[0]),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), PARTS[1]),
    **dict.fromkeys(("test", "testing"), PARTS[2]),
}

Tags = Callable[[Item], Iterable[str]]


class Leak(DataSetRefused):
    """A subject is in more than one part."""


@dataclass(frozen=True)
class StoredSplit:
    """A split as it is kept: the parts, and what they were made of."""

    data: str
    records: str
    seed: int | None
    fractions: Mapping[str, float]
    stratify_by: str
    parts: Mapping[str, Split]

    @property
    def counts(self) -> dict[str, int]:
        """Items in each part."""
        counted = Counter(self.parts.values())
        return {part: counted[part] for part in PARTS}


def split(
    dataset: DataSet | Sequence[Item],
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    stratify_by: str | None = None,
    *,
    mask_tags: Tags | None = None,
) -> dict[str, Split]:
    """Item id to part; the items of one subject stay together.

    Parameters
    ----------
    fractions
        Share of the subjects in ``train``, ``validation`` and ``test``; what is missing to 1 is in no part.
    stratify_by
        ``label`` (labels, and classes of boxes), ``mask`` (which structures there are, and how large), the name of
        an attribute (numbers in four bands), or several with commas. Parts then resemble each other in it.
    mask_tags
        What ``mask`` reads off an item; by default its mask is loaded.

    Raises
    ------
    DataSetRefused
        Fewer subjects than parts, shares that make no sense, an attribute that no item has, or a class without examples.
    """
    items = list(dataset)
    name = getattr(dataset, "name", "the data set")
    shares = _shares(fractions, name)
    subjects: dict[str, list[Item]] = {}
    for item in items:
        subjects.setdefault(item.subject, []).append(item)
    needed = sum(1 for part in PARTS if shares.get(part))
    if len(subjects) < needed:
        raise DataSetRefused(
            name, f"{len(subjects)} subject{'' if len(subjects) == 1 else 's'} for {needed} parts: a split by subject needs one for each"
        )
    refuse_empty_classes(dataset, items)
    tagged = _tags(subjects, stratify_by, name, mask_tags)
    dealt = deal(tagged, shares, seed)
    parts: dict[str, Split] = {}
    for item in items:
        part = dealt[item.subject]
        if part in PARTS:
            parts[item.id] = part
    return parts


def _shares(fractions: Mapping[str, float], name: str) -> dict[str, float]:
    unknown = sorted(set(fractions) - set(PARTS))
    total = sum(fractions.values())
    if unknown or any(share < 0 for share in fractions.values()) or not 0 < total <= 1 + 1e-9:
        why = f"'{unknown[0]}' is no part" if unknown else "shares are positive and add up to at most 1"
        raise DataSetRefused(name, f"such parts cannot be made: {why}")
    shares: dict[str, float] = {part: fractions[part] for part in PARTS if fractions.get(part)}
    return {**shares, "": 1 - total} if total < 1 - 1e-9 else shares


def refuse_empty_classes(dataset: DataSet | Sequence[Item], items: Sequence[Item]) -> None:
    """Refuse a classification or detection whose declared class has no example."""
    task = getattr(dataset, "task", "none")
    if task not in ("classification", "detection"):
        return
    present = {label for label, counts in label_counts(items).items() if counts["positive"]}
    empty = [each for each in getattr(dataset, "classes", ()) if each not in present]
    if empty:
        raise DataSetRefused(
            getattr(dataset, "name", "the data set"),
            f"nothing can be learnt of a class without examples: {', '.join(empty)}; leave it out of the classes",
        )


def _tags(subjects: Mapping[str, Sequence[Item]], stratify_by: str | None, name: str, mask_tags: Tags | None) -> dict[str, frozenset[str]]:
    names = [each.strip() for each in (stratify_by or "").split(",") if each.strip()]
    readers = [_reader(each, subjects, name, mask_tags) for each in names]
    return {
        subject: frozenset(f"{index}:{tag}" for index, read in enumerate(readers) for item in items for tag in read(item))
        for subject, items in subjects.items()
    }


def _reader(by: str, subjects: Mapping[str, Sequence[Item]], name: str, mask_tags: Tags | None) -> Tags:
    items = [item for each in subjects.values() for item in each]
    if by == "label":
        if not any(item.labels or item.boxes for item in items):
            raise DataSetRefused(name, "there are no labels to stratify by")
        return _label_tags
    if by == "mask":
        if not any(item.mask for item in items):
            raise DataSetRefused(name, "there are no masks to stratify by")
        return _mask_reader(items) if mask_tags is None else mask_tags
    values = [item.attributes[by] for item in items if by in item.attributes]
    if not values:
        known = sorted({key for item in items for key in item.attributes})
        raise DataSetRefused(name, f"no item has '{by}' to stratify by; there is label, mask{''.join(f', {each}' for each in known)}")
    numbers = [value for value in values if isinstance(value, float | int)]
    band = _bands(numbers) if len(set(numbers)) > BANDS else str
    return lambda item: [band(item.attributes[by]) if by in item.attributes else "unknown"]


def _label_tags(item: Item) -> Iterable[str]:
    return [*(f"{label}={bool(value)}" for label, value in item.labels.items()), *{box.label for box in item.boxes}]


def _mask_reader(items: Sequence[Item]) -> Tags:
    """Structures in the mask, and the band of its volume among all items."""
    from models.datasets.loading import mask_volumes

    volumes = {item.id: mask_volumes(item) for item in items if item.mask is not None}
    totals = [sum(each.values()) for each in volumes.values()]
    band = _bands(totals) if len(set(totals)) > BANDS else str
    return lambda item: [*(f"label {value}" for value in volumes.get(item.id, {})), band(sum(volumes.get(item.id, {}).values()))]


def _bands(numbers: Sequence[float]) -> Callable[[Any], str]:
    edges = quantiles(numbers, n=BANDS)
    return lambda value: f"band {sum(value > edge for edge in edges)}" if isinstance(value, float | int) else str(value)


def from_attributes(dataset: DataSet) -> dict[str, Split]:
    """The split that the data set itself states (VOC's ImageSets, MIMIC's split table, a column): attribute ``split``.

    Raises
    ------
    DataSetRefused, Leak
        It states none, or one that has a subject in two parts.
    """
    stated = {item.id: str(item.attributes.get("split", "")).lower() for item in dataset}
    parts = {name: STATED[word] for name, word in stated.items() if word in STATED}
    if not parts:
        raise DataSetRefused(dataset.name, "the data set states no split of its own")
    refuse_leaks(dataset, parts, dataset.name)
    return parts


def refuse_leaks(items: Iterable[Item], parts: Mapping[str, str], where: str | Path) -> None:
    """Raise :class:`Leak` where a subject is in two parts."""
    seen: dict[str, tuple[str, str]] = {}
    for item in items:
        part = parts.get(item.id)
        if part is None:
            continue
        first, other = seen.setdefault(item.subject, (part, item.id))
        if first != part:
            raise Leak(where, f"its subject ({part}) is that of {other} ({first}); a subject is in one part only", f"item {item.id}")


def write_split(
    path: Path,
    dataset: DataSet,
    parts: Mapping[str, Split],
    *,
    seed: int | None = None,
    fractions: Mapping[str, float] | None = None,
    stratify_by: str | None = None,
) -> StoredSplit:
    """Store a split; raises :class:`Leak` rather than write one that leaks."""
    refuse_leaks(dataset, parts, path)
    kept = StoredSplit(dataset.name, records_digest(dataset), seed, dict(fractions or {}), stratify_by or "", dict(parts))
    content = {
        "schema": 1,
        "data": kept.data,
        "records": kept.records,
        "seed": kept.seed,
        "fractions": kept.fractions,
        "stratify_by": kept.stratify_by,
        "parts": {part: sorted(each for each, found in parts.items() if found == part) for part in PARTS},
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return kept


def read_split(path: Path, dataset: DataSet, *, other_data: bool = False, leaking: bool = False) -> StoredSplit:
    """A stored split of a data set.

    Parameters
    ----------
    other_data
        Take it although the records of the data set are not those that it was made of; items without a part are left out.
    leaking
        Take it although a subject is in two parts: for whoever reports that.

    Raises
    ------
    DataSetRefused
        The file cannot be read, is of other data, or has a subject in two parts.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lists: Mapping[str, Sequence[str]] = content["parts"]
        parts: dict[str, Split] = {}
        for part in PARTS:
            for each in lists.get(part, ()):
                if parts.setdefault(str(each), part) != part:
                    raise Leak(path, f"item {each} is in two parts ({parts[each]} and {part})", f"item {each}")
        kept = StoredSplit(
            str(content["data"]), str(content["records"]), content["seed"], content["fractions"], content["stratify_by"] or "", parts
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataSetRefused(path, f"it is no split of a data set ({type(error).__name__})") from error
    items = list(dataset)
    if not leaking:
        refuse_leaks(items, parts, path)
    missing = set(parts) - {item.id for item in items}
    if not other_data and (missing or kept.records != records_digest(items)):
        what = f"{len(missing)} of its items are not there any more" if missing else "items, subjects or labels are others"
        raise DataSetRefused(path, f"it was made of other data than {dataset.name} is now: {what}; make a new split")
    return kept
