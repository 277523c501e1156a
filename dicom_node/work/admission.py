"""What is known of a model's memory reaches its next run, and what a run took is kept; one that does not fit waits, or ends flagged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

from dicom_node.work.inference import Answer
from models.memory import Use
from storage import memory_uses, runs
from storage.memory_uses import MemoryUseRecord
from storage.records import RunRecord

NO_ROOM = "no-room"  # the code of an answer: nothing was tried, and it will fit when other work has ended
OUT_OF_MEMORY = "out-of-memory"
WAIT = 10.0  # seconds until it is looked again whether there is room
_SINCE = "waits_since"


def known(connection: Connection, release_digest: str) -> tuple[Use, ...]:
    """What the runs of a release took of memory before."""
    return uses(memory_uses.of_release(connection, release_digest))


def uses(records: Iterable[MemoryUseRecord]) -> tuple[Use, ...]:
    return tuple(Use(each.device, each.rung, each.voxels, each.taken, each.fitted) for each in records)


def keep(connection: Connection, run: RunRecord, answer: Answer, *, now: float) -> float:
    """Note what a run took, and how it came to be applied so.

    Returns
    -------
    float
        Seconds for which it has waited for room.
    """
    if answer.course is None:
        return 0.0
    measured = [MemoryUseRecord(use.device, use.rung, use.voxels, use.taken, use.fitted) for use in answer.course.uses if use.taken]
    memory_uses.keep(connection, run.release_digest, measured, now=now)
    waits = answer.code == NO_ROOM
    since = float((run.memory or {}).get(_SINCE) or now) if waits else now
    waited: dict[str, Any] = {_SINCE: since} if waits else {}
    runs.keep_memory(connection, run.pk, {**answer.course.shown(), **waited})
    return now - since


def flag(connection: Connection, run: RunRecord, answer: Answer, *, final: bool) -> None:
    """Mark the study of a run that ended for lack of memory for a person; take the mark away where the model ran."""
    if run.shadow:
        return
    if not final:
        runs.unflag_too_large(connection, run)
    elif answer.code in (NO_ROOM, OUT_OF_MEMORY):
        runs.flag_too_large(connection, run, f"{answer.reason}. Then try again: {_how(run)}")


def _how(run: RunRecord) -> str:
    return f"dicom-node job retry {run.job_pk}" if run.job_pk is not None else f"dicom-node study rerun {run.study_uid}"
