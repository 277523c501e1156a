"""How deliveries to each peer stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from storage.schema import delivery


@dataclass(frozen=True)
class FormState:
    """Deliveries of one form of results ("SEG", "SR", ...) to a peer, counted."""

    form: str
    waiting: int
    delivered: int
    not_taken: int
    failed: int


@dataclass(frozen=True)
class PeerState:
    """Deliveries to a peer. Times are UTC epoch seconds; ``failed_why`` is what the latest failed one ended with."""

    waiting: int = 0
    oldest_at: float | None = None
    delivered: int = 0
    delivered_at: float | None = None
    failed: int = 0
    failed_at: float | None = None
    failed_why: str | None = None
    forms: tuple[FormState, ...] = ()


def by_peer(connection: Connection) -> Mapping[str, PeerState]:
    """Every peer that was ever sent something."""
    keys = delivery.c.peer, delivery.c.form, delivery.c.state
    figures = func.count().label("number"), func.min(delivery.c.created_at).label("first"), func.max(delivery.c.finished_at).label("last")
    of_peer: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(select(*keys, *figures).group_by(*keys)):
        of_peer.setdefault(row.peer, []).append(row)
    return {peer: _state(connection, peer, of_peer[peer]) for peer in sorted(of_peer)}


def _state(connection: Connection, peer: str, rows: Sequence[Row[Any]]) -> PeerState:
    counted = Counter[str]()
    for row in rows:
        counted[row.state] += row.number
    latest = select(delivery.c.detail).where(delivery.c.peer == peer, delivery.c.state == "FAILED").order_by(delivery.c.finished_at.desc())
    return PeerState(
        waiting=counted["SCHEDULED"],
        oldest_at=min((row.first for row in rows if row.state == "SCHEDULED"), default=None),
        delivered=counted["DELIVERED"],
        delivered_at=max((row.last for row in rows if row.state == "DELIVERED"), default=None),
        failed=counted["FAILED"],
        failed_at=max((row.last for row in rows if row.state == "FAILED"), default=None),
        failed_why=connection.scalar(latest.limit(1)) if counted["FAILED"] else None,
        forms=tuple(_form(form, rows) for form in sorted({row.form for row in rows} - {""})),
    )


def _form(form: str, rows: Sequence[Row[Any]]) -> FormState:
    counted = {row.state: row.number for row in rows if row.form == form}
    return FormState(form, *(counted.get(state, 0) for state in ("SCHEDULED", "DELIVERED", "NOT_TAKEN", "FAILED")))
