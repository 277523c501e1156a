"""Event reports of workitems on their way by DIMSE: one sender a subscriber, so that they come in order and none twice at once.

The reports themselves are the notices of :mod:`storage.workitem_events`; they go when the subscriber has taken them.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, or_, select, update

from storage import workitem_events
from storage.schema import workitem_reporter
from storage.statements import insert_new
from storage.workitem_events import DIMSE, Notice

_ROW = workitem_reporter.c


def hold(connection: Connection, aet: str, who: str, *, until: float, now: float) -> bool:
    """Become the one that reports to a subscriber, or stay it; False while somebody else is."""
    connection.execute(insert_new(connection, workitem_reporter).values(aet=aet))
    free = or_(_ROW.holder.is_(None), _ROW.holder == who, _ROW.held_until < now)
    return connection.execute(update(workitem_reporter).where(_ROW.aet == aet, free).values(holder=who, held_until=until)).rowcount == 1


def leave(connection: Connection, aet: str, who: str) -> None:
    """Let somebody else report to a subscriber."""
    connection.execute(update(workitem_reporter).where(_ROW.aet == aet, _ROW.holder == who).values(holder=None, held_until=0))


def next_reports(connection: Connection, aet: str, who: str, *, now: float, limit: int = 1) -> list[Notice]:
    """The oldest reports for a subscriber that is due; none while somebody else reports to it."""
    row = connection.execute(select(_ROW.holder, _ROW.held_until, _ROW.next_at).where(_ROW.aet == aet)).one_or_none()
    if row is not None and (row.next_at > now or (row.holder not in (None, who) and row.held_until >= now)):
        return []
    return workitem_events.waiting(connection, DIMSE, [aet], limit)


def taken(connection: Connection, aet: str, pks: Sequence[int]) -> None:
    """Forget reports that the subscriber has answered."""
    workitem_events.sent(connection, pks)
    failing = _ROW.attempts > 0
    connection.execute(update(workitem_reporter).where(_ROW.aet == aet, failing).values(attempts=0, next_at=0, detail=""))


def attempts(connection: Connection, aet: str) -> int:
    """How often reporting to a subscriber has failed since it last took something."""
    return connection.scalar(select(_ROW.attempts).where(_ROW.aet == aet)) or 0


def failed(connection: Connection, aet: str, why: str, *, next_at: float) -> None:
    """Keep what waits for a subscriber, and try again later."""
    values = {"attempts": _ROW.attempts + 1, "next_at": next_at, "detail": why}
    connection.execute(update(workitem_reporter).where(_ROW.aet == aet).values(values))
