"""The commit handler: what a peer asked us to commit is read back and compared with its digests, then reported to it."""

from __future__ import annotations

import threading

import structlog

from dicom_node.clock import Clock
from dicom_node.commitment import ANSWER_SECONDS, report_of
from dicom_node.config import Config, Peer
from dicom_node.dimse.errors import DimseError
from dicom_node.dimse.references import References
from dicom_node.dimse.scu_commitment import CONTEXTS, PROVIDER_ROLE, CommitmentAssociation
from dicom_node.dimse.services.commitment import SUCCESS
from dicom_node.errors import Released, TryAgain
from dicom_node.work.associating import associate_peer
from storage import commitments, promises
from storage.archive import Archive
from storage.commitments import CommitmentRecord, Verdict
from storage.database import Database
from storage.errors import NotFound
from storage.jobs import ClaimedJob, JobQueue

log = structlog.get_logger()


class CommitHandler:
    """Carries out ``commit`` jobs."""

    def __init__(self, config: Config, database: Database, archive: Archive, queue: JobQueue, *, clock: Clock) -> None:
        self._config = config
        self._database = database
        self._archive = archive
        self._queue = queue
        self._clock = clock
        self._stopping = threading.Event()

    def cancel(self) -> None:
        """End the reading of a large transaction; it begins anew later."""
        self._stopping.set()

    def __call__(self, job: ClaimedJob) -> None:
        self._stopping.clear()
        try:
            with self._database.read() as connection:
                record = commitments.get(connection, int(job.payload["commitment_pk"]))
        except NotFound:
            self._end(job, "the transaction is gone")
            return
        if record.state == "REQUESTED":
            self._judge(job, record)
            with self._database.read() as connection:
                record = commitments.get(connection, record.pk)
        if record.state == "REPORTED":
            self._end(job, record.detail or "reported")
            return
        left = record.association_until - self._clock()
        if left > 0:
            raise TryAgain("judged; the report is left to the association that asked", delay=left, counted=False)
        self._report(job, record, self._config.peer_named(record.peer))

    def _judge(self, job: ClaimedJob, record: CommitmentRecord) -> None:
        with self._database.read() as connection:
            references = commitments.references_of(connection, record.pk)
        if record.duplicate:
            verdict = Verdict(dict.fromkeys(range(len(references)), commitments.DUPLICATE_TRANSACTION_UID), {})
        else:
            verdict = commitments.judge(self._archive, references, pause=self._pause)
        promises.commit(self._archive, verdict.studies, peer=record.peer, transaction_uid=record.transaction_uid)
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            commitments.record_verdict(connection, record, verdict, now=self._clock())
        log.info("commitment.judged", peer=record.peer, instances=len(references), failed=len(verdict.failures))

    def _pause(self) -> None:
        if self._stopping.is_set():
            raise Released("the worker shuts down")

    def _report(self, job: ClaimedJob, record: CommitmentRecord, peer: Peer) -> None:
        if peer.host is None:
            self._fail(job, record, f"the association of {peer.name} ended, and its [[peer]] has no host and port to report to")
            return
        who = f"{job.worker}/{job.transaction_uid}"
        now = self._clock()
        with self._database.begin() as connection:
            if not commitments.claim_report(connection, record.pk, who, until=now + ANSWER_SECONDS, now=now):
                raise TryAgain("the report is under way on the association that asked", delay=ANSWER_SECONDS, counted=False)
            report = report_of(commitments.report_of(connection, record.pk))
        problem = self._send(peer, record, report)
        if problem:
            self._later(job, record, who, problem)
            return
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            commitments.record_reported(connection, record.pk, who, "on an association of our own", now=self._clock())
            self._queue.complete(connection, job, "reported")
        log.info("commitment.reported", peer=peer.name, instances=record.instances, failed=record.failed)

    def _send(self, peer: Peer, record: CommitmentRecord, report: References) -> str:
        """Report on an association of our own, as its provider (role selection, PS3.7 D.3.3.4); what went wrong, else nothing."""
        try:
            with associate_peer(self._config, peer, CONTEXTS, roles=PROVIDER_ROLE, calling_ae=record.called_ae) as association:
                answer = CommitmentAssociation(association).report(report)
        except DimseError as error:
            return f"{peer.name}, {error.step}: {error}"
        return "" if answer.status == SUCCESS else f"{peer.name} answered the report with {answer.status:04X}"

    def _later(self, job: ClaimedJob, record: CommitmentRecord, who: str, why: str) -> None:
        with self._database.begin() as connection:
            commitments.give_back(connection, record.pk, who, why)
        if job.attempts < job.max_attempts:
            raise TryAgain(why)
        self._fail(job, record, f"attempts spent: {why}")

    def _fail(self, job: ClaimedJob, record: CommitmentRecord, why: str) -> None:
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            commitments.fail(connection, record.pk, why)
            self._queue.fail(job, why, connection=connection)
        log.warning("commitment.not_reported", peer=record.peer, why=why)

    def _end(self, job: ClaimedJob, detail: str) -> None:
        with self._database.begin() as connection:
            self._queue.complete(connection, job, detail)
