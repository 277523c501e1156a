"""Backup and restore: one consistent copy of the index, then the bytes that it names, while the node goes on working.

The order makes it consistent: the index is copied first, so every instance acknowledged before the backup began is in it, with bytes that
were durable before its row. Segments only grow or lose deleted members afterwards; the deletion journal is copied last, so a restore knows
which of the rows it holds have lost their bytes meanwhile. Compaction waits for a running backup.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from storage import journal, promises, schema, snapshot
from storage.copying import copy_file, sync_directory
from storage.database import open_database
from storage.deletion import apply_journal
from storage.errors import NotFound, StorageError
from storage.maintenance import shared_lock

if TYPE_CHECKING:
    from storage.archive import Archive

INDEX = "index.sqlite"
MANIFEST = "backup.json"
ARCHIVE_ID = "archive-id"
BLOCK = 512
TAR_END = bytes(2 * BLOCK)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BackupReport:
    """What a backup or a restore moved."""

    destination: str
    archive_id: str
    created_at: float
    instances: int
    segments: int
    size: int  # bytes of segments and quarantine
    missing: tuple[str, ...] = field(default=())  # files the index names and the disk has not (deleted meanwhile, or damage)
    seconds: float = 0.0


def backup(archive: Archive, destination: Path, *, link: bool = False, progress: Progress | None = None) -> BackupReport:
    """Write a backup of `archive` into the new or empty directory `destination`.

    With `link`, sealed segments are hard links where the file system allows it: quick and small, but a later deletion empties those
    bytes in the backup too, and a damaged disk takes both.

    Raises
    ------
    StorageError
        `destination` is not empty.
    """
    started = time.monotonic()
    created_at = archive.clock()
    _require_empty(destination)
    with shared_lock(archive.root):
        snapshot.snapshot(archive.database, destination / INDEX)
        wanted, instances = _wanted(destination / INDEX)
        copied, missing = _copy_all(archive.root, destination, wanted, link, progress)
        for name in (ARCHIVE_ID, journal.JOURNAL, promises.PROMISES):
            if (archive.root / name).exists():
                copy_file(archive.root / name, destination / name)
    archive_id = (destination / ARCHIVE_ID).read_text().strip()
    report = BackupReport(
        str(destination), archive_id, created_at, instances, len(copied), sum(copied.values()), tuple(missing), time.monotonic() - started
    )
    _write_manifest(destination, {**asdict(report), "files": copied})
    return report


def restore(source: Path, root: Path, url: str, *, progress: Progress | None = None) -> BackupReport:
    """Make an archive from a backup: the bytes into the new or empty directory `root`, the index into the empty database at `url`.

    The database may be of another kind than the one backed up. Instances deleted while the backup ran are gone after the restore too.

    Raises
    ------
    NotFound
        `source` is no complete backup.
    StorageError
        `root` or the database is not empty, or a file of the backup is shorter than its list says.
    """
    started = time.monotonic()
    manifest = _read_manifest(source)
    _require_empty(root)
    files: dict[str, int] = manifest["files"]
    for number, (name, size) in enumerate(files.items(), 1):
        if copy_file(source / name, root / name) != size:
            raise StorageError(f"{name} in the backup has not the {size} bytes that its list names")
        _report(progress, number, len(files))
    for name in (journal.JOURNAL, promises.PROMISES, ARCHIVE_ID):
        if (source / name).exists():
            copy_file(source / name, root / name)
    _sync_tree(root)
    with closing(open_database(url, create=True)) as database:
        snapshot.load(source / INDEX, database)
        deleted = apply_journal(root, database)
        with database.begin() as connection:
            promises.restore(connection, root)
    return BackupReport(
        str(root),
        manifest["archive_id"],
        manifest["created_at"],
        manifest["instances"] - deleted,
        len(files),
        sum(files.values()),
        tuple(manifest["missing"]),
        time.monotonic() - started,
    )


def _wanted(index: Path) -> tuple[list[tuple[str, int | None, bool]], int]:
    """Files the snapshot names: (name, bytes that matter or None for all, sealed), and how many instances there are."""
    ends = (
        select(schema.location.c.segment_pk, func.max(schema.location.c.offset + schema.location.c.length).label("end"))
        .group_by(schema.location.c.segment_pk)
        .subquery()
    )
    segments = select(schema.segment.c.name, schema.segment.c.state, ends.c.end).outerjoin(ends, ends.c.segment_pk == schema.segment.c.pk)
    held = select(schema.quarantine.c.name).where(schema.quarantine.c.state == "HELD").distinct()
    with snapshot.reading(index) as connection:
        files = [(name, None if state == "SEALED" else end or 0, state == "SEALED") for name, state, end in connection.execute(segments)]
        files += [(name, None, False) for (name,) in connection.execute(held)]
        instances = connection.execute(select(func.count()).select_from(schema.instance)).scalar_one()
    return files, instances


def _copy_all(
    root: Path, destination: Path, wanted: list[tuple[str, int | None, bool]], link: bool, progress: Progress | None
) -> tuple[dict[str, int], list[str]]:
    copied: dict[str, int] = {}
    missing: list[str] = []
    for number, (name, end, sealed) in enumerate(wanted, 1):
        try:
            copied[name] = _take(root / name, destination / name, end, link and sealed)
        except FileNotFoundError:
            missing.append(name)
        _report(progress, number, len(wanted))
    _sync_tree(destination)
    return copied, missing


def _take(source: Path, target: Path, end: int | None, link: bool) -> int:
    if link:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
            return target.stat().st_size
        except OSError:
            target.unlink(missing_ok=True)
    if end is None:
        return copy_file(source, target)
    # An open segment: what the index knows of it, closed as a tar file is closed.
    return copy_file(source, target, end, -end % BLOCK + len(TAR_END))


def _require_empty(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise StorageError(f"{directory} is not empty")


def _write_manifest(destination: Path, content: dict[str, Any]) -> None:
    path = destination / MANIFEST
    with path.open("x") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(destination)


def _read_manifest(source: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((source / MANIFEST).read_text())
    except (FileNotFoundError, ValueError) as error:
        raise NotFound(f"{source} holds no complete backup ({MANIFEST} is missing or broken)") from error
    return content


def _sync_tree(root: Path) -> None:
    for directory in {path.parent for path in root.rglob("*")} | {root}:
        sync_directory(directory)


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress:
        progress(done, total)
