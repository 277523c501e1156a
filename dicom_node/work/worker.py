"""The loop that claims jobs: lease, heartbeat, handler, and how each job ended.

A handler finishes its job itself, in the transaction that holds what the job brought about. It leaves it otherwise by raising TryAgain,
GiveUp or Released; anything else that it raises counts as a failed attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol, cast

import structlog

from dicom_node.errors import GiveUp, Released, TryAgain
from dicom_node.log import Repeated, bound
from storage.errors import IndexUnavailable, StaleToken
from storage.jobs import ClaimedJob, JobQueue

log = structlog.get_logger()

SHORTEST_WAIT, LONGEST_WAIT = 0.05, 1.0


class Handler(Protocol):
    """Carries out one kind of job."""

    def __call__(self, job: ClaimedJob) -> None: ...


class Stoppable(Protocol):
    """A handler whose work on a job can be ended from another thread, before it began or after it ended as well."""

    def cancel(self, job: ClaimedJob) -> None: ...


class Resting(Protocol):
    """A handler that holds something between two jobs, and gives it up when there is no next one; called in the worker's thread."""

    def rest(self) -> None: ...


class Gathering(Protocol):
    """A handler that carries out some jobs together. Each keeps its own claim, and ends by itself."""

    def beside(self, job: ClaimedJob) -> Sequence[ClaimedJob]:
        """Claim what may be carried out together with a job that was claimed; nothing where there is nothing."""

    def together(self, jobs: Sequence[ClaimedJob]) -> Iterator[tuple[ClaimedJob, Exception | None]]:
        """Carry out jobs; each once it has ended, with what its handler would have raised."""


class Bell(Protocol):
    """Waits for work; see :mod:`dicom_node.nudge`."""

    def wait(self, seconds: float) -> bool: ...
    def ring(self) -> None: ...
    def close(self) -> None: ...


