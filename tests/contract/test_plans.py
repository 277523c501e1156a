"""The queries that run all the time use their indexes: the queue's past does not slow it down."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite

from storage.database import Database
from storage.jobs import _claim_statements
from storage.schema import delivery, job, run
from storage.statements import is_one_of

CLAIMS = {"at": 1.0, "until": 2.0, "token": "1.2", "by": "w"}


def plan(database: Database, statement: Any) -> str:
    expanded = statement.compile(dialect=sqlite.dialect(paramstyle="named")).construct_expanded_state(CLAIMS)
    with closing(database.raw()) as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {expanded.statement}", expanded.parameters)
        return "\n".join(str(row[-1]) for row in rows)


@pytest.fixture
def index(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    from storage.database import open_database

    path = tmp_path / "index.sqlite"
    path.write_bytes(request.getfixturevalue("sqlite_template"))
    opened = open_database(f"sqlite:///{path}")
    yield opened
    opened.close()


@pytest.mark.parametrize("queues", [("route",), ("route", "headers"), ("deliver:pacs",)])
def test_a_claim_reads_only_due_jobs(index: Database, queues: tuple[str, ...]) -> None:
    look, take = _claim_statements(queues, "sqlite")
    assert "ix_job_due" in plan(index, look)
    assert "ix_job_due" in plan(index, take)
    if len(queues) == 1:
        assert "TEMP B-TREE" not in plan(index, take), "one queue is read in the order of its index"


def test_a_prefix_reads_only_scheduled_jobs(index: Database) -> None:
    assert "ix_job_due" in plan(index, _claim_statements(("route", "deliver:*"), "sqlite")[1])


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        (job.select().where(is_one_of(job.c.state, "IN_PROGRESS"), job.c.lease_until < 1), "ix_job_lease"),
        (job.select().where(is_one_of(job.c.state, "FAILED")), "ix_job_failed"),
        (run.select().where(is_one_of(run.c.state, "SCHEDULED", "IN_PROGRESS")), "ix_run_waiting"),
        (delivery.select().where(is_one_of(delivery.c.state, "SCHEDULED")), "ix_delivery_waiting"),
    ],
)
def test_what_waits_is_found_without_reading_what_is_done(index: Database, statement: Any, name: str) -> None:
    assert name in plan(index, statement)
