"""The size of SQLite's write-ahead log.

A sync after a file grew also commits the file system's journal, and takes twice the time of one that only writes. The log grows with every
commit until its first checkpoint; after that its place is used again. So a writer gives it that size before the first commit.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import structlog

log = structlog.get_logger()

_FRAME_HEADER = 24  # bytes before each page, and 32 before the first (SQLite file format, 4.1 and 4.2)
_FILE_HEADER = 32
_PIECE = 1 << 20


def lengthen(connection: sqlite3.Connection, pages: int) -> None:
    """Fill the log up with zeros to the size that `pages` take; they end it as its end did.

    The caller holds no transaction. Under the write lock, taken here, nobody else appends. Where it cannot be done (locked, no space),
    commits are slower for a while, no more.
    """
    try:
        index = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()[0]
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute("BEGIN IMMEDIATE").close()
        try:
            _fill(Path(f"{index}-wal"), _FILE_HEADER + pages * (page_size + _FRAME_HEADER))
        finally:
            connection.execute("ROLLBACK").close()
    except (OSError, sqlite3.Error) as error:
        log.info("index.log_not_lengthened", kind=type(error).__name__)


def _fill(path: Path, size: int) -> None:
    # Appended wherever the end is: should this no longer be the log that is locked, nothing that stands in it is written over.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        before = at = os.fstat(descriptor).st_size
        try:
            while at < size:
                at += os.write(descriptor, bytes(min(_PIECE, size - at)))
            os.fsync(descriptor)
        except OSError:
            if os.fstat(descriptor).st_size == at:
                os.ftruncate(descriptor, before)  # the last of a disk's space is for what has to be written
            raise
    finally:
        os.close(descriptor)
