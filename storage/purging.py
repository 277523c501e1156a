"""Purging: in bounded batches what retention lets go, judged once more in the transaction that deletes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Connection, select

from storage import deletion
from storage.errors import NotFound, StorageError
from storage.retention import CHUNK, Decision, chunk, decide, decide_all
from storage.retention_rules import DiskState, RetentionRule, disk_state
from storage.schema import study

if TYPE_CHECKING:
    from storage.archive import Archive

log = structlog.get_logger()

ACTOR = "retention"


@dataclass
class PurgeReport:
    """What a batch did. ``examined`` studies, of which ``gone`` went."""

    examined: int = 0
    gone: list[Decision] = field(default_factory=list)
    size: int = 0


class Kept(StorageError):
    """A study that was to go stays after all."""


class Purger:
    """Purges in bounded batches; remembers where it left off, so that studies that stay don't keep the rest from being looked at."""

    def __init__(
        self,
        archive: Archive,
        rules: Sequence[RetentionRule],
        *,
        keep_free: int = 0,
        state: Callable[[], DiskState] | None = None,
    ) -> None:
        self._archive = archive
        self._rules = rules
        self._state = state or (lambda: disk_state(archive, keep_free))
        self._position: tuple[float, int] = (-1.0, 0)

    def batch(self, *, most: int = 20, examine: int = 1000) -> PurgeReport:
        """Look at up to ``examine`` studies and delete up to ``most`` of them, those that wait longest first."""
        report = PurgeReport()
        if not self._rules:
            return report
        while report.examined < examine and len(report.gone) < most:
            low = self._state() is not DiskState.OK
            with self._archive.database.read() as connection:
                rows = chunk(connection, self._position)
                decisions = decide_all(connection, rows, self._rules, now=self._archive.clock(), low=low)
            for row, decision in zip(rows, decisions, strict=True):
                if len(report.gone) >= most:
                    return report
                report.examined += 1
                self._position = (row.last_received_at, row.pk)
                if decision.goes:
                    self._purge(decision, report)
            if len(rows) < CHUNK:
                self._position = (-1.0, 0)  # from the start, in the next batch
                break
        return report

    def _purge(self, decision: Decision, report: PurgeReport) -> None:
        low = self._state() is not DiskState.OK  # what went before may have been enough
        rule = next(each for each in self._rules if each.name == decision.rule)
        if not rule.due(self._archive.clock() - decision.last_received_at, low=low):
            return

        def still(connection: Connection) -> None:
            connection.execute(select(study.c.pk).where(study.c.study_uid == decision.study_uid).with_for_update())
            again = decide(connection, decision.study_uid, self._rules, now=self._archive.clock(), low=low)
            if not again.goes:
                raise Kept(again.why)

        reason = f"rule {decision.rule}: {decision.why}"
        try:
            gone = deletion.delete_study(self._archive, decision.study_uid, who=ACTOR, reason=reason, check=still)
        except (Kept, NotFound) as error:
            log.info("retention.kept", study_uid=decision.study_uid, why=str(error))
            return
        report.gone.append(decision)
        report.size += gone.size
        log.info("retention.purged", study_uid=decision.study_uid, rule=decision.rule, instances=gone.instances, size=gone.size)
