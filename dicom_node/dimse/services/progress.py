"""How far a retrieve is: its statuses and counts (PS3.4 C.4.2.1, C.4.3.1), and when its requestor is told."""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog

from dicom_node.dimse.message import SubOperations
from storage.archive import StoredInstance

log = structlog.get_logger()

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
CANCELED: Final = 0xFE00
SOME_FAILED: Final = 0xB000
CANNOT_COUNT: Final = 0xA701
CANNOT_PERFORM: Final = 0xA702
UNKNOWN_DESTINATION: Final = 0xA801
IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900
UNABLE_TO_PROCESS: Final = 0xC000
NOT_AUTHORIZED: Final = 0x0124


class Progress:
    """How far a retrieve is. One thread counts, another may read."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.completed = self.failed = self.warning = 0
        self.failed_uids: list[str] = []
        self.canceled = threading.Event()

    def fail(self, stored: StoredInstance, why: str, status: int | None = None) -> None:
        self.failed += 1
        self.failed_uids.append(stored.sop_uid)
        shown = None if status is None else f"{status:04X}"
        log.warning("retrieve.instance_failed", sop_instance_uid=stored.sop_uid, why=why, status=shown)

    def settle(self, stored: StoredInstance, status: int) -> None:
        """Count what the receiver answered."""
        if status == SUCCESS:
            self.completed += 1
        elif status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116):
            self.warning += 1
        else:
            self.fail(stored, "refused by the receiver", status)

    @property
    def counts(self) -> SubOperations:
        done = self.completed + self.failed + self.warning
        return SubOperations(max(self.total - done, 0), self.completed, self.failed, self.warning)

    @property
    def status(self) -> int:
        """The final status: PS3.4 tables C.4-2 and C.4-3."""
        if self.canceled.is_set() and self.counts.remaining:
            return CANCELED
        if self.failed and not self.completed and not self.warning:
            return CANNOT_PERFORM
        return SOME_FAILED if self.failed or self.warning else SUCCESS


class Steps:
    """When a pending response is due: each second, and each tenth of the way."""

    def __init__(self, total: int, *, interval: float = 1.0) -> None:
        self._step = max(total // 10, 1)
        self._interval = interval
        self._at = time.monotonic()
        self._done = 0

    def due(self, counts: SubOperations) -> bool:
        now, done = time.monotonic(), counts.completed + counts.failed + counts.warning
        if done - self._done < self._step and now - self._at < self._interval:
            return False
        self._at, self._done = now, done
        return bool(counts.remaining)
