"""Who did what to which study, kept for ever. Written in the transaction of the deed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert

from storage.schema import audit


def record(
    connection: Connection,
    event: str,
    *,
    actor: str,
    study_uid: str | None = None,
    sop_uid: str | None = None,
    detail: Mapping[str, Any] | None = None,
    at: float | None = None,
) -> None:
    """Add one audit row. ``event`` is a ``noun.verb``; ``actor`` a person, an AE title or a process; ``detail`` names no patient."""
    values = {"at": time.time() if at is None else at, "event": event, "actor": actor, "study_uid": study_uid, "sop_uid": sop_uid}
    connection.execute(insert(audit).values(**values, detail=dict(detail or {})))
