"""What the child processes of the contract tests do. They are spawned: nothing of the parent's connections is shared."""

from __future__ import annotations

import signal
from typing import Any

from storage.completion import CompletionPolicy, complete_quiet
from storage.database import open_database
from storage.jobs import JobQueue


def claim_all(url: str, worker: str, start: Any, answer: Any) -> None:
    """Claim and complete jobs until none is due; answer with their keys."""
    database = open_database(url, busy_seconds=30)
    queue = JobQueue(database)
    claimed = []
    start.wait()
    while (job := queue.claim(["route", "deliver:*"], worker)) is not None:
        claimed.append(job.pk)
        with database.begin() as connection:
            queue.complete(connection, job)
    database.close()
    answer.put(claimed)


def claim_and_hang(url: str, claimed: Any) -> None:
    """Claim one job and never come back."""
    database = open_database(url)
    job = JobQueue(database, lease=0.0).claim(["route"], "doomed")
    assert job is not None
    transaction = database.begin()
    transaction.__enter__()  # killed in the middle of a transaction, too
    claimed.put(job.pk)
    while True:
        signal.pause()


def complete_all(url: str, now: float, policy: CompletionPolicy, start: Any, answer: Any) -> None:
    """Complete what is quiet; answer with the studies."""
    database = open_database(url, busy_seconds=30)
    start.wait()
    completed = complete_quiet(database, now, policy)
    database.close()
    answer.put([each.study_uid for each in completed])
