"""Claims per second of the job queue with several processes: `python -m benchmarks.queue`.

Durable commits on both databases (SQLite synchronous=FULL; PostgreSQL with fsync, private cluster). A claim is a transaction with its
job_event row, synced with the next durable transaction of anybody: here that of its completion, so that a claim and a completion are two
transactions, and durable. The kills are those of :mod:`benchmarks.campaigns.queue_kills`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.campaigns import queue_kills
from benchmarks.report import WORK, save, spread, table
from storage.database import open_database
from storage.jobs import JobQueue, JobSpec
from tests.postgresql import binaries, private_cluster

CLAIMED, COMPLETED = "claim", "claim and synced completion"


def worker(url: str, name: str, how: str, ready: Any, answer: Any) -> None:
    """Claim (and complete) until nothing is due."""
    database = open_database(url, busy_seconds=60)
    queue = JobQueue(database, lease=3600)
    queue.claim(["none"], name)
    ready.wait()
    start, claims, slowest = time.time(), 0, 0.0
    while True:
        before = time.perf_counter()
        job = queue.claim(["route"], name)
        if job is None:
            break
        slowest = max(slowest, time.perf_counter() - before)
        claims += 1
        if how == COMPLETED:
            with database.begin() as connection:
                queue.complete(connection, job)
    answer.put((start, time.time(), claims, slowest))


def measure(url: str, *, jobs: int, processes: int, how: str) -> tuple[float, float]:
    """Return claims per second and the longest claim."""
    database = open_database(url, create=True)
    queue = JobQueue(database)
    with database.begin() as connection:
        for number in range(jobs):
            queue.enqueue(connection, JobSpec("route", "route", f"{time.time()}-{number}"))
    spawn = multiprocessing.get_context("spawn")
    ready, answer = spawn.Barrier(processes), spawn.Queue()
    children = [spawn.Process(target=worker, args=(url, f"w{number}", how, ready, answer)) for number in range(processes)]
    for child in children:
        child.start()
    answers = [answer.get(timeout=600) for _ in children]
    for child in children:
        child.join()
    database.close()
    total = sum(each[2] for each in answers)
    assert total == jobs, f"{total} claims of {jobs} jobs"
    return total / (max(each[1] for each in answers) - min(each[0] for each in answers)), max(each[3] for each in answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--save", action="store_true", help="keep the figures in benchmarks/results")
    options = parser.parse_args()
    rows, figures = [], {}
    for kind in ("SQLite", "PostgreSQL") if binaries() else ("SQLite",):
        for how in (CLAIMED, COMPLETED):
            rates, slowest = [], []
            for _ in range(options.runs):
                rate, longest = run(kind, options.jobs, options.processes, how)
                rates.append(rate)
                slowest.append(longest * 1000)
            rows.append([kind, how, spread(rates), spread(slowest)])
            figures[f"{kind} {how}"] = rates
            print(*rows[-1], sep="  ", flush=True)
    text = table(["database", f"{options.processes} processes, per job", "jobs/s", "longest claim, ms"], rows)
    verdicts = {kind: kills(kind, options.kills) for kind in dict.fromkeys(row[0] for row in rows)}
    text += "\n" + "".join(f"{kind}: {verdict}.\n" for kind, verdict in verdicts.items())
    if options.save:
        save("queue", {"jobs_per_second": figures, "kills": {kind: asdict(verdict) for kind, verdict in verdicts.items()}}, text)
    print(text)
    if not all(verdict.good for verdict in verdicts.values()):
        raise SystemExit("a job was lost or completed twice")


@contextmanager
def database_of(kind: str) -> Iterator[str]:
    """A new, durable database of a kind; its URL."""
    if kind == "PostgreSQL":
        with private_cluster(fsync="on", full_page_writes="on") as url:
            yield url
        return
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        yield f"sqlite:///{Path(folder) / 'index.sqlite'}"


def run(kind: str, jobs: int, processes: int, how: str) -> tuple[float, float]:
    with database_of(kind) as url:
        return measure(url, jobs=jobs, processes=processes, how=how)


def kills(kind: str, count: int) -> queue_kills.Verdict:
    with database_of(kind) as url:
        open_database(url, create=True).close()
        return queue_kills.campaign(url, count)


if __name__ == "__main__":
    main()
