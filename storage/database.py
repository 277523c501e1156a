"""The index database: SQLite by default, PostgreSQL by URL, the same transactions on both.

Every transaction of the index runs inside :meth:`Database.begin` or :meth:`Database.read`. Whatever the driver says when the database
cannot be used (locked beyond the bound, refused, gone, read-only, full) leaves here as
:class:`~storage.errors.IndexUnavailable`; the next transaction opens new connections, so service resumes by itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from storage.errors import IndexCollision, IndexUnavailable

BUSY_SECONDS = 5.0  # how long a transaction waits for another writer
CONNECT_SECONDS = 5
POOL_SIZE = 8
POOL_OVERFLOW = 120
_PAUSE = 0.0005, 0.004  # between two attempts at SQLite's write lock; its own busy handler sleeps up to 100 ms


def open_database(url: str, *, create: bool = False, busy_seconds: float = BUSY_SECONDS) -> Database:
    """Open the index at ``url`` (``sqlite:///path`` or ``postgresql://...``).

    Nothing is connected until the first transaction, so a node starts while its database is away. With ``create`` the SQLite file is
    made where it is absent (otherwise an absent file is an unavailable index) and the tables are brought to the newest revision.
    """
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        database: Database = _Sqlite(parsed, busy_seconds=busy_seconds, create=create)
    elif backend == "postgresql":
        database = _Postgresql(parsed.set(drivername="postgresql+psycopg"), busy_seconds=busy_seconds)
    else:
        raise ValueError(f"database url: {backend!r} is not supported; use sqlite:///PATH or postgresql://HOST/NAME")
    if create:
        database.upgrade()
    return database


class Database:
    """One index database, shared by all threads of a process. Made by :func:`open_database`."""

    dialect: str

    def __init__(self, url: URL, engine: Engine, reader: Engine, relaxed: Engine) -> None:
        self.url = url
        self.engine = engine
        self._reader = reader
        self._relaxed = relaxed

    @contextmanager
    def begin(self, *, durable: bool = True) -> Iterator[Connection]:
        """Run a write transaction: committed at the end of the block, rolled back when it raises.

        On SQLite it starts with BEGIN IMMEDIATE after a bounded wait for other writers. Don't nest it: two write transactions of one
        thread would wait for each other. One that is not `durable` is synced with the next that is, whoever commits that: both
        databases keep transactions in order, so nothing durable can stand on a transaction that was lost.

        Raises
        ------
        IndexUnavailable
            The database cannot be reached, is locked beyond the bound, read-only or full. Nothing was written.
        """
        with translated(), (self.engine if durable else self._relaxed).begin() as connection:
            yield connection

    @contextmanager
    def single(self, *, durable: bool = True) -> Iterator[Connection]:
        """Like :meth:`begin`, for one statement: on PostgreSQL it commits itself, which saves the two round trips around it."""
        with self.begin(durable=durable) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Run read-only queries that all see one snapshot."""
        with translated(), self._reader.begin() as connection:
            yield connection

    def raw(self) -> Any:
        """Open a DBAPI connection of its own, outside the pool, for the ingest writer: autocommit, so that it says BEGIN and COMMIT itself.

        It may be used by any thread, one at a time. The caller closes it. What it raises is the driver's: use :func:`translated`.
        """
        raise NotImplementedError

    def begin_raw(self, raw: Any) -> None:
        """Say BEGIN on a connection of :meth:`raw`: for writing, after the same bounded wait as :meth:`begin`."""
        raw.execute("BEGIN")

    def is_current(self, raw: Any) -> bool:
        """Tell whether a connection of :meth:`raw` still leads to the index: not to a file that was removed or replaced meanwhile."""
        raise NotImplementedError

    def upgrade(self, revision: str = "head") -> None:
        """Bring the tables to a schema revision, in one transaction; safe when several processes do it at once."""
        from storage import migrations

        with translated(), self._migrating() as connection:
            migrations.upgrade(connection, revision)

    def current(self) -> str | None:
        """Name the schema revision of the tables; None for an empty database."""
        from storage import migrations

        with self.read() as connection:
            return migrations.current(connection)

    def _migrating(self) -> AbstractContextManager[Connection]:
        raise NotImplementedError

    def close(self) -> None:
        """Close the pooled connections; the next transaction would open new ones."""
        self.engine.dispose()
        self._relaxed.dispose()
        self._reader.dispose()


class _RawConnection(sqlite3.Connection):
    file: tuple[int, int]  # device and inode that it was opened on


class _Sqlite(Database):
    dialect = "sqlite"

    def __init__(self, url: URL, *, busy_seconds: float, create: bool) -> None:
        if not url.database or url.database == ":memory:":
            raise ValueError("database url: the index must be a file, sqlite:///PATH")
        self.path = Path(url.database).absolute()
        self._busy_seconds = busy_seconds
        if create:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # It holds patients' names; -wal and -shm take its mode. One that exists is left alone: closing it would give up the
                # locks that this process's other connections hold on it (POSIX), and another process would take the log from under them.
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            except OSError as error:
                raise IndexUnavailable(f"index file cannot be made: {error.strerror}") from error
        relaxed = self._engine("IMMEDIATE", "PRAGMA synchronous = NORMAL")
        super().__init__(url, self._engine("IMMEDIATE"), self._engine("DEFERRED", "PRAGMA query_only = ON"), relaxed)

    def _engine(self, begin: str, *pragmas: str) -> Engine:
        engine = create_engine(
            "sqlite://",
            creator=lambda: self._connect(*pragmas),
            poolclass=QueuePool,
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=self._busy_seconds,
        )
        event.listen(engine, "connect", self._remember_file)
        event.listen(engine, "checkout", self._check_file)
        event.listen(engine, "begin", lambda connection: self._begin(connection, begin))
        return engine

    def _connect(self, *pragmas: str) -> _RawConnection:
        # isolation_level None on every Python: the driver starts no transaction of its own, and we say BEGIN.
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
            factory=_RawConnection,
        )
        try:
            for pragma in (
                "PRAGMA journal_mode = WAL",
                "PRAGMA synchronous = FULL",
                "PRAGMA foreign_keys = ON",
                "PRAGMA case_sensitive_like = ON",
                *pragmas,
            ):
                connection.execute(pragma).close()
        except BaseException:
            connection.close()
            raise
        return connection

    def _identity(self) -> tuple[int, int]:
        try:
            status = self.path.stat()
        except OSError as error:
            raise IndexUnavailable("index file is gone") from error
        return status.st_dev, status.st_ino

    def _remember_file(self, connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        entry.info["file"] = self._identity()

    def _check_file(self, connection: sqlite3.Connection, entry: ConnectionPoolEntry, proxy: object) -> None:
        # A connection to a file that was removed or replaced would go on writing to bytes nobody can find again.
        if entry.info["file"] != self._identity():
            raise DisconnectionError("index file was replaced")

    def _begin(self, connection: Connection, mode: str) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        if mode == "IMMEDIATE":
            _begin_immediate(driver, self._busy_seconds)
        else:
            driver.execute("BEGIN").close()

    def raw(self) -> sqlite3.Connection:
        with translated():
            connection = self._connect("PRAGMA busy_timeout = 0")  # begin_raw waits by itself; once it has begun nothing is busy
            connection.file = self._identity()
            return connection

    def begin_raw(self, raw: sqlite3.Connection) -> None:
        _poll_begin(raw, self._busy_seconds)

    def is_current(self, raw: _RawConnection) -> bool:
        try:
            return raw.file == self._identity()
        except IndexUnavailable:
            return False

    @contextmanager
    def _migrating(self) -> Iterator[Connection]:
        # A table rebuilt by a migration is dropped on the way: with foreign keys on, that would delete the rows that refer to it.
        with self.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute("PRAGMA foreign_keys = OFF").close()
            try:
                with connection.begin():
                    yield connection
                    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                    if broken is not None:
                        raise RuntimeError(f"migration left a broken reference in table {broken[0]}")
            finally:
                driver.execute("PRAGMA foreign_keys = ON").close()


class _Postgresql(Database):
    dialect = "postgresql"
    _ADVISORY_LOCK = 0x6469636F  # "dico"

    def __init__(self, url: URL, *, busy_seconds: float) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise ImportError("PostgreSQL needs psycopg: pip install 'dicom-node[postgresql]'") from error
        self._psycopg = psycopg
        self._arguments = {
            "connect_timeout": CONNECT_SECONDS,
            # A server that vanished without a word is noticed while the sender still waits for its answer.
            "keepalives_idle": CONNECT_SECONDS,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 2000 * CONNECT_SECONDS,
            "options": f"-c lock_timeout={int(busy_seconds * 1000)} -c synchronous_commit=on {url.query.get('options', '')}".rstrip(),
        }
        self._busy_seconds = busy_seconds
        engine = self._engine(url, self._arguments)
        reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        relaxed = self._engine(url, {**self._arguments, "options": f"{self._arguments['options']} -c synchronous_commit=off"})
        self._singles = {True: engine.execution_options(isolation_level="AUTOCOMMIT")}
        self._singles[False] = relaxed.execution_options(isolation_level="AUTOCOMMIT")
        super().__init__(url, engine, reader, relaxed)

    def _engine(self, url: URL, arguments: dict[str, Any]) -> Engine:
        engine = create_engine(
            url,
            connect_args=arguments,
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=self._busy_seconds,
        )
        event.listen(engine, "checkout", self._check_alive)
        return engine

    @staticmethod
    def _check_alive(connection: Any, entry: ConnectionPoolEntry, proxy: object) -> None:
        # All that a server says to an idle connection is its farewell. Asking it costs a round trip for every transaction.
        listener = select.poll()
        listener.register(connection.fileno(), select.POLLIN)
        if listener.poll(0):
            raise DisconnectionError("index database has closed the connection")

    @contextmanager
    def single(self, *, durable: bool = True) -> Iterator[Connection]:
        with translated(), self._singles[durable].begin() as connection:
            yield connection

    def raw(self) -> Any:
        plain = self.url.set(drivername="postgresql").difference_update_query(["options"])
        with translated():
            try:
                return self._psycopg.connect(plain.render_as_string(hide_password=False), autocommit=True, **self._arguments)  # type: ignore[arg-type]
            except self._psycopg.Error as error:
                raise IndexUnavailable("index database cannot be reached") from error

    def is_current(self, raw: Any) -> bool:
        return not raw.closed

    @contextmanager
    def _migrating(self) -> Iterator[Connection]:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({self._ADVISORY_LOCK})")
            yield connection


def _begin_immediate(connection: sqlite3.Connection, bound: float) -> None:
    connection.execute("PRAGMA busy_timeout = 0").close()
    try:
        _poll_begin(connection, bound)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(bound * 1000)}").close()


