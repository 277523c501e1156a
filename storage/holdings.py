"""What retention asks of the index, for some studies at once: sources, what is elsewhere, who still needs them, whom we gave our word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, and_, case, exists, func, or_, select

from storage.promises import COMMITTED
from storage.retention_rules import IMPORTED, Need, RetentionRule
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
)
from storage.schema import audit as audit_rows
from storage.statements import is_one_of


@dataclass(frozen=True)
class Holding:
    """What a study holds of received or of made instances, and how much of it is elsewhere."""

    instances: int = 0
    size: int = 0
    committed: int = 0
    delivered: int = 0
    damaged: int = 0

    def plus(self, other: Holding) -> Holding:
        return Holding(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def lacks(self, need: Need) -> int:
        if need is Need.NOTHING:
            return 0
        return self.instances - (self.committed if need is Need.COMMITTED else self.delivered)


def sources_of(connection: Connection, pks: Mapping[int, str]) -> dict[str, set[str]]:
    """Who sent what was received of each study: calling AE titles, or ``imported``."""
    query = (
        select(instance.c.study_pk, instance.c.origin, instance.c.calling_ae)
        .where(instance.c.study_pk.in_(list(pks)), instance.c.origin != "emitted")
        .distinct()
    )
    found: dict[str, set[str]] = defaultdict(set)
    for row in connection.execute(query):
        found[pks[row.study_pk]].add(IMPORTED if row.origin == "imported" else row.calling_ae)
    return found


def holdings_of(
    connection: Connection, pks: Mapping[int, str], governed: Mapping[str, RetentionRule | None]
) -> dict[str, tuple[Holding, Holding]]:
    """What each study holds of received and of made instances, as the peers of its rule have it."""
    by_peers: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for pk, uid in pks.items():
        rule = governed[uid]
        by_peers[rule.peers if rule else ()].append(pk)
    found: dict[str, dict[bool, Holding]] = defaultdict(dict)
    for peers, some in by_peers.items():
        for row in connection.execute(_holding_query(some, peers)):
            holding = Holding(row.instances, int(row.size), int(row.committed), int(row.delivered), int(row.damaged))
            by_origin = found[pks[row.study_pk]]
            made = row.origin == "emitted"
            by_origin[made] = by_origin.get(made, Holding()).plus(holding)
    return {uid: (found[uid].get(False, Holding()), found[uid].get(True, Holding())) for uid in pks.values()}


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


def blocked(connection: Connection, uids: Sequence[str], now: float) -> dict[str, str]:
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


def promised(connection: Connection, uids: Sequence[str]) -> set[str]:
    """Studies of which a peer was told that we keep them (it may have deleted its own); all, while a request is being judged."""
    if connection.scalar(select(commitment.c.pk).where(is_one_of(commitment.c.state, "REQUESTED")).limit(1)) is not None:
        return set(uids)
    told = select(audit_rows.c.study_uid).where(audit_rows.c.event == COMMITTED, audit_rows.c.study_uid.in_(list(uids)))
    return set(connection.execute(told).scalars())
