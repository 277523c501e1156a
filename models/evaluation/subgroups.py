"""Figures by sex, age band, scanner, view, site and whatever else the data says of its items; and the gaps between groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from models.evaluation.bootstrap import Figure, Resamples, Statistic, difference
from models.evaluation.bootstrap import figures as figures_of
from models.evaluation.protocol import Case

Statistics = Callable[[Sequence[Case]], Mapping[str, Statistic]]

#: A group with fewer subjects is shown and flagged, and takes no part in gaps.
SMALL = 10
MOST_GROUPS = 12
AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))
NOT_STATED = "not stated"
#: Attributes that say nothing of who somebody is.
NOT_GROUPS = {"split"}


@dataclass(frozen=True)
class Group:
    """Items of one value of an attribute. ``small``: too few subjects to say much."""

    items: int
    subjects: int
    small: bool
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Gap:
    """The largest difference of a figure between two groups that are not small; ``clear`` where its interval leaves out 0.

    The interval is not corrected for having looked at several pairs of groups; ``pairs`` says at how many.
    """

    metric: str
    better: str
    worse: str
    difference: Figure
    pairs: int

    @property
    def clear(self) -> bool:
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and not low <= 0 <= high


def groups_of(cases: Sequence[Case]) -> dict[str, dict[str, list[int]]]:
    """Places of the cases by attribute and value. Ages are banded; an attribute of one value only, or of more
    than ``MOST_GROUPS``, makes no groups; where an item does not say, it is in 'not stated'."""
    names = sorted({name for case in cases for name in case.attributes} - NOT_GROUPS)
    found: dict[str, dict[str, list[int]]] = {}
    for name in names:
        groups: dict[str, list[int]] = {}
        for index, case in enumerate(cases):
            groups.setdefault(_value(name, case.attributes.get(name)), []).append(index)
        if 2 <= len(groups) <= MOST_GROUPS:
            found["age band" if _is_age(name) else name] = dict(sorted(groups.items(), key=lambda each: (each[0] == NOT_STATED, each[0])))
    return found


def _is_age(name: str) -> bool:
    return name.casefold() in ("age", "patient_age", "age_years")


def _value(name: str, value: str | float | None) -> str:
    if value is None or value == "" or value != value:
        return NOT_STATED
    if not _is_age(name):
        return f"{value:g}" if isinstance(value, float) else str(value)
    try:
        years = float(str(value).removesuffix("Y"))
    except ValueError:
        return NOT_STATED
    bands = (f"{low:02d} to {high - 1}" if high < 200 else f"{low} and over" for low, high in AGE_BANDS if low <= years < high)
    return next(bands, NOT_STATED)


def group_figures(
    cases: Sequence[Case], groups: Mapping[str, Sequence[int]], statistics: Statistics, resamples: Resamples, metrics: Sequence[str]
) -> dict[str, Group]:
    """Each group's figures, on draws of the whole."""
    found = {}
    for name, columns in groups.items():
        part = [cases[index] for index in columns]
        subjects = len({case.subject for case in part})
        known = statistics(part)
        chosen = {metric: known[metric] for metric in metrics if metric in known}
        figures = figures_of(chosen, resamples, columns) if subjects > 1 else figures_of(chosen, Resamples([]))
        found[name] = Group(len(part), subjects, subjects < SMALL, figures)
    return found


def widest_gap(
    cases: Sequence[Case], groups: Mapping[str, Sequence[int]], statistics: Statistics, resamples: Resamples, metric: str
) -> Gap | None:
    """The largest difference between two groups that are not small; None where there are fewer than two."""
    large = {name: columns for name, columns in groups.items() if len({cases[index].subject for index in columns}) >= SMALL}
    known = {name: statistics([cases[index] for index in columns]).get(metric) for name, columns in large.items() if name != NOT_STATED}
    defined = {name: each for name, each in known.items() if each is not None and each.value is not None}
    pairs = list(combinations(defined, 2))
    if not pairs:
        return None
    one, other = max(pairs, key=lambda pair: abs((defined[pair[0]].value or 0.0) - (defined[pair[1]].value or 0.0)))
    if (defined[one].value or 0.0) < (defined[other].value or 0.0):
        one, other = other, one
    apart = difference(defined[one], defined[other], resamples, (large[one], large[other]))
    names = (one, other) if defined[one].higher_is_better is not False else (other, one)
    return Gap(metric, *names, apart, len(pairs))
