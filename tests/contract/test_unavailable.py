"""An index that cannot be used says so in one way, and is used again as soon as it can be."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, insert, select

from storage.database import Database, open_database
from storage.errors import IndexUnavailable
from storage.jobs import JobQueue, JobSpec
from storage.schema import archive_info
from tests.postgresql import private_cluster


def write(database: Database, key: str) -> None:
    with database.begin() as connection:
        connection.execute(insert(archive_info).values(key=key, value="1"))


def keys(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.scalars(select(archive_info.c.key)))


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    path = tmp_path / "index.sqlite"
    open_database(f"sqlite:///{path}", create=True).close()
    return path


def test_a_lock_is_waited_for_and_then_named(sqlite_file: Path) -> None:
    database = open_database(f"sqlite:///{sqlite_file}", busy_seconds=0.05)
    other = sqlite3.connect(sqlite_file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(IndexUnavailable, match="locked"):
        write(database, "a")
    assert keys(database) == set()
    with pytest.raises(IndexUnavailable, match="locked"):
        write(database, "b")
    other.execute("ROLLBACK")
    write(database, "a")
    assert keys(database) == {"a"}
    other.close()
    database.close()


def test_a_removed_file_is_noticed_and_a_returned_one_used(sqlite_file: Path) -> None:
    database = open_database(f"sqlite:///{sqlite_file}")
    write(database, "a")
    away = sqlite_file.with_suffix(".away")
    os.rename(sqlite_file, away)
    for use in (keys, lambda database: write(database, "b")):
        with pytest.raises(IndexUnavailable, match=r"gone|cannot be opened"):
            use(database)
    assert not sqlite_file.exists()
    os.rename(away, sqlite_file)
    write(database, "c")
    assert keys(database) == {"a", "c"}
    database.close()


def test_a_replaced_file_is_not_written_behind_its_back(sqlite_file: Path, tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{sqlite_file}")
    write(database, "old")
    other = tmp_path / "other.sqlite"
    open_database(f"sqlite:///{other}", create=True).close()
    for suffix in ("-wal", "-shm"):
        Path(f"{sqlite_file}{suffix}").unlink(missing_ok=True)
    os.replace(other, sqlite_file)
    write(database, "new")
    assert keys(database) == {"new"}
    database.close()


def test_a_raw_connection_knows_whether_its_file_is_still_the_index(sqlite_file: Path) -> None:
    database = open_database(f"sqlite:///{sqlite_file}")
    raw = database.raw()
    assert database.is_current(raw)
    away = sqlite_file.with_suffix(".away")
    os.rename(sqlite_file, away)
    assert not database.is_current(raw)
    os.rename(away, sqlite_file)
    assert database.is_current(raw)
    raw.close()


def test_an_absent_file_is_not_made_by_accident(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/absent.sqlite")
    with pytest.raises(IndexUnavailable):
        keys(database)
    with pytest.raises(IndexUnavailable):
        database.raw()
    assert list(tmp_path.iterdir()) == []


def test_a_new_index_is_readable_by_its_owner_only(sqlite_file: Path) -> None:
    database = open_database(f"sqlite:///{sqlite_file}")
    write(database, "a")
    assert {path.stat().st_mode & 0o777 for path in sqlite_file.parent.glob("index.sqlite*")} == {0o600}
    database.close()


def test_a_place_where_no_index_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IndexUnavailable, match="cannot be made"):
        open_database(f"sqlite:///{tmp_path}/file/index.sqlite", create=True)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"no database at all " * 100)
    with pytest.raises(IndexUnavailable, match="no database"):
        keys(open_database(f"sqlite:///{tmp_path}/x.sqlite"))


def test_a_full_database(sqlite_file: Path) -> None:
    database = open_database(f"sqlite:///{sqlite_file}")
    with pytest.raises(IndexUnavailable, match="no space"):  # noqa: PT012
        with database.begin() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            connection.execute(insert(archive_info).values(key="x", value="y" * 1_000_000))
    database.close()
    write(database, "a")
    assert keys(database) == {"a"}
    database.close()


def test_a_url_that_cannot_work_is_refused() -> None:
    for url in ("mysql://x/y", "sqlite://", "sqlite:///:memory:"):
        with pytest.raises(ValueError, match="database url"):
            open_database(url)


def test_more_threads_than_connections_are_refused_not_hung(sqlite_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.database.POOL_SIZE", 1)
    monkeypatch.setattr("storage.database.POOL_OVERFLOW", 0)
    database = open_database(f"sqlite:///{sqlite_file}", busy_seconds=0.05)
    with database.read(), pytest.raises(IndexUnavailable, match="busy"):
        keys(database)
    database.close()


def end_connections(admin: Engine) -> None:
    """End every other connection as a restart of the server does, and wait until the server has ended them."""
    ended = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
    with admin.connect() as connection:
        assert all(connection.exec_driver_sql(ended).scalars())


@pytest.mark.postgresql
def test_a_server_that_is_away_and_comes_back(tmp_path: Path) -> None:
    with pytest.raises(IndexUnavailable):
        keys(open_database(f"postgresql://nobody@/x?host={tmp_path}"))
    with private_cluster() as url:
        database = open_database(url, create=True)
        write(database, "a")
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        end_connections(admin)
        assert keys(database) == {"a"}
        with pytest.raises(IndexUnavailable):  # noqa: PT012
            with database.begin() as broken:
                end_connections(admin)
                broken.execute(insert(archive_info).values(key="lost", value="1"))
        admin.dispose()
        with database.begin() as connection:
            assert JobQueue(database).enqueue(connection, JobSpec("route", "route", "k")) is not None
        assert keys(database) == {"a"}
    with pytest.raises(IndexUnavailable):
        write(database, "b")
    database.close()


@pytest.mark.postgresql
def test_a_row_lock_is_waited_for_and_then_named() -> None:
    with private_cluster() as url:
        holder = open_database(url, create=True)
        write(holder, "a")
        database = open_database(url, busy_seconds=0.05)
        change = archive_info.update().values(value="2")
        with holder.begin() as connection:
            connection.execute(change)
            with pytest.raises(IndexUnavailable, match="locked"):
                with database.begin() as waiting:
                    waiting.execute(change)
        with database.begin() as connection:
            connection.execute(change)
        holder.close()
        database.close()
