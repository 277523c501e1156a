"""Whose an AE title is among those that watch workitems: the account or token that first subscribed it, until it watches nothing more.

Reports of a subscriber go to one listener, the newest. So nobody else may listen, subscribe or unsubscribe in its name.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, func, select

from storage.errors import WorkitemRefused
from storage.schema import workitem_subscription
from storage.workitem_values import NOT_AUTHORIZED

_SOMEBODY_ELSES: Final = "somebody else watches under this AE title; see: dicom-node workitem watchers"


def may_listen(connection: Connection, aet: str, channel: str, who: str | None) -> bool:
    """Whether an AE title is nobody's, or ``who``'s on this channel; ``who`` is None for a peer, which its AE title names."""
    own = workitem_subscription.c
    rows = connection.execute(select(own.channel, own.owner).where(own.aet == aet).distinct())
    return all(row.channel == channel and row.owner in (None, who) for row in rows)


def refuse_stranger(connection: Connection, aet: str, channel: str, who: str | None) -> None:
    """Raise WorkitemRefused, 0124H, where an AE title is somebody else's; until the transaction ends nobody else can take it."""
    if connection.dialect.name == "postgresql":  # elsewhere one transaction writes at a time
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"subscriber {aet}"))))
    if not may_listen(connection, aet, channel, who):
        raise WorkitemRefused(NOT_AUTHORIZED, _SOMEBODY_ELSES)
