"""Storage commitment between the receiver and the index: the desk of the DIMSE service."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from dicom_node.clock import Clock
from dicom_node.config import Config
from dicom_node.dimse.association import AssociationContext
from dicom_node.dimse.references import Reference, References
from dicom_node.dimse.services.commitment import SUCCESS, Recorded
from storage import commitment_requests, commitments
from storage.database import Database
from storage.jobs import JobQueue

ANSWER_SECONDS = 60.0  # after which another may report what this association has sent without an answer


class CommitmentDesk:
    """Records transactions, hands out their reports, and keeps what peers report to us. Safe for any number of threads."""

    def __init__(
        self,
        config: Config,
        database: Database,
        queue: JobQueue,
        *,
        clock: Clock,
        who: str,
        ring: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._config = config
        self._database = database
        self._queue = queue
        self._clock = clock
        self._who = who
        self._ring = ring

    def record(self, context: AssociationContext, request: References) -> Recorded:
        assert context.peer is not None
        packed = commitments.Request(context.peer, context.called_ae, request.transaction_uid, request.instances)
        # A peer that cannot be called has nothing but this association.
        reachable = self._config.peer_named(context.peer).host is not None
        seconds = self._config.commitment.report_wait if reachable else self._config.dimse.idle_timeout
        now = self._clock()
        with self._database.begin() as connection:
            key = commitments.record_request(connection, packed, self._queue, association_until=now + seconds, now=now)
        self._ring(f"commit-{context.peer}")
        return Recorded(key, seconds)

    def take(self, key: int) -> References | None:
        now = self._clock()
        with self._database.read() as connection:
            if commitments.get(connection, key).state != "JUDGED":
                return None
        with self._database.begin() as connection:
            if not commitments.claim_report(connection, key, self._name(key), until=now + ANSWER_SECONDS, now=now):
                return None
            return report_of(commitments.report_of(connection, key))

    def reported(self, key: int, status: int) -> None:
        with self._database.begin() as connection:
            if status == SUCCESS:
                commitments.record_reported(connection, key, self._name(key), "on the association that asked", now=self._clock())
            else:
                commitments.give_back(connection, key, self._name(key), f"answered {status:04X} on the association that asked")

    def leave(self, keys: list[int]) -> None:
        with self._database.begin() as connection:
            for key in keys:
                commitments.give_back(connection, key, self._name(key), "the association that asked ended before its report was answered")
            peers = commitments.leave_association(connection, keys, self._queue)
        for peer in peers:
            self._ring(f"commit-{peer}")

    def accept(self, peer: str, report: References) -> bool:
        with self._database.begin() as connection:
            known = record_report(connection, peer, report, self._queue, now=self._clock())
        if known:
            self._ring(f"deliver-{peer}")
        return known

    def _name(self, key: int) -> str:
        return f"{self._who}/{key}"


def record_report(connection: Connection, peer: str, report: References, queue: JobQueue, *, now: float) -> bool:
    """Keep what a peer reported of a transaction of ours; False where it was not asked."""
    failed = {reference.sop_instance_uid: reason for reference, reason in report.failed}
    committed = {reference.sop_instance_uid for reference in report.instances}
    return commitment_requests.record_report(connection, peer, report.transaction_uid, committed, failed, queue, now=now)


def report_of(report: commitments.Report) -> References:
    """What a transaction came to, as the network layer encodes it."""
    committed = [Reference(*each) for each in report.committed]
    return References(report.transaction_uid, committed, [(Reference(*each), reason) for each, reason in report.failed])
