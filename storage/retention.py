"""Retention: which studies may go, which stay, and why; a study goes as a whole, with the results of its runs, through `storage.deletion`.

The first rule whose sources fit all that was received of a study governs it; a study without a rule stays. A rule says when (by age, or
once the disk is low) and what must be elsewhere before: ``committed`` by a peer, ``delivered`` (a peer accepted it), or ``nothing``.
What is at work, waits for somebody or is held by a person stays, whatever the rule says, and that is looked at again in the transaction
that deletes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Connection, and_, case, exists, func, or_, select, tuple_

from storage import deletion
from storage.database import Database
from storage.errors import NotFound, StorageError
from storage.promises import COMMITTED
from storage.schema import (
    association,
    association_study,
    commitment,
    delivery,
    delivery_instance,
    instance,
    job,
    quarantine,
    retention_hold,
    run,
    study,
)
from storage.schema import audit as audit_rows
from storage.statements import is_one_of

if TYPE_CHECKING:
    from storage.archive import Archive

log = structlog.get_logger()

ACTOR = "retention"
IMPORTED = "imported"
DAY = 86400.0
_CHUNK = 50
COMPLETE, RECEIVING = "COMPLETE", "RECEIVING"


class Need(Enum):
    """What must have happened elsewhere to an instance before it may go."""

    COMMITTED = "committed"
    DELIVERED = "delivered"
    NOTHING = "nothing"


class DiskState(Enum):
    """How the archive's disk stands to its two watermarks."""

    OK = "ok"
    LOW = "low"  # below the first: nothing is pulled, what may go goes
    FULL = "full"  # below the second: stores are refused before anything is written


@dataclass(frozen=True)
class RetentionRule:
    """One rule.

    Attributes
    ----------
    sources
        Calling AE titles, with wildcards; ``imported`` for what came from files. Every received instance must fit one of them.
    after
        Seconds since the last instance came, after which a study goes; None: never by age alone.
    when_low
        The same, while the disk is low; None: a low disk changes nothing.
    needs, results_need
        What must have happened to received instances, and to the objects that runs made of them.
    peers
        Peers that count for that; empty: any.
    """

    name: str
    sources: tuple[str, ...] = ("*",)
    after: float | None = None
    when_low: float | None = None
    needs: Need = Need.COMMITTED
    results_need: Need = Need.COMMITTED
    peers: tuple[str, ...] = ()

    def due(self, age: float, *, low: bool) -> bool:
        """Whether a study so old may go as far as time is concerned."""
        by_age = self.after is not None and age >= self.after
        return by_age or (low and self.when_low is not None and age >= self.when_low)


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


@dataclass
class PurgeReport:
    """What a batch did. ``examined`` studies, of which ``gone`` went."""

    examined: int = 0
    gone: list[Decision] = field(default_factory=list)
    size: int = 0


class Kept(StorageError):
    """A study that was to go stays after all."""


