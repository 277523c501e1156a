"""Retention: which studies may go, which stay, and why; a study goes as a whole, with the results of its runs, through `storage.deletion`.

The first rule whose sources fit all that was received of a study governs it; a study without a rule stays. A rule says when (by age, or
once the disk is low) and what must be elsewhere before: ``committed`` by a peer, ``delivered`` (a peer accepted it), or ``nothing``.
What is at work, waits for somebody or is held by a person stays, whatever the rule says, and that is looked at again in the transaction
that deletes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Connection, and_, select, tuple_

from storage.database import Database
from storage.errors import NotFound
from storage.holdings import Holding, blocked, holdings_of, promised, sources_of
from storage.retention_rules import DAY, Need, RetentionRule
from storage.schema import study

CHUNK = 50
COMPLETE, RECEIVING = "COMPLETE", "RECEIVING"


@dataclass(frozen=True)
class Decision:
    """What becomes of a study, and why."""

    study_uid: str
    last_received_at: float
    instances: int
    size: int
    rule: str | None
    goes: bool
    why: str


def plan(database: Database, rules: Sequence[RetentionRule], *, now: float, low: bool) -> Iterator[Decision]:
    """A decision for each study, complete ones before those still being received, the one that waits longest first.

    In snapshots of some studies each.
    """
    for state in (COMPLETE, RECEIVING):
        position: tuple[float, int] = (-1.0, 0)
        while True:
            with database.read() as connection:
                rows = chunk(connection, position, state)
                decisions = decide_all(connection, rows, rules, now=now, low=low)
            yield from decisions
            if len(rows) < CHUNK:
                break
            position = (rows[-1].last_received_at, rows[-1].pk)


def decide(connection: Connection, study_uid: str, rules: Sequence[RetentionRule], *, now: float, low: bool) -> Decision:
    """The decision for one study; NotFound where there is none."""
    rows = connection.execute(_STUDIES.where(study.c.study_uid == study_uid)).all()
    if not rows:
        raise NotFound(f"no study {study_uid}")
    return decide_all(connection, rows, rules, now=now, low=low)[0]


_STUDIES = select(study.c.pk, study.c.study_uid, study.c.last_received_at, study.c.state, study.c.flag)


def chunk(connection: Connection, position: tuple[float, int], state: str = COMPLETE) -> Sequence[Any]:
    """Read the next studies after a position (time of the last instance, key), for `decide_all`."""
    after = and_(study.c.state == state, tuple_(study.c.last_received_at, study.c.pk) > tuple_(*position))  # ix_study_state_last
    return connection.execute(_STUDIES.where(after).order_by(study.c.last_received_at, study.c.pk).limit(CHUNK)).all()


def decide_all(connection: Connection, rows: Sequence[Any], rules: Sequence[RetentionRule], *, now: float, low: bool) -> list[Decision]:
    """The decisions for the studies of a `chunk`, in its order."""
    pks = {row.pk: row.study_uid for row in rows}
    sources = sources_of(connection, pks)
    governed = {row.study_uid: _rule_for(sources.get(row.study_uid, set()), rules) for row in rows}
    holdings = holdings_of(connection, pks, governed)
    needed = blocked(connection, list(pks.values()), now)
    word_given = promised(connection, list(pks.values()))
    decisions = []
    for row in rows:
        received, made = holdings[row.study_uid]
        rule = governed[row.study_uid]
        reason, goes = _verdict(row, rule, received, made, needed.get(row.study_uid), row.study_uid in word_given, now=now, low=low)
        decisions.append(
            Decision(
                row.study_uid,
                row.last_received_at,
                received.instances + made.instances,
                received.size + made.size,
                rule.name if rule else None,
                goes,
                reason,
            )
        )
    return decisions


def _verdict(
    row: Any, rule: RetentionRule | None, received: Holding, made: Holding, needed: str | None, word_given: bool, *, now: float, low: bool
) -> tuple[str, bool]:
    if rule is None:
        return "no rule fits its sources", False
    age = max(now - row.last_received_at, 0.0)
    if not rule.due(age, low=low):
        return f"not old enough: {_days(age)}, {_due_when(rule)}", False
    if row.state != COMPLETE:
        return "it is still being received", False
    if row.flag:
        return f"it is flagged for a person: {row.flag}", False
    if needed:
        return needed, False
    if received.damaged + made.damaged:
        return f"{received.damaged + made.damaged} instances are damaged: look at them first", False
    needs = Need.DELIVERED if word_given and rule.needs is Need.NOTHING else rule.needs
    for what, holding, need in (("received instances", received, needs), ("results", made, rule.results_need)):
        lacking = holding.lacks(need)
        if lacking:
            told = "; we have committed to keep them" if word_given and rule.needs is Need.NOTHING and what != "results" else ""
            return f"{lacking} of {holding.instances} {what} are not {need.value}{_by(rule)}{told}", False
    why = "disk is low" if low and not rule.due(age, low=False) else "old enough"
    return f"{why}: {_days(age)}; received {needs.value}, results {rule.results_need.value}{_by(rule)}", True


def _days(seconds: float) -> str:
    return f"{seconds / DAY:.1f} days"


def _due_when(rule: RetentionRule) -> str:
    times = [_days(rule.after)] if rule.after is not None else []
    times += [f"{_days(rule.when_low)} when the disk is low"] if rule.when_low is not None else []
    return "it goes after " + " or ".join(times) if times else "the rule names no time"


def _by(rule: RetentionRule) -> str:
    return f" by {', '.join(rule.peers)}" if rule.peers and (rule.needs, rule.results_need) != (Need.NOTHING, Need.NOTHING) else ""


def _rule_for(sources: set[str], rules: Sequence[RetentionRule]) -> RetentionRule | None:
    """The first rule that fits every source; a study of which nothing was received (its images are gone) has none."""
    if not sources:
        return None
    fits = (rule for rule in rules if all(any(fnmatchcase(each, pattern) for pattern in rule.sources) for each in sources))
    return next(fits, None)
