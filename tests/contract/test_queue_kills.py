"""The small version of the queue's campaign: workers killed at any moment."""

from __future__ import annotations

from benchmarks.campaigns import queue_kills


def test_no_job_completes_twice_or_is_lost_while_workers_are_killed(database_url: str) -> None:
    verdict = queue_kills.campaign(database_url, 4, processes=2)
    assert verdict.good, str(verdict)
    assert (verdict.kills, verdict.jobs) == (4, 40)
