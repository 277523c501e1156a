"""The index on each kind of database: ``database`` runs a test once on SQLite and once on PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from storage.database import Database, open_database
from tests.postgresql import private_cluster

DIALECTS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[str]:
    """The URL of a private cluster; its database ``migrated`` is the template of every test's own."""
    with private_cluster() as url:
        _command(url, "CREATE DATABASE migrated")
        database = open_database(url.replace("/postgres?", "/migrated?"), create=True)
        database.close()
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("template") / "index.sqlite"
    open_database(f"sqlite:///{path}", create=True).close()
    return path.read_bytes()


def _command(url: str, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def _postgresql(cluster: str, *, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    _command(cluster, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield cluster.replace("/postgres?", f"/{name}?")
    _command(cluster, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=DIALECTS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of the test's own, at the newest revision."""
    if request.param == "sqlite":
        path = tmp_path / "index.sqlite"
        path.write_bytes(request.getfixturevalue("sqlite_template"))
        yield f"sqlite:///{path}"
    else:
        yield from _postgresql(request.getfixturevalue("postgresql_cluster"), template="migrated")


@pytest.fixture(params=DIALECTS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of the test's own, without tables."""
    if request.param == "sqlite":
        path = tmp_path / "empty.sqlite"
        path.touch()
        yield f"sqlite:///{path}"
    else:
        yield from _postgresql(request.getfixturevalue("postgresql_cluster"), template="template0")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()
