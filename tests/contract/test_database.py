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
