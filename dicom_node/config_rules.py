"""The [[rule]] tables: of which studies and series a rule speaks, and what it does with them.

Every condition of a rule has to hold. What several rules want of one study is put together by :mod:`dicom_node.routing.plan`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dicom_node.config_table import Table
from dicom_node.config_values import Attribute, MatchValue, Name

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Matching = dict[Attribute, MatchValue]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Plane = Literal["axial", "coronal", "sagittal"]
Text = Annotated[str, Field(min_length=1, max_length=200)]
AePattern = Annotated[str, Field(min_length=1, max_length=64)]
Syntax = Literal["explicit_little_endian", "implicit_little_endian", "deflated", "jpeg_ls", "jpeg_2000", "htj2k", "rle"]


def _hours(value: str) -> str:
    """A part of a day, ``"08:00-18:00"``; one that ends before it begins goes over midnight. Its end is not in it."""
    minutes_of(value)
    return value


def minutes_of(value: str) -> tuple[int, int]:
    """The minutes of the day at which a part of it begins and ends; ValueError where it is none."""
    wrong = "hours such as '08:00-18:00' or '22:00-06:00' are needed"
    times = []
    for part in value.split("-"):
        hour, colon, minute = part.strip().partition(":")
        if not (colon and hour.isdigit() and minute.isdigit() and len(minute) == 2 and int(minute) < 60):
            raise ValueError(wrong)
        times.append(int(hour) * 60 + int(minute))
    if len(times) != 2 or max(times) > 24 * 60 or times[0] == times[1]:
        raise ValueError(wrong)
    return times[0], times[1]


Hours = Annotated[str, AfterValidator(_hours)]


class Window(Table):
    """Times of the week, as the clock on the wall of the node shows them. Without ``days`` every day, without ``hours`` the whole day."""

    days: tuple[Day, ...] = ()
    hours: tuple[Hours, ...] = ()

    @model_validator(mode="after")
    def _some(self) -> Window:
        if not self.days and not self.hours:
            raise ValueError("days or hours are needed: without either it is always")
        return self


class Deidentify(Table):
    """How copies without identity are made (PS3.15 Annex E, Basic Profile). ``keep``: options of the profile: sex, age and the like; dates,
    all of a patient moved by the same number of days; station and serial number. ``burned_in``: whether images go that say, or where it is
    likely do not deny, that text is burned into their pixels."""

    keep: tuple[Literal["patient", "shift", "device"], ...] = ()
    burned_in: Literal["refuse", "send"] = "refuse"


def _profile(value: Any) -> Any:
    """``true`` for the profile as it is."""
    return ({} if value else None) if isinstance(value, bool) else value


class Forward(Table):
    """Where originals go: to each of ``to``, those series of the rule that match ``series``. ``transfer_syntax``: changed to it without
    loss where that can be done and the peer takes it; else as they were stored. ``deidentify``: copies without identity go instead."""

    to: Annotated[tuple[Name, ...], Field(min_length=1)]
    series: Matching = {}
    transfer_syntax: Syntax | None = None
    deidentify: Annotated[Deidentify | None, BeforeValidator(_profile)] = None

    @model_validator(mode="after")
    def _uncompressed(self) -> Forward:
        if self.deidentify is not None and self.transfer_syntax is not None:
            raise ValueError("what is de-identified goes uncompressed: leave transfer_syntax out")
        return self


class Select(Table):
    """Which of the series that a rule matches it takes: at least one table of ``any`` and none of ``exclude`` matches, every number lies in
    its range, so many images, in these planes. ``prefer`` ranks what is left for a model, best first, before the model's own preference."""

    any: tuple[Matching, ...] = ()
    exclude: tuple[Matching, ...] = ()
    prefer: tuple[Matching, ...] = ()
    ranges: dict[Attribute, tuple[float, float]] = {}
    min_instances: Annotated[int, Field(ge=1)] = 1
    max_instances: Annotated[int, Field(ge=1)] | None = None
    planes: tuple[Plane, ...] = ()

    @property
    def match(self) -> Matching:
        """Nothing more: that is the rule's own."""
        return {}


