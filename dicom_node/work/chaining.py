"""Where a run's segments are, and what goes on with the runs that wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from dicom_node.results.uids import instance_uid
from dicom_node.routing.plan import Outcome, Plan
from storage import chains, runs
from storage.fair_share import Turns
from storage.jobs import JobQueue
from storage.records import RunRecord
from storage.runs import RunSpec


def segments(run_key: str) -> Sequence[str]:
    """The SOP Instance UIDs under which a run's segments are archived, the record before others."""
    return [instance_uid(run_key, f"SEG {kind}") for kind in ("BINARY", "FRACTIONAL")]


def follow(connection: Connection, queue: JobQueue, *, turns: Turns, now: float) -> int:
    """Let the runs go on that waited for one that has ended; see :func:`storage.chains.follow`."""
    return chains.follow(connection, queue, segments, turns=turns, now=now)


Waits = Sequence[tuple[str, RunRecord]]  # (input, the run whose segments it is)


def depending(plan: Plan, model: str | None) -> set[str]:
    """A model, and those that take what it finds, or what one of those finds."""
    found = {model} if model else set()
    edges = [(outcome.name, before) for outcome in plan.outcomes if outcome.chosen is not None for before in before_of(outcome)]
    while more := {after for after, before in edges if before in found} - found:
        found |= more
    return {name for name in found if name}


def before_of(outcome: Outcome) -> set[str]:
    """The models that have to run before that of an outcome."""
    assert outcome.chosen is not None
    return {model for _, model in outcome.chosen.bundle.dicom.predecessors} | set(outcome.rule.after)


def in_order(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Runs in such an order that each comes after those that it waits for."""
    waiting, found = list(specs), []
    while waiting:
        left = {spec.bundle for spec in waiting}
        ready = [spec for spec in waiting if not left.intersection(model for _, model in spec.after)] or waiting
        found += ready
        waiting = [spec for spec in waiting if not any(spec is each for each in ready)]
    return found


def resolve_waits(connection: Connection, spec: RunSpec) -> tuple[RunSpec, Waits] | str:
    """Find the runs that a run waits for. What is there already joins its input set; a sentence says why it can never run."""
    waits: list[tuple[str, RunRecord]] = []
    pairs, chosen = list(spec.input_set), dict(spec.parameters.get(runs.INPUTS, {}))
    for name, model in spec.after:
        first = _run_of(connection, spec, model, of_series=bool(name))
        if first is None:
            return f"{model} has not run on {'its first series' if name else 'this study'}, and it takes what that finds"
        if first.state in runs.WAITING:
            waits.append((name, first))
            continue
        if first.state != "COMPLETED":
            return f"run {first.pk} of {model} is {first.state}: {first.reason}"
        made = chains.segments_of(connection, first.run_key, segments)
        if made is None and name:
            return f"run {first.pk} of {model} found nothing to segment, or it is here no more"
        if made is not None:
            pairs.append(made[1:])
            chosen.update({name: made[0]} if name else {})
    if waits:
        return replace(spec, run_key=chains.provisional_key(spec, [first for _, first in waits])), waits
    parameters = {**spec.parameters, **({runs.INPUTS: chosen} if chosen else {})}
    return replace(spec, input_set=pairs, parameters=parameters), ()


def _run_of(connection: Connection, spec: RunSpec, model: str, *, of_series: bool) -> RunRecord | None:
    """The newest run of a model on the study, on the same first series where its segments are to be an input."""
    found = runs.earlier_runs(connection, spec.study_uid, model)
    return next((each for each in found if not of_series or each.series_uids[:1] == list(spec.series_uids)[:1]), None)
