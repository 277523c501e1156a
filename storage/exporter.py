"""Export to plain Part 10 files: ``<directory>/<study>/<series>/<instance>.dcm``, named by UIDs and never by patient."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from storage.archive import Archive, StoredInstance
from storage.copying import copy_range, sync_directory
from storage.errors import StorageError
from storage.members import safe_name

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote. `failed` names the instances whose bytes could not be read, with the reason."""

    directory: str
    studies: int
    instances: int
    size: int
    failed: tuple[tuple[str, str], ...] = ()


def export(archive: Archive, directory: Path, study_uids: Sequence[str], *, progress: Progress | None = None) -> ExportReport:
    """Write every instance of the studies below `directory`, each file complete or absent; an existing file is replaced."""
    wanted = [instance for uid in study_uids for instance in archive.instances(uid)]
    size, failed = 0, []
    for number, instance in enumerate(wanted, 1):
        try:
            size += _write(instance, directory)
        except (StorageError, OSError) as error:
            failed.append((instance.sop_uid, str(error)))
        if progress:
            progress(number, len(wanted))
    _sync(directory)
    return ExportReport(str(directory), len(set(study_uids)), len(wanted) - len(failed), size, tuple(failed))


def _write(instance: StoredInstance, directory: Path) -> int:
    folder = directory / safe_name(instance.study_uid) / safe_name(instance.series_uid)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{safe_name(instance.sop_uid)}.dcm"
    partial = target.with_suffix(".partial")
    try:
        with instance.path.open("rb") as segment, partial.open("wb") as file:
            copied = copy_range(segment.fileno(), instance.offset, instance.length, file.fileno())
            if copied != instance.length:
                raise StorageError("the segment ends before the instance does")
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            partial.unlink()
        raise
    return copied


def _sync(directory: Path) -> None:
    if not directory.exists():
        return
    for path in (directory, *(entry for entry in directory.glob("*/") if entry.is_dir()), *directory.glob("*/*/")):
        sync_directory(path)
