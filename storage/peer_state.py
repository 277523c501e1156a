"""How deliveries to each peer stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from storage.schema import delivery


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


def by_peer(connection: Connection) -> Mapping[str, PeerState]:
    """Every peer that was ever sent something."""
    columns = delivery.c.peer, delivery.c.state, func.count(), func.min(delivery.c.created_at), func.max(delivery.c.finished_at)
    counted = {(peer, state): (count, first, last) for peer, state, count, first, last in
               connection.execute(select(*columns).group_by(delivery.c.peer, delivery.c.state))}  # fmt: skip
    return {peer: _state(connection, peer, counted) for peer in sorted({peer for peer, _ in counted})}


def _state(connection: Connection, peer: str, counted: Mapping[tuple[str, str], tuple[int, float, float | None]]) -> PeerState:
    waiting, oldest, _ = counted.get((peer, "SCHEDULED"), (0, None, None))
    delivered, _, delivered_at = counted.get((peer, "DELIVERED"), (0, 0.0, None))
    failed, _, failed_at = counted.get((peer, "FAILED"), (0, 0.0, None))
    latest = select(delivery.c.detail).where(delivery.c.peer == peer, delivery.c.state == "FAILED").order_by(delivery.c.finished_at.desc())
    why = connection.scalar(latest.limit(1)) if failed else None
    return PeerState(waiting, oldest, delivered, delivered_at, failed, failed_at, why)
