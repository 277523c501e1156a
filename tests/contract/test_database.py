"""Transactions, migrations and unavailability, the same on both databases."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import func, insert, select

from storage.database import Database, open_database
from storage.errors import IndexUnavailable
from storage.schema import archive_info


def keys(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(select(archive_info.c.key).order_by(archive_info.c.key)))


def test_a_transaction_is_kept_or_undone_as_a_whole(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(insert(archive_info).values(key="kept", value="1"))
    with pytest.raises(LookupError), database.begin() as connection:  # noqa: PT012
        connection.execute(insert(archive_info).values(key="undone", value="1"))
        raise LookupError
    assert keys(database) == ["kept"]


def test_a_read_sees_one_snapshot(database: Database) -> None:
    with database.read() as connection:
        count = select(func.count()).select_from(archive_info)
        assert connection.scalar(count) == 0
        with database.begin() as writer:
            writer.execute(insert(archive_info).values(key="later", value="1"))
        assert connection.scalar(count) == 0
    assert keys(database) == ["later"]


def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(IndexUnavailable, match="read-only"), database.read() as connection:
        connection.execute(insert(archive_info).values(key="x", value="1"))
    assert keys(database) == []


def test_an_empty_database_is_unavailable_until_it_is_upgraded(empty_database_url: str) -> None:
    database = open_database(empty_database_url)
    assert database.current() is None
    with pytest.raises(IndexUnavailable, match="no tables"):
        keys(database)
    database.upgrade()
    assert keys(database) == []
    database.close()


def test_two_upgrades_at_once_are_one(empty_database_url: str) -> None:
    databases = [open_database(empty_database_url) for _ in range(3)]
    threads = [threading.Thread(target=database.upgrade) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert databases[0].current() is not None
    for database in databases:
        database.close()


def test_a_raw_connection_says_begin_and_commit_itself(database: Database) -> None:
    raw = database.raw()
    try:
        database.begin_raw(raw)
        raw.execute("INSERT INTO archive_info (key, value) VALUES ('raw', '1')")
        assert keys(database) == []
        raw.execute("COMMIT")
        assert keys(database) == ["raw"]
    finally:
        raw.close()


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_transaction_waits_for_the_disk(database: Database, durable: bool) -> None:
    ask, answers = ("PRAGMA synchronous", (2, 1)) if database.dialect == "sqlite" else ("SHOW synchronous_commit", ("on", "off"))
    for _ in range(2):  # a pooled connection keeps nothing of the transaction before
        with database.begin(durable=durable) as connection:
            connection.execute(insert(archive_info).values(key=f"{_}", value="1"))
            assert connection.exec_driver_sql(ask).scalar() == answers[0 if durable else 1]
        with database.begin() as connection:
            assert connection.exec_driver_sql(ask).scalar() == answers[0]
    assert keys(database) == ["0", "1"]


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_a_postgresql_server_that_vanished_is_noticed_within_seconds(database: Database) -> None:
    raw = database.raw()
    with raw, database.begin() as connection:
        for driver in (raw, connection.connection.driver_connection):
            parameters = driver.info.get_parameters()
            silent = int(parameters["keepalives_idle"]) + int(parameters["keepalives_interval"]) * int(parameters["keepalives_count"])
            assert silent < 15
            assert 0 < int(parameters["tcp_user_timeout"]) < 15_000
            assert 0 < int(parameters["connect_timeout"]) < 15
            lock_timeout = driver.execute("SHOW lock_timeout").fetchone()[0]
            assert lock_timeout == "5s"