@dataclass(frozen=True)
class _Holding:
    """What a study holds of received or of made instances, and how much of it is elsewhere."""

    instances: int = 0
    size: int = 0
    committed: int = 0
    delivered: int = 0
    damaged: int = 0

    def plus(self, other: _Holding) -> _Holding:
        return _Holding(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def lacks(self, need: Need) -> int:
        if need is Need.NOTHING:
            return 0
        return self.instances - (self.committed if need is Need.COMMITTED else self.delivered)


def disk_state(archive: Archive, keep_free: int) -> DiskState:
    """Where the disk stands: below ``keep_free`` bytes it is low, below the archive's own limit full."""
    free = archive.free_bytes()
    if free < archive.settings.min_free:
        return DiskState.FULL
    return DiskState.LOW if free < keep_free else DiskState.OK


# --- deciding


def plan(database: Database, rules: Sequence[RetentionRule], *, now: float, low: bool) -> Iterator[Decision]:
    """A decision for each study, complete ones before those still being received, the one that waits longest first.

    In snapshots of some studies each.
    """
    for state in (COMPLETE, RECEIVING):
        position: tuple[float, int] = (-1.0, 0)
        while True:
            with database.read() as connection:
                rows = _chunk(connection, position, state)
                decisions = _decide(connection, rows, rules, now=now, low=low)
            yield from decisions
            if len(rows) < _CHUNK:
                break
            position = (rows[-1].last_received_at, rows[-1].pk)


def decide(connection: Connection, study_uid: str, rules: Sequence[RetentionRule], *, now: float, low: bool) -> Decision:
    """The decision for one study; NotFound where there is none."""
    rows = connection.execute(_STUDIES.where(study.c.study_uid == study_uid)).all()
    if not rows:
        raise NotFound(f"no study {study_uid}")
    return _decide(connection, rows, rules, now=now, low=low)[0]


_STUDIES = select(study.c.pk, study.c.study_uid, study.c.last_received_at, study.c.state, study.c.flag)


def _chunk(connection: Connection, position: tuple[float, int], state: str = COMPLETE) -> Sequence[Any]:
    after = and_(study.c.state == state, tuple_(study.c.last_received_at, study.c.pk) > tuple_(*position))  # ix_study_state_last
    return connection.execute(_STUDIES.where(after).order_by(study.c.last_received_at, study.c.pk).limit(_CHUNK)).all()


def _decide(connection: Connection, rows: Sequence[Any], rules: Sequence[RetentionRule], *, now: float, low: bool) -> list[Decision]:
    pks = {row.pk: row.study_uid for row in rows}
    sources = _sources(connection, pks)
    governed = {row.study_uid: _rule_for(sources.get(row.study_uid, set()), rules) for row in rows}
    holdings = _holdings(connection, pks, governed)
    blocked = _blocked(connection, list(pks.values()), now)
    promised = _promised(connection, list(pks.values()))
    decisions = []
    for row in rows:
        received, made = holdings[row.study_uid]
        rule = governed[row.study_uid]
        reason, goes = _verdict(row, rule, received, made, blocked.get(row.study_uid), row.study_uid in promised, now=now, low=low)
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
    row: Any, rule: RetentionRule | None, received: _Holding, made: _Holding, blocked: str | None, promised: bool, *, now: float, low: bool
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
    if blocked:
        return blocked, False
    if received.damaged + made.damaged:
        return f"{received.damaged + made.damaged} instances are damaged: look at them first", False
    needs = Need.DELIVERED if promised and rule.needs is Need.NOTHING else rule.needs
    for what, holding, need in (("received instances", received, needs), ("results", made, rule.results_need)):
        lacking = holding.lacks(need)
        if lacking:
            told = "; we have committed to keep them" if promised and rule.needs is Need.NOTHING and what != "results" else ""
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


# --- what is asked of the index, for some studies at once


def _sources(connection: Connection, pks: Mapping[int, str]) -> dict[str, set[str]]:
    query = (
        select(instance.c.study_pk, instance.c.origin, instance.c.calling_ae)
        .where(instance.c.study_pk.in_(list(pks)), instance.c.origin != "emitted")
        .distinct()
    )
    found: dict[str, set[str]] = defaultdict(set)
    for row in connection.execute(query):
        found[pks[row.study_pk]].add(IMPORTED if row.origin == "imported" else row.calling_ae)
    return found


def _holdings(
    connection: Connection, pks: Mapping[int, str], governed: Mapping[str, RetentionRule | None]
) -> dict[str, tuple[_Holding, _Holding]]:
    by_peers: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for pk, uid in pks.items():
        rule = governed[uid]
        by_peers[rule.peers if rule else ()].append(pk)
    found: dict[str, dict[bool, _Holding]] = defaultdict(dict)
    for peers, some in by_peers.items():
        for row in connection.execute(_holding_query(some, peers)):
            holding = _Holding(row.instances, int(row.size), int(row.committed), int(row.delivered), int(row.damaged))
            by_origin = found[pks[row.study_pk]]
            made = row.origin == "emitted"
            by_origin[made] = by_origin.get(made, _Holding()).plus(holding)
    return {uid: (found[uid].get(False, _Holding()), found[uid].get(True, _Holding())) for uid in pks.values()}


def _holding_query(pks: Sequence[int], peers: tuple[str, ...]) -> Any:
    # What a peer has of an instance that was replaced since is not what we have.
    accepted = (quarantine.c.sop_uid == instance.c.sop_uid, quarantine.c.state == "ACCEPTED")
    replaced = select(func.max(quarantine.c.resolved_at)).where(*accepted)
    sent = [delivery_instance.c.sop_uid == instance.c.sop_uid, delivery_instance.c.state == "ACCEPTED"]
    sent.append(or_(instance.c.revision == 1, delivery_instance.c.answered_at > func.coalesce(replaced.scalar_subquery(), 0.0)))
    if peers:
        of_peer = exists().where(delivery.c.pk == delivery_instance.c.delivery_pk, delivery.c.peer.in_(peers))
        sent.append(of_peer)
    delivered = exists().where(*sent)
    committed = exists().where(*sent, delivery_instance.c.commitment == "COMMITTED")

    def counted(condition: Any) -> Any:
        return func.sum(case((condition, 1), else_=0))

    return (
        select(
            instance.c.study_pk,
            instance.c.origin,
            func.count().label("instances"),
            func.sum(instance.c.length).label("size"),
            counted(committed).label("committed"),
            counted(delivered).label("delivered"),
            counted(instance.c.status != "OK").label("damaged"),
        )
        .where(instance.c.study_pk.in_(list(pks)))
        .group_by(instance.c.study_pk, instance.c.origin)
    )


def _blocked(connection: Connection, uids: Sequence[str], now: float) -> dict[str, str]:
    """Studies that somebody or something still needs, and what that is."""
    live = is_one_of(job.c.state, "SCHEDULED", "IN_PROGRESS")
    waiting = is_one_of(run.c.state, "SCHEDULED", "IN_PROGRESS")
    sending = and_(association.c.closed_at.is_(None), association.c.lease_until > now)
    unfinished = is_one_of(delivery.c.state, "SCHEDULED")
    queries = (
        ("a person holds it: {0}", select(retention_hold.c.study_uid, retention_hold.c.reason)),
        ("an association is sending it", _open_association(sending)),
        ("a run of {0} is waiting or running", select(run.c.study_uid, run.c.bundle).where(waiting)),
        ("a delivery to {0} is not finished", select(delivery.c.study_uid, delivery.c.peer).where(unfinished)),
        ("a job of kind {0} is waiting or running", select(job.c.study_uid, job.c.kind).where(live)),
        ("an instance of it is in quarantine ({0})", select(quarantine.c.study_uid, quarantine.c.kind).where(quarantine.c.state == "HELD")),
    )
    found: dict[str, str] = {}
    for text, query in queries:
        for uid, what in connection.execute(query.where(query.selected_columns[0].in_(list(uids)))):
            found.setdefault(uid, text.format(what))
    return found


def _open_association(sending: Any) -> Any:
    return select(association_study.c.study_uid, association.c.calling_ae).join_from(
        association_study, association, and_(association.c.id == association_study.c.association_id, sending)
    )


def _promised(connection: Connection, uids: Sequence[str]) -> set[str]:
    """Studies of which a peer was told that we keep them (it may have deleted its own); all, while a request is being judged."""
    if connection.scalar(select(commitment.c.pk).where(is_one_of(commitment.c.state, "REQUESTED")).limit(1)) is not None:
        return set(uids)
    told = select(audit_rows.c.study_uid).where(audit_rows.c.event == COMMITTED, audit_rows.c.study_uid.in_(list(uids)))
    return set(connection.execute(told).scalars())


# --- purging


class Purger:
    """Purges in bounded batches; remembers where it left off, so that studies that stay don't keep the rest from being looked at."""

    def __init__(
        self,
        archive: Archive,
        rules: Sequence[RetentionRule],
        *,
        keep_free: int = 0,
        state: Callable[[], DiskState] | None = None,
    ) -> None:
        self._archive = archive
        self._rules = rules
        self._state = state or (lambda: disk_state(archive, keep_free))
        self._position: tuple[float, int] = (-1.0, 0)

    def batch(self, *, most: int = 20, examine: int = 1000) -> PurgeReport:
        """Look at up to ``examine`` studies and delete up to ``most`` of them, those that wait longest first."""
        report = PurgeReport()
        if not self._rules:
            return report
        while report.examined < examine and len(report.gone) < most:
            low = self._state() is not DiskState.OK
            with self._archive.database.read() as connection:
                rows = _chunk(connection, self._position)
                decisions = _decide(connection, rows, self._rules, now=self._archive.clock(), low=low)
            for row, decision in zip(rows, decisions, strict=True):
                if len(report.gone) >= most:
                    return report
                report.examined += 1
                self._position = (row.last_received_at, row.pk)
                if decision.goes:
                    self._purge(decision, report)
            if len(rows) < _CHUNK:
                self._position = (-1.0, 0)  # from the start, in the next batch
                break
        return report

    def _purge(self, decision: Decision, report: PurgeReport) -> None:
        low = self._state() is not DiskState.OK  # what went before may have been enough
        rule = next(each for each in self._rules if each.name == decision.rule)
        if not rule.due(self._archive.clock() - decision.last_received_at, low=low):
            return

        def still(connection: Connection) -> None:
            connection.execute(select(study.c.pk).where(study.c.study_uid == decision.study_uid).with_for_update())
            again = decide(connection, decision.study_uid, self._rules, now=self._archive.clock(), low=low)
            if not again.goes:
                raise Kept(again.why)

        reason = f"rule {decision.rule}: {decision.why}"
        try:
            gone = deletion.delete_study(self._archive, decision.study_uid, who=ACTOR, reason=reason, check=still)
        except (Kept, NotFound) as error:
            log.info("retention.kept", study_uid=decision.study_uid, why=str(error))
            return
        report.gone.append(decision)
        report.size += gone.size
        log.info("retention.purged", study_uid=decision.study_uid, rule=decision.rule, instances=gone.instances, size=gone.size)


def totals(decisions: Iterable[Decision]) -> tuple[int, int]:
    """Number and bytes of the studies that go."""
    going = [each for each in decisions if each.goes]
    return len(going), sum(each.size for each in going)
