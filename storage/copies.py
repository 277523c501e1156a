"""Copies of instances that this node made under UIDs of its own and sent out: known when they come back.

They stand among the UIDs that the node made, which outlive every deletion.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from storage.schema import emitted, instance
from storage.statements import insert_new

PREFIX = "copy:"  # of the run key, before the peer's name: no run made them
ROWS = 200  # of one statement


def remember(connection: Connection, sop_uids: Sequence[str], peer: str, *, now: float) -> None:
    """Keep the SOP Instance UIDs of copies before they are sent."""
    for start in range(0, len(sop_uids), ROWS):
        rows = [{"sop_uid": uid, "run_key": f"{PREFIX}{peer}", "emitted_at": now} for uid in sop_uids[start : start + ROWS]]
        connection.execute(insert_new(connection, emitted).values(rows))


def copies_in(connection: Connection, study_pks: Sequence[int]) -> dict[int, int]:
    """How many received instances of some studies are such copies, by the key of their series; a series without any is left out."""
    query = select(instance.c.series_pk, func.count()).join(emitted, emitted.c.sop_uid == instance.c.sop_uid)
    query = query.where(instance.c.study_pk.in_(list(study_pks)), instance.c.origin != "emitted").group_by(instance.c.series_pk)
    return {row.series_pk: row[1] for row in connection.execute(query)}
