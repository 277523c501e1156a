"""Drift of the input: what the newest runs of a release were given, beside what its model was trained on (``fingerprint.json``).

The images of every run are described by the numbers and header words that describe training data (:mod:`models.datasets.statistics`), kept
as a row without anything that says who the patient is. Over a window of the newest runs each number is compared by the largest distance of
its cumulative distribution from that of training (Kolmogorov-Smirnov, at the deciles that the fingerprint holds), each word by the share of
images that would have to change for the shares to be equal (total variation). Both lie between 0 and 1. A feature has drifted when its
distance is beyond the limit and beyond what chance gives in a window of that size.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import isfinite, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicom_node.config import Config
from dicom_node.releases.files import read_release
from models.errors import BundleInvalid
from storage import release_watch, releases
from storage.database import Database
from storage.records import DriftRecord, ReleaseRecord

if TYPE_CHECKING:
    from models.volume import Volume

log = structlog.get_logger()

FINGERPRINT = "fingerprint.json"
ABSENT = "(absent)"
KIND = "drift"
CHANCE = 2.2  # times the root of 1/n + 1/m: a distance beyond it comes by chance once in ten thousand looks
STALE = 3600.0  # seconds after which new inputs are looked at though they are few
KEPT = 10  # windows of inputs that are kept


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Distribution(_Part):
    count: Annotated[int, Field(ge=1)]
    deciles: Annotated[tuple[float, ...], Field(min_length=11, max_length=11)]


class Training(_Part):
    """What of a fingerprint is compared with."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    items: int
    unreadable: int = 0
    numbers: Mapping[str, Distribution] = {}
    words: Mapping[str, Mapping[str, int]] = {}


def read_training(root: Path) -> Training | None:
    """Read the fingerprint of a bundle; None for a bundle without one.

    Raises
    ------
    BundleInvalid
        The file is something else.
    """
    path = root / FINGERPRINT
    if not path.is_file():
        return None
    try:
        return Training.model_validate_json(path.read_bytes())
    except (ValidationError, ValueError) as error:
        raise BundleInvalid(f"{FINGERPRINT} of {root.name[:12]} is no fingerprint of a data set") from error


def describe(volume: Volume) -> dict[str, Any]:
    """What the images of a run are like, as the row keeps it."""
    from models.datasets.statistics import header_words, volume_numbers

    numbers = {name: float(f"{value:.6g}") for name, value in volume_numbers(volume).items() if isfinite(value)}
    return {"numbers": numbers, "words": {name: word[:64] for name, word in header_words(volume.headers[0]).items()}}


