"""Which series a model gets, and why the others do not.

Every series ends with a sentence. Several that fit equally well are *ambiguous*: none is chosen, and each says so; a person decides by a
narrower rule, by ``prefer`` in the bundle, or by ``series = "all"`` in the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from dicom_node.routing.rules import Attributes, any_matches, identifies, why_not
from storage.matching import matches


class SeriesNeeds(Protocol):
    """What a model needs: the [series] table of its dicom.toml."""

    @property
    def match(self) -> Mapping[str, Any]: ...
    @property
    def any(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def exclude(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def prefer(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]: ...
    @property
    def min_instances(self) -> int: ...


class Verdict(Enum):
    CHOSEN = "chosen"
    AMBIGUOUS = "ambiguous"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Choice:
    """One series and the sentence about it."""

    series_uid: str
    chosen: bool
    reason: str


@dataclass(frozen=True)
class Selection:
    """The verdict over a study's series for one model."""

    verdict: Verdict
    choices: tuple[Choice, ...]

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(choice.series_uid for choice in self.choices if choice.chosen)

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        if self.verdict is Verdict.CHOSEN:
            return f"{len(self.chosen)} of {len(self.choices)} series chosen"
        if self.verdict is Verdict.AMBIGUOUS:
            return "several series fit equally well"
        return f"none of {len(self.choices)} series fits" if self.choices else "the study has no received series"


def select_series(
    needs: SeriesNeeds,
    series: Mapping[str, Attributes],
    *,
    outside: Mapping[str, str] | None = None,
    prefer: Sequence[Mapping[str, Any]] = (),
    every: bool = False,
) -> Selection:
    """Choose among a study's series.

    Parameters
    ----------
    needs
        What the model needs.
    series
        Series Instance UID > attributes by keyword.
    outside
        Those of which the rule does not speak: Series Instance UID > why.
    prefer
        What the rule prefers, best first, before the model is asked.
    every
        Choose each that fits, not the one that fits best.
    """
    left_out = outside or {}
    reasons = {uid: f"rule: {left_out[uid]}" if uid in left_out else _why_not(needs, attributes) for uid, attributes in series.items()}
    fitting = [uid for uid, reason in reasons.items() if reason is None]
    ranks = {uid: (_rank(prefer, series[uid]), _rank(needs.prefer, series[uid])) for uid in fitting}
    best = min(ranks.values(), default=(0, 0))
    first = fitting if every else [uid for uid in fitting if ranks[uid] == best]
    ambiguous = len(first) > 1 and not every
    choices = tuple(
        Choice(uid, uid in first and not ambiguous, reason if reason is not None else _sentence(uid, first, ambiguous, ranks))
        for uid, reason in reasons.items()
    )
    verdict = Verdict.AMBIGUOUS if ambiguous else Verdict.CHOSEN if first else Verdict.NOT_APPLICABLE
    return Selection(verdict, choices)


def _sentence(uid: str, first: Sequence[str], ambiguous: bool, ranks: Mapping[str, tuple[int, int]]) -> str:
    if uid not in first:
        return "fits, and another series is preferred"
    if ambiguous:
        return f"ambiguous: fits, and so do {len(first) - 1} other series equally well"
    if len(first) < len(ranks):
        of_rule, of_model = ranks[uid]
        if any(rank[0] != of_rule for rank in ranks.values()):
            return f"fits, and is preferred by choice {of_rule + 1} of the rule"
        return f"fits, and is preferred by choice {of_model + 1} of the model"
    return "the only series that fits" if len(ranks) == 1 else "fits"


def _rank(prefer: Sequence[Mapping[str, Any]], attributes: Attributes) -> int:
    for number, table in enumerate(prefer):
        if matches(table, attributes, ignore_case=True):
            return number
    return len(prefer)


def _why_not(needs: SeriesNeeds, attributes: Attributes) -> str | None:
    reason = unfit(needs, attributes)
    return None if reason is None else f"model: {reason}"


def unfit(needs: SeriesNeeds, attributes: Attributes) -> str | None:
    """Say why a series is not what is asked for; None when it is."""
    outside = why_not(needs.match, attributes)
    if outside is not None:
        return outside
    if needs.any and not any_matches(needs.any, attributes):
        wanted = ", ".join(dict.fromkeys(keyword for table in needs.any for keyword in table))
        found = ", ".join(f"{keyword} {_text(keyword, attributes)}" for keyword in dict.fromkeys(k for t in needs.any for k in t))
        return f"none of its alternatives for {wanted} matches ({found})"
    for table in needs.exclude:
        if matches(table, attributes, ignore_case=True):
            return "excluded, " + " and ".join(f"{keyword} is {_text(keyword, attributes)}" for keyword in table)
    for keyword, (low, high) in needs.ranges.items():
        outside = _outside(keyword, attributes.get(keyword), low, high)
        if outside is not None:
            return outside
    images = images_of(attributes)
    if images < needs.min_instances:
        return f"{images} images, and it needs at least {needs.min_instances}"
    return None


def images_of(attributes: Attributes) -> int:
    """How many images a series has: its instances, or their frames."""
    count = int(attributes.get("NumberOfSeriesRelatedInstances") or 0)
    return count * max((int(value) for value in _values(attributes.get("NumberOfFrames")) if str(value).isdigit()), default=1)


def _outside(keyword: str, value: Any, low: float, high: float) -> str | None:
    numbers = []
    for each in _values(value):
        try:
            numbers.append(float(each))
        except (TypeError, ValueError):
            continue
    if not numbers:
        return None  # absent: the geometry check of the model decides on the images themselves
    wrong = next((number for number in numbers if not low <= number <= high), None)
    return None if wrong is None else f"{keyword} is {wrong:g}, outside {low:g} to {high:g}"


def _values(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _text(keyword: str, attributes: Attributes) -> str:
    texts = [str(each) for each in _values(attributes.get(keyword))]
    if texts and identifies(keyword):
        return "not shown"
    return repr("\\".join(texts)) if texts else "absent"
