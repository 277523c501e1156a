"""The history of releases beside their files (``history.jsonl``): what of it must outlive the index.

Every transition is a synced line before its row commits. An index that was rebuilt from the archive's bytes, and knows no release, takes
them from it: else a folder would silently stand in for what was deployed. Reports of evaluations are in backups only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import structlog
from sqlalchemy import Connection

from dicom_node.releases.files import INCOMING
from storage import appended, releases
from storage.copying import copy_file, sync_directory
from storage.database import Database
from storage.disk import Disk

log = structlog.get_logger()

HISTORY = "history.jsonl"


@contextmanager
def written_down(database: Database, root: Path) -> Iterator[Connection]:
    """A transaction whose transitions of releases are written down before it commits."""
    with database.begin() as connection:
        before = releases.newest_event(connection)
        yield connection
        lines = [asdict(each) for each in releases.history(connection, after=before)]
        root.mkdir(parents=True, exist_ok=True)
        appended.append(Disk(), root, HISTORY, lines)


def recall(database: Database, root: Path) -> int:
    """Give an index without releases those of the history; how many."""
    lines = list(appended.read(root, HISTORY))
    if not lines:
        return 0
    with database.begin() as connection:
        found = releases.restore(connection, lines)
    if found:
        log.warning("releases.recalled", count=found, root=str(root))
    return found


def copy_to(root: Path, target: Path) -> int:
    """Copy the releases of a node, for a backup or from one; how many. ``target`` is new or has none of them."""
    found = 0
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not folder.is_dir() or folder.name.startswith(INCOMING):
            continue
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            copy_file(path, target / path.relative_to(root))
            (target / path.relative_to(root)).chmod(0o444)
        found += 1
    if (root / HISTORY).exists():
        copy_file(root / HISTORY, target / HISTORY)
    if target.is_dir():
        for directory in (target, *(each for each in target.rglob("*") if each.is_dir())):
            sync_directory(directory)
    return found