def _poll_begin(connection: sqlite3.Connection, bound: float) -> None:
    deadline = time.monotonic() + bound
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE").close()
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(*_PAUSE))


def _is_busy(error: sqlite3.Error) -> bool:
    return (error.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what a driver or the pool says inside the block into IndexUnavailable, where it means that; anything else passes."""
    try:
        yield
    except sqlite3.Error as error:
        reason = _why_unavailable(error)
        if reason is None:
            raise
        raise IndexUnavailable(reason) from error
    except PoolTimeout as error:
        raise IndexUnavailable("all index connections are busy") from error
    except DBAPIError as error:
        reason = _why_unavailable(error.orig)
        if error.connection_invalidated:
            reason = "connection to the index was lost"
        if reason is None:
            raise
        raise _unavailable(error.orig, reason) from error
    except (DisconnectionError, PendingRollbackError) as error:
        raise IndexUnavailable("connection to the index was lost") from error
    except Exception as error:
        # A raw PostgreSQL connection raises the driver's own errors; the driver is optional, so its classes are not named.
        reason = _why_unavailable(error) if type(error).__module__.startswith("psycopg") else None
        if reason is None:
            raise
        raise _unavailable(error, reason) from error


_SQLITE_REASONS = {
    sqlite3.SQLITE_BUSY: "index is locked by another process",
    sqlite3.SQLITE_LOCKED: "index is locked by another process",
    sqlite3.SQLITE_CANTOPEN: "index file cannot be opened",
    sqlite3.SQLITE_READONLY: "index file is read-only",
    sqlite3.SQLITE_FULL: "no space left for the index",
    sqlite3.SQLITE_IOERR: "index file cannot be read or written",
    sqlite3.SQLITE_CORRUPT: "index file is damaged",
    sqlite3.SQLITE_NOTADB: "index file is no database",
    sqlite3.SQLITE_PERM: "index file may not be opened",
    sqlite3.SQLITE_PROTOCOL: "index is locked by another process",
}
# Classes of SQLSTATE (PostgreSQL, appendix A): the server or a resource is away, not the statement wrong.
_POSTGRESQL_REASONS = {
    "08": "connection to the index was lost",
    "25": "index is read-only",
    "28": "index refuses the login",
    "3D": "index database does not exist",
    "40": "index transaction collided with another",
    "53": "index database is out of resources",
    "55": "index is locked by another process",
    "57": "index database is shutting down",
    "58": "index database has a system error",
}


def _unavailable(error: BaseException | None, reason: str) -> IndexUnavailable:
    collided = getattr(error, "sqlstate", None) in ("40001", "40P01")  # serialization failure, deadlock: all is rolled back
    return IndexCollision(reason) if collided else IndexUnavailable(reason)


def _why_unavailable(error: BaseException | None) -> str | None:
    if isinstance(error, sqlite3.Error):
        if "no such table" in str(error):
            return "index has no tables"
        return _SQLITE_REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    state = getattr(error, "sqlstate", None)
    if state == "42P01":
        return "index has no tables"
    if state is not None:
        return _POSTGRESQL_REASONS.get(state[:2])
    return "index database cannot be reached" if type(error).__name__ in ("OperationalError", "InterfaceError") else None
