"""What a rule file would have done with the studies of the past, beside what was done with them. Nothing is changed by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from dicom_node.config import Config
from dicom_node.releases.resolve import resolve
from dicom_node.routing.look import look
from dicom_node.routing.plan import Plan, make_plan, peers_of
from storage.flags import stops
from storage.rule_facts import Done, completed_since, done_with

if TYPE_CHECKING:
    from storage.archive import Archive
    from storage.database import Database

BATCH = 500


@dataclass(frozen=True)
class Difference:
    """One thing that would have been done otherwise. ``change``: "+" would be done and was not, "-" was done and would not be."""

    study_uid: str
    change: str
    what: str
    why: str = ""


@dataclass
class Replay:
    """The studies looked at, what would be done with them, and the differences."""

    studies: int = 0
    planned: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    @property
    def differing(self) -> int:
        return len({each.study_uid for each in self.differences})

    @property
    def summary(self) -> dict[str, dict[str, int]]:
        """What, by + and -: in how many studies."""
        counted: dict[str, dict[str, int]] = {}
        for each in self.differences:
            kind = each.what.partition(",")[0]
            row = counted.setdefault(kind, {"+": 0, "-": 0})
            row[each.change] += 1
        return counted


def replay(config: Config, database: Database, archive: Archive, since: float) -> Replay:
    """Judge by ``config`` every study that became complete from ``since`` on and is still here."""
    models = cache(lambda name: resolve(config, database, name))
    peers, report = peers_of(config), Replay()
    with database.read() as connection:
        every = completed_since(connection, since)
    for start in range(0, len(every), BATCH):
        batch = every[start : start + BATCH]
        with database.read() as connection:
            done = done_with(connection, batch)
        for uid, facts in look(database, archive, batch, config.rule, models).items():
            plan = make_plan(facts, config.rule, models, peers)
            report.studies += 1
            report.planned.update(_effects(plan))
            report.differences += differences(plan, done.get(uid, Done()))
    return report


def _effects(plan: Plan) -> Iterator[str]:
    if plan.holds:
        yield "held"
    else:
        yield from (f"run {bundle}" for bundle in dict.fromkeys(bundle for bundle, _ in plan.runs))
        yield from (f"send to {peer}" for peer in dict.fromkeys(each.peer for each in plan.forwards if each.series_uids))
    if plan.ignored:
        yield "ignored"


def differences(plan: Plan, done: Done) -> Iterator[Difference]:
    """Where a plan and what was done with the study part."""
    uid = plan.study_uid
    held = bool(plan.holds)
    flagged = stops(done.flag) and not done.held  # nothing more is done with it, whatever the rules say
    waits = held and not (done.held and not stops(done.flag))  # what was released went on
    if held and not done.held:
        yield Difference(uid, "+", "hold", "; ".join(f"rule {said.rule}: {said.text}" for said in plan.holds))
    if done.held and not held:
        yield Difference(uid, "-", "hold", "no rule that matches holds it")
    ran = {(bundle, series) for bundle, together in done.runs for series in together}
    would = set() if waits else set(plan.runs)
    for bundle, series in sorted(() if flagged else would - ran):
        rule = next(each.rule.name for each in plan.outcomes if each.runs(bundle, series))
        yield Difference(uid, "+", f"run {bundle}, series {series}", f"rule {rule}")
    for bundle, series in sorted(ran - would):
        yield Difference(uid, "-", f"run {bundle}, series {series}", "held" if waits else _why_no_run(plan, bundle, series))
    would_go = Counter[str]()
    for forward in () if waits else plan.forwards:
        would_go[forward.peer] += forward.instances
    for peer in sorted({*would_go, *done.forwards}):
        before, after = done.forwards.get(peer, 0), would_go[peer]
        if after > before and not flagged:
            yield Difference(uid, "+", f"send to {peer}, {after - before} instances", _rules_to(plan, peer))
        elif after < before:
            yield Difference(uid, "-", f"send to {peer}, {before - after} instances", "held" if waits else _why_not_sent(plan, peer))


def _why_no_run(plan: Plan, bundle: str, series: str) -> str:
    of_model = [each for each in plan.outcomes if each.name == bundle]
    for outcome in of_model:
        for choice in outcome.selection.choices if outcome.selection else ():
            if choice.series_uid == series:
                return f"rule {outcome.rule.name}: {choice.reason}"
    return of_model[0].problem or of_model[0].idle if of_model else "no rule runs it"


def _rules_to(plan: Plan, peer: str) -> str:
    return ", ".join(dict.fromkeys(f"rule {each.rule}" for each in plan.forwards if each.peer == peer and each.series_uids))


def _why_not_sent(plan: Plan, peer: str) -> str:
    reasons = [choice.reason for each in plan.forwards if each.peer == peer for choice in each.choices if not choice.chosen]
    return reasons[0] if reasons else "no rule that matches sends it there"