class SilentBell:
    """A bell that nobody but the worker itself rings."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def wait(self, seconds: float) -> bool:
        rung = self._rung.wait(seconds)
        self._rung.clear()
        return rung

    def ring(self) -> None:
        self._rung.set()

    def close(self) -> None:
        return None


class Worker:
    """Claims jobs of some queues, one at a time or those together that their handler gathers, until stopped.

    Parameters
    ----------
    queues
        Exact names, or prefixes as ``deliver:*``.
    handlers
        By kind of job.
    name
        Who holds a lease, in the job's history.
    """

    def __init__(
        self,
        queue: JobQueue,
        queues: Sequence[str],
        handlers: Mapping[str, Handler],
        *,
        name: str,
        bell: Bell | None = None,
    ) -> None:
        self._queue = queue
        self._queues = list(queues)
        self._handlers = dict(handlers)
        self._name = name
        self._bell = bell or SilentBell()
        self._stopping = threading.Event()
        self._current: Sequence[ClaimedJob] = ()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """End after the current job or jobs, which are ended and released where their handler allows."""
        self._stopping.set()
        self._bell.ring()
        for job in self._current:
            self._cancel(job)

    def close(self) -> None:
        """Give up the bell, once :meth:`run` has ended."""
        self._rest()
        self._bell.close()

    def run(self) -> None:
        """Work until :meth:`stop`. An index that is away is waited for."""
        wait, waiting = SHORTEST_WAIT, Repeated()
        while not self._stopping.is_set():
            try:
                worked = self.step()
            except IndexUnavailable as error:
                if waiting.worth(str(error)):
                    log.warning("worker.waiting", why=str(error))
                worked, wait = False, LONGEST_WAIT
            if worked or self._bell.wait(wait):
                wait = SHORTEST_WAIT
            else:
                wait = min(wait * 2, LONGEST_WAIT)
        self._rest()

    def step(self) -> bool:
        """Claim and carry out one job, and what its handler gathers beside it; False when none is due."""
        job = self._queue.claim(self._queues, self._name)
        if job is None:
            self._rest()
            return False
        jobs = self._current = [job, *self._gathered(job)]
        if self.stopping:  # stop() came after the claim, and saw no job to end
            for each in jobs:
                self._cancel(each)
        try:
            if len(jobs) == 1:
                self._step(job)
            else:
                self._step_together(jobs)
        finally:
            self._current = ()
        return True

    def _step(self, job: ClaimedJob) -> None:
        with bound(**about(job)):
            log.info("job.started", attempt=job.attempts, of=job.max_attempts)
            started = time.monotonic()
            with _Heartbeat(self._queue, job, lambda: self._cancel(job)):
                how = self._carry_out(job)
            log.info("job.ended", how=how, seconds=round(time.monotonic() - started, 3))

    def _gathered(self, job: ClaimedJob) -> Sequence[ClaimedJob]:
        gather: Callable[[ClaimedJob], Sequence[ClaimedJob]] | None = getattr(self._handlers.get(job.kind), "beside", None)
        if gather is None or self.stopping:
            return ()
        try:
            return gather(job)
        except Exception as error:  # noqa: BLE001  the job itself is claimed already, and is carried out alone
            log.warning("job.alone", job=job.pk, why=type(error).__name__)
            return ()

    def _step_together(self, jobs: Sequence[ClaimedJob]) -> None:
        started = time.monotonic()
        with ExitStack() as stack:
            beats = {job.pk: stack.enter_context(_Heartbeat(self._queue, job, partial(self._cancel, job))) for job in jobs}
            for job in jobs:
                log.info("job.started", **about(job), attempt=job.attempts, of=job.max_attempts, together=len(jobs))
            for job, error in self._ends(jobs):
                with bound(**about(job)):
                    how = self._left(job, error)
                    beats[job.pk].stop()
                    log.info("job.ended", how=how, seconds=round(time.monotonic() - started, 3))

    def _ends(self, jobs: Sequence[ClaimedJob]) -> Iterator[tuple[ClaimedJob, Exception | None]]:
        handler = cast(Gathering, self._handlers[jobs[0].kind])
        left = list(jobs)
        try:
            for job, error in handler.together(jobs):
                left.remove(job)
                yield job, error
        except Exception as error:  # noqa: BLE001  the outer edge of the loop, as in _carry_out
            for job in left:
                yield job, error

    def _carry_out(self, job: ClaimedJob) -> str:
        try:
            handler = self._handlers.get(job.kind)
            if handler is None:
                raise GiveUp(f"this worker has no handler for jobs of kind {job.kind}")
            handler(job)
        except Exception as error:  # noqa: BLE001  the outer edge of the loop: one job's failure must not end the worker
            return self._left(job, error)
        return "completed"

    def _left(self, job: ClaimedJob, error: Exception | None) -> str:
        if error is None:
            return "completed"
        return "lost to another worker" if isinstance(error, StaleToken) else self._leave(job, error)

    def _leave(self, job: ClaimedJob, error: Exception) -> str:
        if not isinstance(error, TryAgain | GiveUp | Released | IndexUnavailable):
            log.error("job.raised", error=type(error).__name__, exc_info=True)
        try:
            if isinstance(error, Released) or (self.stopping and isinstance(error, TryAgain)):
                self._queue.release(job, str(error))
                return "released"
            if isinstance(error, GiveUp):
                self._queue.fail(job, str(error))
                return f"failed: {error}"
            if isinstance(error, TryAgain):
                state = self._queue.retry(job, str(error), delay=error.delay, count_attempt=error.counted)
            elif isinstance(error, IndexUnavailable):
                state = self._queue.retry(job, str(error), delay=LONGEST_WAIT, count_attempt=False)
            else:
                # Its text may quote a data set: the log and the job's row name its type only.
                state = self._queue.retry(job, f"{type(error).__name__} in the handler of {job.kind}")
                return f"{state.value.lower()}: {type(error).__name__}"
        except StaleToken:
            return "lost to another worker"
        except IndexUnavailable as unavailable:
            return f"left to its lease: {unavailable}"
        return f"{state.value.lower()}: {error}"

    def _rest(self) -> None:
        for handler in self._handlers.values():
            rest: Callable[[], None] | None = getattr(handler, "rest", None)
            if rest is not None:
                rest()

    def _cancel(self, job: ClaimedJob) -> None:
        handler = self._handlers.get(job.kind)
        cancel: Callable[[ClaimedJob], None] | None = getattr(handler, "cancel", None)
        if cancel is not None:
            cancel(job)


def about(job: ClaimedJob) -> dict[str, Any]:
    """What every line of the log about a job carries."""
    return {"job": job.pk, "kind": job.kind, "study_uid": job.study_uid}


class _Heartbeat:
    """Extends a job's lease while the block runs; says ``lost`` when somebody else has the job."""

    def __init__(self, queue: JobQueue, job: ClaimedJob, lost: Callable[[], None]) -> None:
        self._queue = queue
        self._job = job
        self._lost = lost
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{job.pk}", daemon=True)

    def __enter__(self) -> _Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Beat no more: the job has ended."""
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(self._queue.lease / 3):
            try:
                self._queue.extend(self._job)
            except StaleToken:
                log.warning("job.lost", job=self._job.pk)
                self._lost()
                return
            except IndexUnavailable as error:
                log.warning("job.heartbeat_missed", job=self._job.pk, why=str(error))
