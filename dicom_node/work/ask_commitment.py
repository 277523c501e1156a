"""Storage commitment of what was delivered: asked for once every object was accepted, waited for, sent again where it failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import structlog

from dicom_node.clock import Clock
from dicom_node.commitment import record_report
from dicom_node.config import Config, Peer
from dicom_node.dimse.errors import DimseError
from dicom_node.dimse.references import Reference, References
from dicom_node.dimse.scu_commitment import CONTEXTS, CommitmentAssociation
from dicom_node.dimse.services.commitment import SUCCESS
from dicom_node.errors import TryAgain
from dicom_node.work.associating import associate_peer
from storage import commitment_requests, deliveries
from storage.database import Database
from storage.jobs import ClaimedJob, JobQueue, new_transaction_uid
from storage.records import DeliveryInstanceRecord

log = structlog.get_logger()

SAME_ASSOCIATION_SECONDS = 2.0


class Answer(Enum):
    """How far the commitment of a delivery is."""

    COMMITTED = "committed"
    WAITING = "waiting"  # the job was put back until the report comes
    FAILED = "failed"


@dataclass(frozen=True)
class Commitment:
    answer: Answer
    detail: str = ""


class CommitmentAsker:
    """Brings a delivery from accepted to committed, a step each time its job is carried out."""

    def __init__(self, config: Config, database: Database, queue: JobQueue, *, clock: Clock) -> None:
        self._config = config
        self._database = database
        self._queue = queue
        self._clock = clock

    def __call__(self, job: ClaimedJob, peer: Peer, delivery_pk: int, accepted: Sequence[Reference]) -> Commitment:
        """Look at what is committed of the accepted instances, and do what comes next.

        Raises
        ------
        TryAgain
            The peer cannot be asked now, or what it did not commit is to be sent again.
        """
        rows = self._rows(delivery_pk, accepted)
        failed = [row for row in rows if row.commitment == "FAILED"]
        if failed:
            return self._after_failure(peer, rows, failed)
        open_ones = {row.sop_uid for row in rows if row.commitment != "COMMITTED"}
        if not open_ones:
            return Commitment(Answer.COMMITTED, f"{len(rows)} committed")
        with self._database.read() as connection:
            requests = commitment_requests.requests_of(connection, delivery_pk)
        last = requests[-1] if requests and requests[-1].state == "REQUESTED" else None
        if last is not None and last.due_at > self._clock():
            return self._wait(job, peer, last.transaction_uid, counted=False)
        if last is not None:
            self._give_up(last.transaction_uid, "no report in time")
        transaction_uid = self._ask(job, peer, delivery_pk, [each for each in accepted if each.sop_instance_uid in open_ones])
        if self._reported(transaction_uid):
            return self(job, peer, delivery_pk, accepted)
        return self._wait(job, peer, transaction_uid, counted=last is not None)

    def _rows(self, delivery_pk: int, accepted: Sequence[Reference]) -> list[DeliveryInstanceRecord]:
        wanted = {each.sop_instance_uid for each in accepted}
        with self._database.read() as connection:
            return [row for row in deliveries.instances_of(connection, delivery_pk) if row.sop_uid in wanted]

    def _after_failure(self, peer: Peer, rows: Sequence[DeliveryInstanceRecord], failed: list[DeliveryInstanceRecord]) -> Commitment:
        reasons = ", ".join(sorted({f"{row.failure_reason or 0:04X}" for row in failed}))
        why = f"{peer.name} did not commit {len(failed)} of {len(rows)} objects ({reasons})"
        if any(row.commit_attempts >= self._config.commitment.resend for row in failed):
            return Commitment(Answer.FAILED, why)
        with self._database.begin() as connection:
            commitment_requests.send_again(connection, failed)
        raise TryAgain(f"{why}; they are sent again")

    def _ask(self, job: ClaimedJob, peer: Peer, delivery_pk: int, instances: Sequence[Reference]) -> str:
        transaction_uid = new_transaction_uid()
        now = self._clock()
        due_at = now + self._config.commitment.timeout
        uids = [each.sop_instance_uid for each in instances]
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            commitment_requests.record_request(connection, transaction_uid, delivery_pk, peer.name, uids, due_at=due_at, now=now)
        problem = self._request(peer, References(transaction_uid, instances))
        log.info("commitment.requested", delivery=delivery_pk, peer=peer.name, instances=len(instances), problem=problem)
        if problem:
            self._give_up(transaction_uid, problem)
            raise TryAgain(problem)
        return transaction_uid

    def _request(self, peer: Peer, request: References) -> str:
        """Ask on an association of its own, and wait there a little for the report; what went wrong, else nothing."""
        asked = False
        try:
            with associate_peer(self._config, peer, CONTEXTS) as association:
                speaking = CommitmentAssociation(association, lambda report: self._take(peer, report))
                answer = speaking.request(request)
                if answer.status != SUCCESS:
                    return f"{peer.name} answered the request for storage commitment with {answer.status:04X}"
                asked = True
                speaking.await_report(SAME_ASSOCIATION_SECONDS, lambda: self._reported(request.transaction_uid))
        except DimseError as error:
            return "" if asked else f"{peer.name}, storage commitment, {error.step}: {error}"
        return ""

    def _take(self, peer: Peer, report: References) -> int:
        with self._database.begin() as connection:
            known = record_report(connection, peer.name, report, self._queue, now=self._clock())
        return SUCCESS if known else 0x0115

    def _reported(self, transaction_uid: str) -> bool:
        with self._database.read() as connection:
            return commitment_requests.state_of(connection, transaction_uid) != "REQUESTED"

    def _give_up(self, transaction_uid: str, why: str) -> None:
        with self._database.begin() as connection:
            commitment_requests.expire(connection, transaction_uid, why)

    def _wait(self, job: ClaimedJob, peer: Peer, transaction_uid: str, *, counted: bool) -> Commitment:
        """Put the job back until the request is due; the report makes it due at once, whether it comes before or after."""
        with self._database.begin() as connection:
            state, due_at = commitment_requests.hold(connection, transaction_uid)
            delay = max(due_at - self._clock(), 0.0) if state == "REQUESTED" else 0.0
            why = f"accepted; {peer.name} has not committed yet" if delay else "the report is there"
            self._queue.retry(job, why, delay=delay, count_attempt=counted, connection=connection)
        return Commitment(Answer.WAITING)
