"""The memory that the runs of a release took: measured, kept beyond the process that ran them, the newest of each device and rung."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, case, delete, select, update

from storage.records import from_row
from storage.schema import memory_use
from storage.statements import insert_new

KEPT = 64  # sizes of volume, of each release, device and rung


@dataclass(frozen=True)
class MemoryUseRecord:
    """What volumes of one size took. ``taken``: bytes at the peak; of those that did not fit, the bytes that were free."""

    device: str
    rung: str
    voxels: int
    taken: int
    fitted: bool
    runs: int = 1
    at: float = 0.0


def keep(connection: Connection, release_digest: str, uses: Iterable[MemoryUseRecord], *, now: float | None = None) -> None:
    """Note measurements; of volumes of one size the largest stands."""
    at = time.time() if now is None else now
    for use in uses:
        key = {"device": use.device, "rung": use.rung, "voxels": use.voxels, "fitted": use.fitted}
        values = {"release_digest": release_digest, **key, "taken": use.taken, "runs": 1, "at": at}
        made = connection.scalar(insert_new(connection, memory_use).values(**values).returning(memory_use.c.pk))
        if made is None:
            same = and_(_of(release_digest, use), memory_use.c.voxels == use.voxels, memory_use.c.fitted == use.fitted)
            most = case((memory_use.c.taken < use.taken, use.taken), else_=memory_use.c.taken)
            connection.execute(update(memory_use).where(same).values(taken=most, runs=memory_use.c.runs + 1, at=at))
        else:
            _forget_old(connection, _of(release_digest, use))


def of_release(connection: Connection, release_digest: str) -> list[MemoryUseRecord]:
    """Read what is known of a release, by device, rung and size."""
    columns = (memory_use.c[name] for name in MemoryUseRecord.__dataclass_fields__)
    query = select(*columns).where(memory_use.c.release_digest == release_digest)
    ordered = query.order_by(memory_use.c.device, memory_use.c.rung, memory_use.c.voxels, memory_use.c.fitted)
    return [from_row(MemoryUseRecord, row) for row in connection.execute(ordered)]


def _of(release_digest: str, use: MemoryUseRecord) -> ColumnElement[bool]:
    return and_(memory_use.c.release_digest == release_digest, memory_use.c.device == use.device, memory_use.c.rung == use.rung)


def _forget_old(connection: Connection, among: ColumnElement[bool]) -> None:
    newest = select(memory_use.c.pk).where(among).order_by(memory_use.c.at.desc(), memory_use.c.pk.desc())
    old = list(connection.scalars(newest.offset(KEPT).limit(KEPT)))
    if old:
        connection.execute(delete(memory_use).where(memory_use.c.pk.in_(old)))
