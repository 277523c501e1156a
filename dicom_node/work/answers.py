"""A peer's answers on their way into the index: some at a time, since each transaction costs a sync of the disk.

An answer that a crash takes back is asked for again: the peer gets the object twice, and has it once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import structlog

from dicom_node.clock import Clock
from storage import deliveries
from storage.database import Database
from storage.deliveries import InstanceAnswer

log = structlog.get_logger()

MOST: Final = 64
LONGEST: Final = 0.5  # seconds for which an answer may wait for others


@dataclass(frozen=True)
class Answered:
    """A peer's answer for one instance, as a state of its row."""

    state: str
    status: int | None
    comment: str


class Answers:
    """The answers for one delivery; what was added is written at the latest when the block ends, however it ends."""

    def __init__(self, database: Database, delivery: int, *, clock: Clock) -> None:
        self._database = database
        self._delivery = delivery
        self._clock = clock
        self._waiting: list[tuple[str, Answered, float]] = []
        self._since = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.write()

    def add(self, sop_uid: str, answered: Answered) -> None:
        """Keep an answer for an instance."""
        status = None if answered.status is None else f"{answered.status:04X}"
        log.info("instance.delivered", delivery=self._delivery, sop_instance_uid=sop_uid, state=answered.state, status=status)
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append((sop_uid, answered, self._clock()))
        if len(self._waiting) >= MOST or time.monotonic() - self._since >= LONGEST:
            self.write()

    def write(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        with self._database.begin() as connection:
            told = (InstanceAnswer(uid, answered.state, answered.status, answered.comment, at) for uid, answered, at in waiting)
            deliveries.record_answers(connection, self._delivery, told)
