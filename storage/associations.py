"""Open associations as leased rows: what tells completion that somebody is still sending.

A process renews the leases of all its associations with one statement; an association whose process died counts as closed when its
lease has run out. These rows need no sync of their own: the instances that refer to them are committed after them, and durably.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, bindparam, insert, or_, update

from storage.database import Database
from storage.schema import association

LEASE_SECONDS = 30.0


def open_association(
    database: Database,
    association_id: str,
    process: str,
    calling_ae: str,
    called_ae: str,
    address: str,
    lease_s: float = LEASE_SECONDS,
    *,
    now: float | None = None,
) -> None:
    """Record that an association was accepted. Its row must exist before its first instance is committed."""
    at = time.time() if now is None else now
    values = {"id": association_id, "process": process, "calling_ae": calling_ae, "called_ae": called_ae, "address": address}
    with database.begin(durable=False) as connection:
        connection.execute(insert(association).values(**values, opened_at=at, lease_until=at + lease_s))


def touch(
    database: Database, process: str, lease_s: float = LEASE_SECONDS, *, now: float | None = None, among: Collection[str] | None = None
) -> int:
    """Renew the leases of all open associations of a process (its heartbeat); with ``among``, only of these.

    A process that names the associations it really holds lets run out those whose end it could not record.

    Returns
    -------
    int
        How many associations of the process are open.
    """
    at = time.time() if now is None else now
    with database.begin(durable=False) as connection:
        open_or_lost = or_(association.c.closed_at.is_(None), association.c.ended == "lost")
        if among is None:
            held = and_(association.c.process == process, association.c.closed_at.is_(None))
        else:  # one that counted as lost because a heartbeat came late is open again
            held = and_(association.c.process == process, association.c.id.in_(list(among)), open_or_lost)
        renewal = update(association).where(held).values(lease_until=at + lease_s, closed_at=None, ended=None)
        return connection.execute(renewal).rowcount


@dataclass(frozen=True)
class Ended:
    """How an association ended (``released``, ``aborted``, ``lost``, ``shutdown``), how many instances it stored, and when."""

    association_id: str
    ended: str
    stored: int
    at: float


def close_all(database: Database, ended: Sequence[Ended]) -> None:
    """Record the end of many associations in one transaction; those that stored nothing have no row, and need none.

    One that had already counted as lost is corrected.
    """
    change = update(association).where(association.c.id == bindparam("key"))
    change = change.values(closed_at=bindparam("at"), ended=bindparam("how"), stored=bindparam("count"))
    if ended:
        with database.begin(durable=False) as connection:
            connection.execute(change, [{"key": one.association_id, "at": one.at, "how": one.ended, "count": one.stored} for one in ended])


def expire(database: Database, *, now: float | None = None) -> int:
    """Close, as ``lost``, every association whose lease has run out; the number of them."""
    at = time.time() if now is None else now
    with database.begin(durable=False) as connection:
        dead = update(association).where(association.c.closed_at.is_(None), association.c.lease_until <= at)
        return connection.execute(dead.values(closed_at=at, ended="lost")).rowcount


def is_open(now: float) -> ColumnElement[bool]:
    """Condition: the association is open and its process is alive."""
    return and_(association.c.closed_at.is_(None), association.c.lease_until > now)
