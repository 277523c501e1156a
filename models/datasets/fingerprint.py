"""What a model was trained on, in numbers: a digest of the data, and statistics to compare what arrives later with.

Written into a bundle as ``fingerprint.json``. The digest does not depend on where files lie or in which order
they are read: it is made of the items' records and of the bytes of their files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.datasets.collection import DataSetRefused
from models.datasets.protocol import Item
from models.datasets.survey import Look, Progress, survey

DECILES = tuple(range(0, 101, 10))

#: A word with more different values than this describes items one by one and not a population: it is left out.
MOST_WORDS = 64


@dataclass(frozen=True)
class Distribution:
    """A number over all images. ``deciles`` are the eleven values at 0, 10, ... 100 % of them."""

    count: int
    mean: float
    std: float
    deciles: tuple[float, ...]


@dataclass(frozen=True)
class Fingerprint:
    """A data set in numbers.

    Parameters
    ----------
    digest
        SHA-256 of records and contents.
    unreadable
        Items that could not be read; they count in ``items``, not in the statistics.
    labels
        By label: items that have it, and items that are known not to.
    numbers, words
        As :mod:`models.datasets.statistics` names them; words are counted. Attributes of items are among them.
    """

    digest: str
    items: int
    subjects: int
    unreadable: int
    labels: Mapping[str, Mapping[str, int]]
    numbers: Mapping[str, Distribution]
    words: Mapping[str, Mapping[str, int]]

    def to_json(self) -> str:
        return json.dumps({"schema": 1, **asdict(self)}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """Read what :meth:`to_json` wrote; raises ValueError where it is something else."""
        try:
            content: dict[str, Any] = json.loads(text)
            if content.pop("schema") != 1:
                raise ValueError("a fingerprint of another schema")
            numbers = {name: Distribution(**{**each, "deciles": tuple(each["deciles"])}) for name, each in content.pop("numbers").items()}
            return cls(numbers=numbers, **content)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("no fingerprint of a data set") from error


def read_fingerprint(path: Path) -> Fingerprint:
    """A bundle's ``fingerprint.json``; raises DataSetRefused."""
    try:
        return Fingerprint.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataSetRefused(path, f"it is no fingerprint of a data set ({type(error).__name__})") from error


def fingerprint(
    items: Iterable[Item], looks: Mapping[str, Look] | None = None, *, progress: Progress = lambda done, total: None
) -> Fingerprint:
    """The fingerprint of items; images are read unless ``looks`` has them all."""
    chosen = sorted(items, key=lambda item: item.id)
    seen = dict(looks or {})
    missing = [item for item in chosen if item.id not in seen]
    seen |= survey(missing, progress=progress)
    good = [seen[item.id] for item in chosen if seen[item.id].problem is None]
    return Fingerprint(
        _digest(chosen, seen),
        len(chosen),
        len({item.subject for item in chosen}),
        len(chosen) - len(good),
        label_counts(chosen),
        _numbers(chosen, good),
        _words(chosen, good),
    )


def records_digest(items: Iterable[Item]) -> str:
    """SHA-256 of who and what the items are, without opening a file: ids, subjects, labels, boxes, whether there is a mask."""
    return hashlib.sha256(json.dumps(sorted(_record(item) for item in items), ensure_ascii=False).encode()).hexdigest()


def _record(item: Item) -> str:
    boxes = sorted((box.label, box.x_min, box.y_min, box.x_max, box.y_max, box.difficult) for box in item.boxes)
    labels = {name: float(value) for name, value in item.labels.items()}
    return json.dumps([item.id, item.subject, labels, boxes, item.mask is not None], sort_keys=True, ensure_ascii=False)


def _digest(items: Iterable[Item], looks: Mapping[str, Look]) -> str:
    lines = sorted(f"{_record(item)} {looks[item.id].image_digest} {looks[item.id].mask_digest}" for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def label_counts(items: Iterable[Item]) -> dict[str, dict[str, int]]:
    """By label: items with it, and items that are known to be without; boxes count as their item's label."""
    counts: dict[str, dict[str, int]] = {}
    for item in items:
        stated = {name: value != 0 for name, value in item.labels.items()} | {box.label: True for box in item.boxes}
        for name, positive in stated.items():
            counts.setdefault(name, {"positive": 0, "negative": 0})["positive" if positive else "negative"] += 1
    return dict(sorted(counts.items()))


def _numbers(items: Iterable[Item], looks: Iterable[Look]) -> dict[str, Distribution]:
    gathered: dict[str, list[float]] = {}
    for look in looks:
        for name, value in look.numbers.items():
            gathered.setdefault(name, []).append(value)
    if "age" not in gathered:
        stated = [item.attributes.get("age") for item in items]
        ages = [float(age) for age in stated if isinstance(age, int | float)]
        gathered |= {"age": ages} if ages else {}
    return {name: distribution(values) for name, values in sorted(gathered.items())}


def distribution(values: Iterable[float]) -> Distribution:
    """Mean, standard deviation and deciles; there is at least one value."""
    array = np.fromiter(values, dtype=np.float64)
    return Distribution(array.size, float(array.mean()), float(array.std()), tuple(float(each) for each in np.percentile(array, DECILES)))


def _words(items: Iterable[Item], looks: Iterable[Look]) -> dict[str, dict[str, int]]:
    counted: dict[str, Counter[str]] = {}
    words = {look.id: dict(look.words) for look in looks}
    for item in items:
        stated = {name: value for name, value in item.attributes.items() if isinstance(value, str)}
        for name, value in {**stated, **words.get(item.id, {})}.items():
            counted.setdefault(name, Counter())[value] += 1
    return {name: dict(counter.most_common()) for name, counter in sorted(counted.items()) if len(counter) <= MOST_WORDS}
