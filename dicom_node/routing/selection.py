"""Which series a model gets, and why the others do not.

Every series ends with a sentence. Several that fit equally well are *ambiguous*: none is chosen, and each says so; a person decides, once
by choosing one of them (``dicom-node study choose``), for good by a narrower rule, by ``prefer`` in the bundle, or by ``series = "all"``
in the rule. A model of several inputs (T1 and FLAIR) gets a series for each of them, no series twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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


class InputNeeds(SeriesNeeds, Protocol):
    """What one of several inputs of a model needs: an [[input]] table of its dicom.toml."""

    @property
    def name(self) -> str: ...
    @property
    def optional(self) -> bool: ...


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
class Pick:
    """A series that a person chose among several that fit equally well."""

    series_uid: str
    by: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """The verdict over a study's series for one model.

    ``by_input``: of a model of several inputs, the verdict for each; ``choices`` then tell of every input in turn. ``tied``: the series
    that fit equally well, where it is ambiguous.
    """

    verdict: Verdict
    choices: tuple[Choice, ...]
    by_input: Mapping[str, Selection] = field(default_factory=dict)
    tied: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[dict[str, str], ...]:
        """What runs: one entry a run, input > series UID, in the order of the inputs; an input that is missing is left out."""
        if not self.by_input:
            return tuple({"": uid} for uid in self.chosen)
        if self.verdict is not Verdict.CHOSEN:
            return ()
        return ({name: each.chosen[0] for name, each in self.by_input.items() if each.chosen},)

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(choice.series_uid for choice in self.choices if choice.chosen)

    @property
    def undecided(self) -> dict[str, tuple[Choice, ...]]:
        """Where it is ambiguous: by input ("" of a model's only one), the series among which a person has to choose."""
        parts = self.by_input or {"": self}
        open_ = {name: each for name, each in parts.items() if each.tied and self.verdict is Verdict.AMBIGUOUS}
        return {name: tuple(choice for choice in each.choices if choice.series_uid in each.tied) for name, each in open_.items()}

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        if self.by_input and self.verdict is not Verdict.CHOSEN:
            return "; ".join(f"input {name}: {each.summary}" for name, each in self.by_input.items() if each.verdict is self.verdict)
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
    pick: Pick | None = None,
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
    pick
        A person's choice: it stands as long as its series fits.
    """
    left_out = outside or {}
    reasons = {uid: f"rule: {left_out[uid]}" if uid in left_out else _why_not(needs, attributes) for uid, attributes in series.items()}
    fitting = [uid for uid, reason in reasons.items() if reason is None]
    if pick is not None and pick.series_uid in fitting and not every:
        return _picked(pick, reasons)
    ranks = {uid: (_rank(prefer, series[uid]), _rank(needs.prefer, series[uid])) for uid in fitting}
    best = min(ranks.values(), default=(0, 0))
    first = fitting if every else [uid for uid in fitting if ranks[uid] == best]
    ambiguous = len(first) > 1 and not every
    choices = tuple(
        Choice(uid, uid in first and not ambiguous, reason if reason is not None else _sentence(uid, first, ambiguous, ranks))
        for uid, reason in reasons.items()
    )
    verdict = Verdict.AMBIGUOUS if ambiguous else Verdict.CHOSEN if first else Verdict.NOT_APPLICABLE
    return Selection(verdict, choices, tied=tuple(first) if ambiguous else ())


def _picked(pick: Pick, reasons: Mapping[str, str | None]) -> Selection:
    sentence = f"fits, and was chosen by {pick.by}: {pick.reason}"
    choices = tuple(
        Choice(uid, uid == pick.series_uid, sentence if uid == pick.series_uid else reason or f"fits, and {pick.by} chose another series")
        for uid, reason in reasons.items()
    )
    return Selection(Verdict.CHOSEN, choices)


def select_inputs(
    inputs: Sequence[InputNeeds],
    series: Mapping[str, Attributes],
    *,
    outside: Mapping[str, str] | None = None,
    prefer: Sequence[Mapping[str, Any]] = (),
    every: bool = False,
    picks: Mapping[str, Pick] | None = None,
) -> Selection:
    """Choose a series for each input of a model; of several inputs each gets one, and no series serves twice.

    Parameters
    ----------
    picks
        Persons' choices by the input's name; "" of a model's only one.
    """
    picks = picks or {}
    if len(inputs) == 1:
        return select_series(inputs[0], series, outside=outside, prefer=prefer, every=every, pick=picks.get(""))
    found: dict[str, Selection] = {}
    reserved = {pick.series_uid: name for name, pick in picks.items()}
    for each in inputs:
        taken = {uid: f"it is input {name}" for name, made in found.items() for uid in made.chosen}
        taken |= {uid: f"it was chosen as input {name}" for uid, name in reserved.items() if name != each.name}
        found[each.name] = _of_input(each, series, outside or {}, taken, prefer, picks.get(each.name))
    missing = [each.name for each in inputs if not each.optional and found[each.name].verdict is Verdict.NOT_APPLICABLE]
    unclear = [each.name for each in inputs if found[each.name].verdict is Verdict.AMBIGUOUS]
    verdict = Verdict.NOT_APPLICABLE if missing else Verdict.AMBIGUOUS if unclear else Verdict.CHOSEN
    stops = [*missing, *unclear]
    choices = tuple(_of_several(name, choice, stops) for name, each in found.items() for choice in each.choices)
    return Selection(verdict, choices, found)


def _of_input(
    needs: InputNeeds,
    series: Mapping[str, Attributes],
    outside: Mapping[str, str],
    taken: Mapping[str, str],
    prefer: Sequence[Mapping[str, Any]],
    pick: Pick | None,
) -> Selection:
    free = {uid: attributes for uid, attributes in series.items() if uid not in taken}
    made = select_series(needs, free, outside=outside, prefer=prefer, pick=pick)
    by_uid = {choice.series_uid: choice for choice in made.choices}
    return replace(made, choices=tuple(by_uid.get(uid) or Choice(uid, False, taken[uid]) for uid in series))


def _of_several(name: str, choice: Choice, stops: Sequence[str]) -> Choice:
    """A choice as the whole model has it: nothing is run where an input has none."""
    reason = f"input {name}: {choice.reason}"
    if choice.chosen and stops:
        return Choice(choice.series_uid, False, f"{reason}; but input {', '.join(stops)} has no series")
    return Choice(choice.series_uid, choice.chosen, reason)


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
