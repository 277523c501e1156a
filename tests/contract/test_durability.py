"""What stands on the disk before anything is answered: the ingest writer's commits; what need not: a claim."""

from __future__ import annotations

from storage.database import Database


def test_the_ingest_writers_commits_are_durable_and_a_claims_need_not_be(database: Database) -> None:
    """SQLite in WAL mode survives a power cut with synchronous=FULL (2) only; a PostgreSQL whose default is off is overruled."""
    sqlite = database.dialect == "sqlite"
    question, durable, relaxed = ("PRAGMA synchronous", 2, 1) if sqlite else ("SHOW synchronous_commit", "on", "off")
    raw = database.raw()
    try:
        assert raw.execute(question).fetchone()[0] == durable
        if sqlite:
            assert raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    finally:
        raw.close()
    with database.single() as connection:
        assert connection.exec_driver_sql(question).scalar() == durable
    with database.single(durable=False) as connection:
        assert connection.exec_driver_sql(question).scalar() == relaxed
