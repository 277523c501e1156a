"""Fair shares of the devices: whoever sends a thousand studies at once does not keep those of others waiting.

Each run of a source comes ``share`` seconds after the one before it that still waits (fair queueing by virtual time): runs of different
sources take turns, those of one stay in their order, and a run whose time has come is before all that come later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select

from storage.jobs import AGEING
from storage.quotas import Quota
from storage.schema import instance, job, study
from storage.statements import is_one_of

SOURCE = "source"  # in the payload of a run's job


@dataclass(frozen=True)
class Turns:
    """How sources share the devices: runs of one come ``share`` seconds apart, and no more of them than its quotas let go."""

    share: float = 0.0
    quotas: tuple[Quota, ...] = ()


FREE: Final = Turns()  # first come, first served


def source_of(connection: Connection, study_uid: str) -> str:
    """The calling AE title of who sent a study, the last one where there were several."""
    sent = select(instance.c.calling_ae).join(study, study.c.pk == instance.c.study_pk)
    sent = sent.where(study.c.study_uid == study_uid, instance.c.origin == "received").order_by(instance.c.pk.desc())
    return connection.scalar(sent.limit(1)) or ""


def rank(connection: Connection, queue: str, source: str, *, priority: int, share: float, now: float) -> float:
    """Where another run of a source stands in a queue (see `storage.jobs`: lowest first)."""
    waiting = is_one_of(job.c.state, "SCHEDULED"), job.c.queue == queue, job.c.payload[SOURCE].as_string() == source
    last = connection.scalar(select(func.max(job.c.rank + AGEING * job.c.priority)).where(*waiting))
    return (now if last is None else max(now, last + share)) - AGEING * priority
