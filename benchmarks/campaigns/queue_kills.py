"""Workers of the queue killed with SIGKILL at any moment: no job completes twice, none is lost.

Each worker claims, and completes in one transaction with a row that stands for what the job brings about. Leases are short, so that what
a killed worker held is taken over at once, also from one that is only slow: its late completion must be refused.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from sqlalchemy import func, select

from storage import audit
from storage.database import Database, open_database
from storage.errors import IndexUnavailable, StaleToken
from storage.jobs import JobQueue, JobSpec
from storage.schema import audit as audit_table
from storage.schema import job, job_event

SPAWN = multiprocessing.get_context("spawn")
EFFECT = "work.done"
LEASE = 0.3
PROCESSES = 4
MOST_ATTEMPTS = 1000  # a job may be in the hands of any number of workers that die
BOUND = 1200.0  # seconds, before a campaign counts as stuck


@dataclass(frozen=True)
class Verdict:
    """What became of the jobs. ``taken_over``: those that were claimed more than once."""

    kills: int
    jobs: int
    completed: int
    twice: int
    taken_over: int

    @property
    def good(self) -> bool:
        return self.completed == self.jobs and self.twice == 0

    def __str__(self) -> str:
        told = f"{self.kills} kills of a worker, {self.completed} of {self.jobs} jobs completed, {self.twice} twice"
        return f"{told}, {self.taken_over} taken over from a worker that was killed or slow"


def work(url: str, name: str) -> None:
    """Reclaim, claim and complete for ever."""
    database = open_database(url, busy_seconds=60)
    queue = JobQueue(database, lease=LEASE)
    while True:
        try:
            claimed = queue.claim(["route"], name)
            if claimed is None:
                queue.reclaim()
                time.sleep(0.01)
                continue
            with database.begin() as connection:
                audit.record(connection, EFFECT, actor=name, detail={"job": claimed.pk})
                queue.complete(connection, claimed)
        except (StaleToken, IndexUnavailable):
            continue


def campaign(url: str, kills: int, *, processes: int = PROCESSES, seed: int = 1) -> Verdict:
    """Kill ``kills`` workers while jobs are added, then let the rest finish.

    Raises
    ------
    TimeoutError
        Jobs were left behind for :data:`BOUND` seconds.
    """
    database = open_database(url)
    queue, chance, until = JobQueue(database), random.Random(seed), time.monotonic() + BOUND
    workers = [_start(url, number) for number in range(processes)]
    added = done = 0
    try:
        for number in range(kills):
            _add(queue, database, added, 10)
            added += 10
            done = _await(database, done + chance.randint(1, 5), added, until)
            victim = number % processes
            time.sleep(chance.uniform(0, 0.02))  # anywhere between two completions
            _kill(workers[victim])
            workers[victim] = _start(url, processes + number)
        _await(database, added, added, until)
    finally:
        for each in workers:
            _kill(each)
    verdict = _judge(database, kills, added)
    database.close()
    return verdict


def _start(url: str, number: int) -> BaseProcess:
    process = SPAWN.Process(target=work, args=(url, f"worker-{number}"), daemon=True)
    process.start()
    return process


def _kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def _add(queue: JobQueue, database: Database, first: int, count: int) -> None:
    with database.begin() as connection:
        for number in range(first, first + count):
            queue.enqueue(connection, JobSpec("route", "route", f"work-{number}", max_attempts=MOST_ATTEMPTS))


def _await(database: Database, wanted: int, added: int, until: float) -> int:
    """Wait until ``wanted`` jobs (all of them at most) are completed; how many are."""
    finished = select(func.count()).select_from(job).where(job.c.state == "COMPLETED")
    while True:
        with database.read() as connection:
            done = int(connection.scalar(finished) or 0)
        if done >= min(wanted, added):
            return done
        if time.monotonic() > until:
            raise TimeoutError(f"{done} of {added} jobs were completed within {BOUND:.0f} s")
        time.sleep(0.005)


def _judge(database: Database, kills: int, added: int) -> Verdict:
    with database.read() as connection:
        effects = Counter(row["job"] for row in connection.scalars(select(audit_table.c.detail).where(audit_table.c.event == EFFECT)))
        events = connection.execute(select(job_event.c.job_pk, job_event.c.state)).all()
    completions = Counter(pk for pk, state in events if state == "COMPLETED")
    claims = Counter(pk for pk, state in events if state == "IN_PROGRESS")
    twice = {pk for counted in (effects, completions) for pk, count in counted.items() if count > 1}
    both = effects.keys() & completions.keys()
    return Verdict(kills, added, len(both), len(twice), sum(count > 1 for count in claims.values()))
