"""Import of Part 10 files from folders: stored as received, never completing, running or delivering anything.

The data set's bytes are taken as they are; preamble and file meta are written anew, so nothing a file carries before its data set survives.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import structlog

from storage.archive import Archive, IngestSession, Receipt, Source
from storage.errors import IndexUnavailable, NoSpace, ReadOnly, StorageError
from storage.part10 import NotDicom, read_part10_header

log = structlog.get_logger()

CHUNK = 1024 * 1024
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"

SKIPPED = "SKIPPED"
REFUSED = "REFUSED"
UNREADABLE = "UNREADABLE"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImportedFile:
    """What became of one file: a `storage.archive.Outcome` by name, SKIPPED (no DICOM), REFUSED or UNREADABLE."""

    path: str
    outcome: str
    sop_uid: str = ""
    study_uid: str = ""
    detail: str = ""


@dataclass(frozen=True)
class ImportReport:
    """Counts by outcome, the studies that got something, and each file with what became of it."""

    files: tuple[ImportedFile, ...]
    outcomes: dict[str, int] = field(default_factory=dict)
    study_uids: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """How many files are not in the archive although they seem to be DICOM."""
        return sum(count for name, count in self.outcomes.items() if name in (REFUSED, UNREADABLE, "CONFLICT", "QUARANTINED"))


def import_files(archive: Archive, paths: Sequence[Path], *, progress: Progress | None = None) -> ImportReport:
    """Store every DICOM file among `paths`; folders are walked, links inside them are not followed.

    Raises
    ------
    NoSpace, ReadOnly, IndexUnavailable
        The archive cannot take anything at present. What was imported before stays; importing again passes over it as duplicates.
    """
    files = list(_walk(paths))
    results: list[ImportedFile] = []
    session = archive.session(Source(association_id=None, calling_ae="", called_ae="", address="import", origin="imported"))
    try:
        for number, path in enumerate(files, 1):
            results.append(_import_file(session, path))
            if progress:
                progress(number, len(files))
    finally:
        session.close()
    report = _report(results)
    log.info("archive.imported", **report.outcomes)
    return report


def _walk(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, names, files in os.walk(path):
            names.sort()
            yield from (Path(folder) / name for name in sorted(files))


def _import_file(session: IngestSession, path: Path) -> ImportedFile:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ImportedFile(str(path), SKIPPED, detail="no regular file")
        with path.open("rb") as file:
            receipt = _store(session, file)
    except NotDicom as error:
        return ImportedFile(str(path), SKIPPED, detail=str(error))
    except (NoSpace, ReadOnly, IndexUnavailable):
        raise
    except StorageError as error:
        return ImportedFile(str(path), REFUSED, detail=error.comment)
    except OSError as error:
        return ImportedFile(str(path), UNREADABLE, detail=error.strerror or "")
    return ImportedFile(str(path), receipt.outcome.name, receipt.sop_uid, receipt.study_uid, receipt.detail)


def _store(session: IngestSession, file: BinaryIO) -> Receipt:
    header = read_part10_header(file)
    if header.sop_class_uid == DICOMDIR_CLASS:
        raise NotDicom("a DICOMDIR")
    writer = session.begin(
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        binding=False,
    )
    try:
        while chunk := file.read(CHUNK):
            writer.write([chunk])
    except BaseException:
        writer.abandon()
        raise
    return writer.commit()


def _report(results: list[ImportedFile]) -> ImportReport:
    outcomes = Counter(result.outcome for result in results)
    studies = dict.fromkeys(result.study_uid for result in results if result.study_uid)
    return ImportReport(tuple(results), dict(sorted(outcomes.items())), tuple(studies))
