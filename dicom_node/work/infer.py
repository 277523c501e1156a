"""The infer handler: a run is executed; its objects, deliveries and COMPLETED become durable in one transaction under the fencing token."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import structlog
from sqlalchemy import Connection

import dicom_node
from dicom_node.config import Peer
from dicom_node.errors import Released, TryAgain
from dicom_node.log import bound
from dicom_node.releases.resolve import bundle_of_run, evaluation_line
from dicom_node.results.context import EncodedObject, Outcome, ResultContext
from dicom_node.results.forms import beyond_the_record, chosen_for
from dicom_node.results.uids import device_uid, instance_uid, series_uid
from dicom_node.work import admission
from dicom_node.work.chaining import follow
from dicom_node.work.executors import Asked, Executor
from dicom_node.work.handler import NodeHandler
from dicom_node.work.inference import Answer, Beside, FilePart, Request, negative_report
from dicom_node.work.inputs import by_input
from dicom_node.work.turns import turns_of
from dicom_node.work.worker import about
from models.bundle import Bundle
from models.errors import BundleInvalid
from storage import batches, deliveries, index, release_watch, runs
from storage.errors import Damaged, IndexUnavailable, NoSpace, NotFound, QuarantineConflict, ReadOnly
from storage.jobs import ClaimedJob
from storage.records import RunRecord

log = structlog.get_logger()

_DISK_WAIT = 15.0
_LIVE_WAIT = 5.0
_UNKNOWN = Peer(name="unknown", ae_title="UNKNOWN")  # the profile of a peer that is no longer configured: the record

Settle = Callable[[Connection], RunRecord]
Course = Generator[Asked, Answer, None]


def _step(job: ClaimedJob, course: Course, answer: Answer | None = None) -> tuple[Asked | None, Exception | None]:
    """Take a run on by one step: what it asks for next, or None and what it ended by."""
    with bound(**about(job)):
        try:
            return (next(course) if answer is None else course.send(answer)), None
        except StopIteration:
            return None, None
        except Exception as error:  # noqa: BLE001  the worker tells what it is; the runs beside this one go on
            return None, error


class InferHandler(NodeHandler):
    """Carries out ``infer`` jobs on one device."""

    def __init__(self, *parts: Any, executor: Executor, archive_id: str, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._executor = executor
        self._archive_id = archive_id

    def cancel(self, job: ClaimedJob) -> None:
        """End the job's run (another thread): the job was lost, or the worker shuts down."""
        self._executor.cancel(job.transaction_uid)

    def __call__(self, job: ClaimedJob) -> None:
        for _, error in self.together([job]):
            if error is not None:
                raise error

    def beside(self, job: ClaimedJob) -> Sequence[ClaimedJob]:
        """Claim the runs of the same release that wait, where its images may go through the network together; nobody is waited for."""
        most = self._config.executor.batch - 1
        if most < 1:
            return ()
        with self._database.read() as connection:
            waiting = batches.alike(connection, job, most, now=self._clock())
        return self._queue.claim_some(waiting, job.worker) if waiting and self._batches(job) else ()

    def _batches(self, job: ClaimedJob) -> bool:
        with self._database.read() as connection:
            run = runs.get_run(connection, int(job.payload["run_pk"]))
        try:
            return bundle_of_run(self._config, run.bundle, run.release_pk, run.release_digest).batches
        except BundleInvalid:  # the run itself fails by it, and says so
            return False

    def together(self, jobs: Sequence[ClaimedJob]) -> Iterator[tuple[ClaimedJob, Exception | None]]:
        """Carry out runs; each job once it has ended, with what it ended by where it is not done."""
        asked: dict[str, tuple[ClaimedJob, Course, Asked]] = {}
        for job in jobs:
            course = self._course(job)
            wanted, error = _step(job, course)
            if wanted is None:
                yield job, error
            else:
                asked[job.transaction_uid] = job, course, wanted
        for claim, answer in self._answers([wanted for _, _, wanted in asked.values()]):
            job, course, _ = asked.pop(claim)
            yield job, _step(job, course, answer)[1]

    def _answers(self, asked: Sequence[Asked]) -> Iterator[tuple[str, Answer]]:
        if len(asked) == 1:
            (one,) = asked
            yield one.claim, self._executor.execute(one.request, one.deadline, one.claim)
        elif asked:
            yield from self._executor.together(asked)

    def _course(self, job: ClaimedJob) -> Course:
        """A run from its claim to its end; in between it asks the executor once, unless it comes to nothing before."""
        self._await_live(job)
        run = self._start(job)
        if run is None:
            return
        log.info("run.started", run=run.pk, bundle=run.bundle, release=run.release_digest[:12], device=self._executor.device)
        prepared = self._request(run)
        if isinstance(prepared, Request):
            deadline = prepared.deadline or self._config.executor.deadline
            self._queue.due(job, self._clock() + deadline)
            answer = yield Asked(prepared, deadline, job.transaction_uid)
        else:
            answer = prepared
        if answer.code == "canceled":
            raise Released("the run was ended before its time")
        if self._waits_for_room(job, run, answer):
            return
        try:
            self._settle(job, run, answer)
        except QuarantineConflict as error:
            self._already_there(job, run, str(error))
            return
        except NotFound as error:
            self._inputs_gone(job, run, str(error))
            return
        except (NoSpace, ReadOnly, IndexUnavailable) as error:
            raise TryAgain(f"the result cannot be stored: {error}", delay=_DISK_WAIT, counted=False) from error
        for peer in run.deliver_to:
            self._ring(f"deliver-{peer}")

    def _await_live(self, job: ClaimedJob) -> None:
        """A run that looks on comes after the one that it is compared with."""
        with self._database.read() as connection:
            run = runs.get_run(connection, int(job.payload["run_pk"]))
            live = runs.live_beside(connection, run) if run.shadow else None
        if live is not None and live.state in runs.WAITING:
            raise TryAgain(f"it looks on, and run {live.pk} comes first", delay=_LIVE_WAIT, counted=False)

    def _start(self, job: ClaimedJob) -> RunRecord | None:
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            run = runs.start_run(connection, int(job.payload["run_pk"]), self._executor.device, now=self._clock())
            if run is None:
                self._queue.complete(connection, job, "the run had ended already")
            return run

    def _waits_for_room(self, job: ClaimedJob, run: RunRecord, answer: Answer) -> bool:
        """Keep what the run took of memory; one that finds no room now is put back, for so long as the configuration says."""
        if answer.course is None:
            return False
        now = self._clock()
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            waited = admission.keep(connection, run, answer, now=now)
            if answer.code != admission.NO_ROOM or waited >= self._config.executor.memory_wait:
                return False
            self._queue.retry(job, answer.reason, delay=admission.WAIT, count_attempt=False, connection=connection)
            runs.put_back(connection, run.pk, answer.reason)
        log.info("run.waits_for_memory", run=run.pk, seconds=round(waited))
        return True

    def _already_there(self, job: ClaimedJob, run: RunRecord, why: str) -> None:
        """The archive holds the run's objects: another worker, that has the job now or had it before, was quicker."""
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            if runs.get_run(connection, run.pk).state in runs.WAITING:
                runs.fail_run(connection, run.pk, why, now=self._clock())
                self._queue.fail(job, why, connection=connection)
            else:
                self._queue.complete(connection, job, "the result was there already")

    def _inputs_gone(self, job: ClaimedJob, run: RunRecord, why: str) -> None:
        """What a run was made of was deleted while it was under way: nothing of it is kept or sent."""
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            runs.fail_run(connection, run.pk, why, now=self._clock())
            self._queue.fail(job, why, connection=connection)

    # --- what the model gets

    def _request(self, run: RunRecord) -> Request | Answer:
        try:
            bundle = bundle_of_run(self._config, run.bundle, run.release_pk, run.release_digest)
            images, others = by_input(bundle, run, self._image)
        except (BundleInvalid, NotFound, Damaged) as error:
            return Answer(Outcome.FAILED, str(error), type(error).__name__)
        with self._database.read() as connection:
            memory = admission.known(connection, run.release_digest)
        return Request(
            str(bundle.root),
            run.release_digest,
            images,
            self._context(run, bundle),
            deadline=bundle.dicom.run.deadline,
            others=others,
            memory=memory,
            watch=run.release_pk is not None,
            beside=self._beside(run) if run.shadow else None,
        )

    def _beside(self, run: RunRecord) -> Beside:
        """What a run that looks on is compared with: the objects and findings of the run whose result went out."""
        with self._database.read() as connection:
            live = runs.live_beside(connection, run)
            made = runs.objects_of(connection, live.run_key) if live is not None and live.state == "COMPLETED" else []
        if live is None or not made:
            return Beside(None)
        try:
            objects = [self._archive.open_instance(uid) for uid in made]
        except NotFound:
            return Beside(None)  # deleted since
        record = {instance_uid(live.run_key, f"SEG {kind}") for kind in ("BINARY", "FRACTIONAL")}  # and no other form of the same
        masks = [FilePart(str(each.path), each.offset, each.length) for each in objects if each.sop_uid in record]
        return Beside(live.pk, tuple(masks), live.findings or {})

    def _image(self, uid: str, digest: str) -> tuple[str, FilePart]:
        stored = self._archive.open_instance(uid)
        if stored.digest != digest:
            raise Damaged(f"instance {uid} is no longer the one that the run was made for")
        return stored.series_uid, FilePart(str(stored.path), stored.offset, stored.length)

    def _context(self, run: RunRecord, bundle: Bundle, **more: Any) -> ResultContext:
        assert run.started_at is not None
        sr_uid, of_series = self._predecessor(run)
        return ResultContext(
            run_key=run.run_key,
            study_uid=run.study_uid,
            bundle=run.bundle,
            device_uid=device_uid(self._archive_id, run.release_digest),
            software_version=dicom_node.__version__,
            started_at=run.started_at,
            station=self._config.node.ae_title,
            predecessor_sr_uid=sr_uid,
            predecessor_series_uid=of_series,
            kinds=tuple(bundle.dicom.output.kinds),
            forms=beyond_the_record([peer for peer in self._config.peer if peer.name in run.deliver_to], self._config.archive.results),
            instance_number=max(run.study_revision, 1),
            evaluation=self._evaluation(run),
            **more,
        )

    def _evaluation(self, run: RunRecord) -> str:
        if run.release_pk is None:
            return ""
        with self._database.read() as connection:
            return evaluation_line(connection, run.release_pk)

    def _predecessor(self, run: RunRecord) -> tuple[str | None, str | None]:
        """The SR that this run's SR replaces, and its series."""
        if run.predecessor_pk is None:
            return None, None
        with self._database.read() as connection:
            before = runs.get_run(connection, run.predecessor_pk)
        uid = instance_uid(before.run_key, "SR")
        try:
            self._archive.open_instance(uid)
        except NotFound:
            return None, None
        return uid, series_uid(before.study_uid, before.release_digest, "SR")

    # --- what becomes of the answer

    def _settle(self, job: ClaimedJob, run: RunRecord, answer: Answer) -> None:
        if answer.outcome == Outcome.FAILED:
            self._settle_failure(job, run, answer)
            return
        if answer.outcome == Outcome.NOT_APPLICABLE:
            reason = f"{answer.reason} [{answer.code}]"
            self._finish(job, run, self._negative(run, answer), lambda c: self._not_applicable(c, job, run, reason), negative=True)
            return
        self._finish(job, run, answer.objects, lambda c: self._completed(c, job, run, answer))

    def _settle_failure(self, job: ClaimedJob, run: RunRecord, answer: Answer) -> None:
        log.warning("run.failed", run=run.pk, code=answer.code)  # the reason, in the run's row, may be a model's own text
        if answer.passing and answer.code != admission.NO_ROOM and job.attempts < job.max_attempts:
            with self._database.begin() as connection:
                self._queue.retry(job, answer.reason, connection=connection)
                runs.put_back(connection, run.pk, answer.reason)
            return
        if answer.code == admission.NO_ROOM:
            answer = replace(answer, reason=f"it waited {self._config.executor.memory_wait:.0f} s in vain: {answer.reason}")
        self._finish(job, run, self._negative(run, answer), lambda c: self._failed(c, job, run, answer), negative=True)

    def _completed(self, connection: Connection, job: ClaimedJob, run: RunRecord, answer: Answer) -> RunRecord:
        ended = runs.complete_run(
            connection, run.pk, device=answer.device or self._executor.device, timings=answer.timings, findings=dict(answer.findings),
            reason=answer.reason or None, now=self._clock(),
        )  # fmt: skip
        admission.flag(connection, run, answer, final=False)
        if run.release_pk is not None and answer.inputs:
            release_watch.record_input(connection, run.release_pk, run.pk, answer.inputs, now=self._clock())
        if run.shadow and answer.beside is not None:
            release_watch.keep_agreement(connection, run.pk, answer.beside, answer.agreement)
        together = f", one of {answer.together} images in one pass" if answer.together > 1 else ""
        self._queue.complete(connection, job, f"{answer.outcome}: {len(answer.objects)} objects{together}")
        return ended

    def _not_applicable(self, connection: Connection, job: ClaimedJob, run: RunRecord, reason: str) -> RunRecord:
        ended = runs.not_applicable(connection, run.pk, reason, now=self._clock())
        self._queue.complete(connection, job, f"not applicable: {reason}")
        return ended

    def _failed(self, connection: Connection, job: ClaimedJob, run: RunRecord, answer: Answer) -> RunRecord:
        ended = runs.fail_run(connection, run.pk, answer.reason, now=self._clock())
        admission.flag(connection, run, answer, final=True)
        self._queue.fail(job, answer.reason, connection=connection)
        return ended

    def _finish(self, job: ClaimedJob, run: RunRecord, objects: Sequence[EncodedObject], settle: Settle, *, negative: bool = False) -> None:
        def in_transaction(connection: Connection) -> None:
            self._queue.fence(connection, job)
            gone = index.deleted_inputs(connection, run.study_uid, [uid for uid, _ in run.input_set]) if objects else ()
            if gone:
                raise NotFound(f"{len(gone)} of the run's {len(run.input_set)} instances were deleted while it was under way")
            ended = settle(connection)
            followed = follow(connection, self._queue, turns=turns_of(self._config), now=self._clock())
            log.info("run.ended", run=run.pk, state=ended.state, objects=len(objects), delivered=ended.delivered, followed=followed)
            if objects and ended.delivered:
                self._deliver(connection, ended, objects, negative)

        if objects:
            self._archive.store_emitted([each.emitted(run.run_key) for each in objects], in_transaction=in_transaction)
        else:
            with self._database.begin() as connection:
                in_transaction(connection)

    def _deliver(self, connection: Connection, run: RunRecord, objects: Sequence[EncodedObject], negative: bool) -> None:
        peers = {peer.name: peer for peer in self._config.peer}
        for name in run.deliver_to:
            # One whose peer went out of the configuration is made as well: it ends with that reason, and can be retried.
            if not negative or (name in peers and peers[name].negative_reports):
                for form, sop_uids in chosen_for(peers.get(name, _UNKNOWN), objects).items():
                    deliveries.create_delivery(
                        connection, run.pk, run.study_uid, name, sop_uids, self._queue, form=form,
                        max_attempts=self._config.delivery.attempts, now=self._clock(),
                    )  # fmt: skip

    def _negative(self, run: RunRecord, answer: Answer) -> list[EncodedObject]:
        """The SR that says why there is no finding, where a destination's profile asks for it."""
        wanted = {peer.name for peer in self._config.peer if peer.negative_reports}
        if not wanted.intersection(run.deliver_to):
            return []
        try:
            bundle = bundle_of_run(self._config, run.bundle, run.release_pk, run.release_digest)
            images = [part.open for part in by_input(bundle, run, self._image)[0]]
            more = {"outcome": answer.outcome, "reason": answer.reason, "report_reason": True}
            return negative_report(str(bundle.root), images, self._context(run, bundle, **more))
        except (BundleInvalid, NotFound, Damaged, ValueError) as error:
            log.warning("report.impossible", run=run.pk, why=type(error).__name__)
            return []