def compare(
    training: Training, window: Sequence[Mapping[str, Any]], *, limit: float, ignore: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Hold a window of inputs against the training data.

    Returns
    -------
    dict
        Feature > ``distance``, ``kind`` (ks or tv), ``limit`` and whether it ``drifted``. What training does not know is not compared.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, distribution in training.numbers.items():
        values = [each["numbers"][name] for each in window if name in each.get("numbers", {})]
        if values and not _ignored(name, ignore):
            distance = ks_distance(distribution.deciles, values)
            found[name] = _judged(distance, "ks", limit, len(values), distribution.count)
    of_training = training.items - training.unreadable
    for name, counts in training.words.items():
        if window and not _ignored(name, ignore):
            words = Counter(str(each.get("words", {}).get(name, ABSENT)) for each in window)
            known = {**counts, ABSENT: max(of_training - sum(counts.values()), 0)}
            found[name] = _judged(tv_distance(known, words), "tv", limit, len(window), max(of_training, 1))
    return found


def _ignored(name: str, ignore: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in ignore)


def _judged(distance: float, kind: str, limit: float, here: int, there: int) -> dict[str, Any]:
    least = max(limit, CHANCE * sqrt(1 / here + 1 / there))
    return {"distance": round(distance, 4), "kind": kind, "limit": round(least, 4), "drifted": distance > least}


def ks_distance(deciles: Sequence[float], values: Sequence[float]) -> float:
    """Largest distance between two cumulative distributions, one known by its deciles only, looked at on both sides of each decile.

    Where deciles are equal, training has a step there: what lies within the step is no distance.
    """
    ordered, steps = sorted(values), len(deciles) - 1
    worst = 0.0
    for value in set(deciles):
        first, last = bisect_left(deciles, value), bisect_right(deciles, value) - 1
        below, upto = bisect_left(ordered, value) / len(ordered), bisect_right(ordered, value) / len(ordered)
        # of training: at most first/steps lies below the value, and at least last/steps up to it
        worst = max(worst, below - first / steps, last / steps - upto)
    return max(worst, 0.0)


def tv_distance(known: Mapping[str, int], found: Mapping[str, int]) -> float:
    """Half the sum of the differences of shares: 0 for the same mixture, 1 for nothing in common."""
    total, here = sum(known.values()), sum(found.values())
    if not total or not here:
        return 0.0
    return sum(abs(known.get(word, 0) / total - found.get(word, 0) / here) for word in {*known, *found}) / 2


class Monitor:
    """Looks at the newest inputs of every release, when there are enough new ones."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self._training: dict[str, tuple[Training, tuple[str, ...]] | None] = {}

    def look(self, now: float) -> list[DriftRecord]:
        """Look at what came since the last time; raise and clear flags. Any number of processes may do it."""
        with self._database.read() as connection:
            newest = release_watch.newest_inputs(connection)
            known = [releases.get(connection, pk) for pk in newest]
            seen = {release.pk: release_watch.latest_drift(connection, release.pk) for release in known}
        due = [release for release in known if self._due(release, seen[release.pk], newest[release.pk], now)]
        return [record for release in due if (record := self._look_at(release, now)) is not None]

    def _due(self, release: ReleaseRecord, last: DriftRecord | None, newest: int, now: float) -> bool:
        if last is None:
            return True
        if newest <= last.newest_input_pk:
            return False
        with self._database.read() as connection:
            came = release_watch.inputs_since(connection, release.pk, last.newest_input_pk)
        return came >= max(1, self._config.drift.window // 10) or now - last.at >= STALE

    def _look_at(self, release: ReleaseRecord, now: float) -> DriftRecord | None:
        training = self._training_of(release)
        settings = self._config.drift
        with self._database.begin() as connection:
            newest, window = release_watch.inputs(connection, release.pk, settings.window)
            if training is None or len(window) < settings.minimum:
                return None
            ignore = (*settings.ignore, *training[1])
            distances = compare(training[0], window, limit=settings.limit, ignore=ignore)
            record = release_watch.record_drift(connection, release.pk, newest, len(window), distances, now=now)
            release_watch.forget_inputs(connection, release.pk, KEPT * settings.window)
            far = sorted((each["distance"], name) for name, each in distances.items() if each["drifted"])[::-1]
            if far:
                reason = f"in {len(window)} runs: " + ", ".join(f"{name} {distance:.2f}" for distance, name in far)
                changed = release_watch.raise_flag(connection, release.pk, KIND, reason, now=now)
            else:
                reason, changed = "", release_watch.clear_flag(connection, release.pk, KIND, now=now)
        if changed:
            event = "release.drifted" if far else "release.drift_over"
            log.warning(event, name=release.name, release=release.digest[:12], runs=record.runs, features=reason)
        return record

    def _training_of(self, release: ReleaseRecord) -> tuple[Training, tuple[str, ...]] | None:
        if release.digest not in self._training:
            try:
                bundle = read_release(self._config.releases_root, release.digest)
                training = read_training(bundle.root)
                self._training[release.digest] = None if training is None else (training, bundle.dicom.drift.ignore)
            except BundleInvalid as error:
                log.error("release.unreadable", name=release.name, release=release.digest[:12], why=str(error))
                return None
        return self._training[release.digest]