def _short(value: Any) -> Any:
    """``["pacs"]`` for ``[{ to = ["pacs"] }]``."""
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return [{"to": value}]
    return value


class Rule(Table):
    """Which studies and series a rule speaks of, and what it does with them.

    Conditions
    ----------
    match
        DICOM matching on attributes of the study, of the series and of its instances.
    select
        Which of the series that match: alternatives, exclusions, ranges, planes, numbers of images, preference.
    from, called
        AE titles, with wildcards: who sent it, and as whom it called us.
    when
        In which of these times of the week the study became complete.

    Actions
    -------
    run, after, deliver, series, late
        Models, and where their results go. ``after``: models whose runs on the study have to be completed first. ``series``: "one" (several
        that fit equally well are ambiguous, and none is run) or "all".
    perform
        "outside": the runs are left to whoever claims their workitems; what the performer stores here and lists is the result.
    forward
        Where the originals go.
    priority, tags, hold, ignore
        ``hold``: why nothing is done with the study until a person releases it. ``ignore``: why its series are left out of all rules.
    """

    name: Name
    match: Matching = {}
    select: Select | None = None
    sources: Annotated[tuple[AePattern, ...], Field(alias="from")] = ()
    called: tuple[AePattern, ...] = ()
    when: tuple[Window, ...] = ()
    run: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    after: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    deliver: tuple[Name, ...] = ()
    forward: Annotated[tuple[Forward, ...], BeforeValidator(_short)] = ()
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    tags: tuple[Name, ...] = ()
    hold: Text | None = None
    ignore: Text | None = None
    series: Literal["one", "all"] = "one"
    perform: Literal["here", "outside"] = "here"
    late: Literal["rerun", "ignore", "flag"] | None = None

    @model_validator(mode="after")
    def _does_something(self) -> Rule:
        acts = bool(self.run or self.forward or self.tags or self.hold)
        if self.ignore and (acts or self.priority):
            raise ValueError("ignore stands alone: what is left out gets no run, forward, tags, hold or priority")
        if not (acts or self.ignore or self.priority):
            raise ValueError("it does nothing: give at least one of run, forward, tags, hold, priority, ignore")
        if self.after and not self.run:
            raise ValueError("after says what the models of run wait for: it goes with run")
        if self.perform == "outside" and not self.run:
            raise ValueError("perform says who performs the models of run: it goes with run")
        if self.deliver and not self.run:
            raise ValueError("deliver says where the results of run go; to send the originals, use forward")
        return self


class Reachable(Protocol):
    """What a rule has to know of a peer."""

    @property
    def host(self) -> str | None: ...


def contradictions(rules: Sequence[Rule], peers: Mapping[str, Reachable]) -> list[str]:
    """What rules ask of peers that cannot be, in sentences."""
    problems = []
    for rule in rules:
        wanted = [("delivers", name) for name in rule.deliver]
        wanted += [("forwards", name) for forward in rule.forward for name in forward.to]
        for verb, name in wanted:
            if name not in peers:
                near = get_close_matches(name, peers, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                problems.append(f"rule '{rule.name}' {verb} to '{name}', and there is no [[peer]] of that name{hint}")
            elif peers[name].host is None:
                problems.append(f"rule '{rule.name}' {verb} to '{name}', whose [[peer]] has no host and port")
    return problems + _identities(rules)


def _identities(rules: Sequence[Rule]) -> list[str]:
    """A peer that is not to learn who somebody is, and is told by another rule, could put both together."""
    without = {name: rule.name for rule in rules for forward in rule.forward if forward.deidentify for name in forward.to}
    problems = []
    for rule in rules:
        told = {name for forward in rule.forward if not forward.deidentify for name in forward.to}
        for name in sorted((told | set(rule.deliver)) & set(without)):
            whose = f"rule '{without[name]}' de-identifies what it forwards to '{name}'"
            problems.append(f"{whose}, and rule '{rule.name}' sends there with identity: a peer gets one or the other")
    return problems
