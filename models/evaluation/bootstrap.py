"""Confidence intervals by drawing subjects again and again (percentile bootstrap), all draws at once.

A draw is a weight for each item: how often its subject was drawn. A statistic maps weights (draws, items) to
(draws,) values, so nothing is sorted or counted twice. Items of one subject always go together, because
they are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from models.evaluation.protocol import FloatArray

REPLICATES = 2000
LEVEL = 0.95
MOST_CELLS = 4_000_000  # of one block of weights: 32 MB

Replicate = Callable[[FloatArray], FloatArray]
Columns = Sequence[int] | None


@dataclass(frozen=True, eq=False)
class Statistic:
    """A figure over items.

    Parameters
    ----------
    value
        On the items as they are; None where it is not defined.
    n
        Items that it is about.
    replicate
        Weights (draws, items) to values (draws,), NaN where a draw leaves it undefined.
    proportion
        True for a share of items (accuracy): an interval of no width then becomes Wilson's.
    higher_is_better
        None where neither is (a bias).
    """

    value: float | None
    n: int
    replicate: Replicate
    proportion: bool = False
    higher_is_better: bool | None = True


@dataclass(frozen=True)
class Figure:
    """A value with its interval; ``method`` says how that was found: bootstrap, wilson or none."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str = "bootstrap"


class Resamples:
    """Draws of subjects, the same for every statistic: seeded.

    Parameters
    ----------
    subjects
        Of each item.
    """

    def __init__(self, subjects: Sequence[str], replicates: int = REPLICATES, seed: int = 0) -> None:
        names, self._index = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
        self.subjects = len(names)
        self.replicates = replicates
        self._seed = seed
        self._kept: list[FloatArray] | None = None

    def weights(self) -> Iterable[FloatArray]:
        """Blocks of (draws, items), kept where there is one block."""
        if self._kept is None and self.replicates * len(self._index) <= MOST_CELLS:
            self._kept = list(self._drawn())
        return self._kept or self._drawn()

    def _drawn(self) -> Iterator[FloatArray]:
        rng = np.random.default_rng(self._seed)
        block = max(1, min(self.replicates, MOST_CELLS // max(1, len(self._index))))
        for start in range(0, self.replicates, block):
            draws = min(block, self.replicates - start)
            drawn = rng.integers(self.subjects, size=(draws, self.subjects)) + self.subjects * np.arange(draws)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=draws * self.subjects).reshape(draws, self.subjects)
            yield counts[:, self._index].astype(np.float64)

    def values(self, *replicates: Replicate) -> list[FloatArray]:
        """Of each statistic the values in all draws; every block of weights is made once for all of them."""
        parts: list[list[FloatArray]] = [[] for _ in replicates]
        if self.subjects:
            with np.errstate(invalid="ignore", divide="ignore"):
                for weights in self.weights():
                    for kept, replicate in zip(parts, replicates, strict=True):
                        kept.append(replicate(weights))
        return [np.concatenate([np.empty(0), *kept]) for kept in parts]


def figure(statistic: Statistic, resamples: Resamples) -> Figure:
    """A statistic with its interval; none of one subject alone, which tells nothing of others."""
    return figures({"it": statistic}, resamples)["it"]


def figures(statistics: Mapping[str, Statistic], resamples: Resamples, columns: Columns = None) -> dict[str, Figure]:
    """Statistics with their intervals, on the same draws.

    Parameters
    ----------
    columns
        The items of ``resamples`` that the statistics are about, where it is a part of them.
    """
    # One statistic may stand under two names: it is drawn once.
    defined = {id(each): each for each in statistics.values() if each.value is not None and resamples.subjects > 1}
    drawn = dict(zip(defined, resamples.values(*(_part(each.replicate, columns) for each in defined.values())), strict=True))
    return {name: _figure(each, drawn.get(id(each))) for name, each in statistics.items()}


def _figure(statistic: Statistic, drawn: FloatArray | None) -> Figure:
    value = statistic.value
    if value is None or drawn is None:
        return Figure(value, None, None, statistic.n, "none")
    low, high = percentiles(drawn)
    if low is None or high is None:
        return Figure(value, None, None, statistic.n, "none")
    if statistic.proportion and high - low < 1e-12:
        low, high = wilson(value, statistic.n)
        return Figure(value, low, high, statistic.n, "wilson")
    return Figure(value, low, high, statistic.n)


def difference(first: Statistic, second: Statistic, resamples: Resamples, parts: tuple[Columns, Columns] = (None, None)) -> Figure:
    """First minus second on the same draws: paired where both are about the same items."""
    if first.value is None or second.value is None:
        return Figure(None, None, None, min(first.n, second.n), "none")
    value = first.value - second.value
    if resamples.subjects < 2:
        return Figure(value, None, None, min(first.n, second.n), "none")
    one, other = resamples.values(*(_part(each.replicate, part) for each, part in zip((first, second), parts, strict=True)))
    low, high = percentiles(one - other)
    return Figure(value, low, high, min(first.n, second.n), "bootstrap" if low is not None else "none")


def _part(replicate: Replicate, columns: Columns) -> Replicate:
    if columns is None:
        return replicate
    chosen = np.asarray(columns, dtype=np.intp)
    return lambda weights: replicate(weights[:, chosen])


def percentiles(drawn: FloatArray, level: float = LEVEL) -> tuple[float | None, float | None]:
    """The interval of the draws in which the statistic is defined; None where that is fewer than half of them."""
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < max(2, len(drawn) / 2):
        return None, None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson(share: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share of ``n``: also of 0 and 1, where drawing again shows no spread."""
    z = float(norm.ppf((1 + level) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean(values: Sequence[float | None], *, proportion: bool = False, higher_is_better: bool | None = True) -> Statistic:
    """The mean over the items for which the value is defined."""
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    defined = np.isfinite(array)
    filled = np.where(defined, array, 0.0)
    held = defined.astype(np.float64)
    count = int(defined.sum())
    value = float(array[defined].mean()) if count else None
    return Statistic(value, count, lambda weights: (weights @ filled) / (weights @ held), proportion, higher_is_better)
