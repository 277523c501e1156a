"""The gate before deployment: an evaluation on a named data set that meets the stated figures.

What is asked for stands in the model's own dicom.toml (``[gate]``) and in this node's configuration (``[[release_gate]]``); all of it must
hold. Where nothing is asked for, nothing can be met: that is a refusal too. There is no way around the gate on the command line; whoever
accepts less writes so into the configuration, where it is read and reviewed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_node.config import Config, ReleaseGate
from models.bundle import Bundle
from models.spec import GateSpec
from storage.records import EvaluationRecord

Demand = GateSpec | ReleaseGate  # what is asked for on one data set


@dataclass(frozen=True)
class Judged:
    """One figure beside its limit."""

    data: str
    metric: str
    limit: str
    found: str
    met: bool

    def __str__(self) -> str:
        return f"{self.metric} on {self.data}: {self.found}, {self.limit} asked for"


@dataclass(frozen=True)
class Verdict:
    """Whether a release may be deployed, and by which evaluation. ``headline``: the first figure that was asked for."""

    passed: bool
    judged: tuple[Judged, ...]
    missing: tuple[str, ...]
    evaluation: EvaluationRecord | None = None
    headline: str = ""

    @property
    def why_not(self) -> str:
        return "; ".join([*self.missing, *(str(each) for each in self.judged if not each.met)])


def demands(config: Config, bundle: Bundle) -> list[Demand]:
    """All that is asked of a bundle, its own demand first."""
    own: list[Demand] = [bundle.dicom.gate] if bundle.dicom.gate is not None else []
    return [*own, *(gate for gate in config.release_gate if gate.model == bundle.name)]


def judge(asked: Sequence[Demand], evaluations: Sequence[EvaluationRecord]) -> Verdict:
    """Judge a release by the newest evaluation on each data set that something is asked of; ``evaluations`` are newest first."""
    if not asked:
        way_out = "put [gate] into its dicom.toml, or [[release_gate]] into the configuration"
        return Verdict(False, (), (f"nothing says what it must reach: {way_out}",))
    judged: list[Judged] = []
    missing: list[str] = []
    by: list[EvaluationRecord] = []
    for demand in asked:
        newest = next((each for each in evaluations if (each.data, each.split) == (demand.data, demand.split)), None)
        if newest is None:
            missing.append(f"there is no evaluation of it on the {demand.split} split of '{demand.data}'{_others(evaluations)}")
            continue
        by.append(newest)
        judged += judge_metrics(demand, newest.metrics)
    passed = not missing and all(each.met for each in judged)
    return Verdict(passed, tuple(judged), tuple(missing), by[0] if by else None, headline(asked[0], by[0]) if by else "")


def _others(evaluations: Iterable[EvaluationRecord]) -> str:
    others = ", ".join(dict.fromkeys(f"'{each.data}' ({each.split})" for each in evaluations))
    return f"; there are some on {others}" if others else ""


def judge_metrics(demand: Demand, metrics: Mapping[str, Mapping[str, Any]]) -> list[Judged]:
    """Hold figures against their limits; one that is not in the report, or not defined, is not met."""
    found = []
    limits = [(name, "at least", value) for name, value in demand.minima.items()]
    limits += [(name, "at most", value) for name, value in demand.maxima.items()]
    for name, word, limit in limits:
        value = metrics.get(name, {}).get("value")
        met = value is not None and (value >= limit if word == "at least" else value <= limit)
        text = "not in the report" if name not in metrics else "undefined" if value is None else f"{value:.4g}"
        found.append(Judged(demand.data, name, f"{word} {limit:g}", text, met))
    return found


def headline(demand: Demand, evaluation: EvaluationRecord) -> str:
    """An evaluation in one line, as results carry it: data set, first figure that is asked for, report."""
    name = next(iter([*demand.minima, *demand.maxima]))
    figure = evaluation.metrics.get(name, {})
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    text = "undefined" if value is None else f"{value:.4g}"
    if low is not None and high is not None:
        text += f" (95 % interval {low:.4g} to {high:.4g})"
    return f"{name} {text} on {evaluation.data}, {evaluation.split} split, {evaluation.items} items; report {evaluation.digest[:12]}"
