"""What storage refuses, and why. The application maps these to DIMSE statuses, HTTP codes and exit codes in one place.

    StorageError
    ├── NoSpace              the disk is full or below its watermark             (0xA700)
    ├── ReadOnly             the archive cannot be written                       (0xA700)
    ├── IndexUnavailable     the database is locked, away, full or read-only     (0xA700)
    │   └── IndexCollision   two transactions waited for each other: this one was rolled back, and may be tried again at once
    ├── DataSetMismatch      the data set is not what the command announced      (0xA900)
    ├── CannotUnderstand     the data set cannot be read                         (0xC000)
    ├── ArchiveMismatch      archive root and database do not belong together
    ├── Damaged              the bytes on disk do not match their digest
    ├── NotFound             no such study, series, instance, job, ...
    ├── StaleToken           another worker has taken the job since              (roll back)
    ├── QuarantineConflict   the quarantined instance cannot be resolved this way
    ├── ReleaseConflict      the release is not in a state from which that leads on
    └── WorkitemRefused      the workitem is not in a state for that, or the request is none: carries the DIMSE status
"""

from __future__ import annotations


class StorageError(Exception):
    """Base of everything that storage raises on purpose. ``comment`` fits an Error Comment (64 characters) and names no patient."""

    def __init__(self, message: str = "", *, comment: str | None = None) -> None:
        super().__init__(message)
        self.comment = (comment if comment is not None else message)[:64]


class NoSpace(StorageError): ...


class ReadOnly(StorageError): ...


class IndexUnavailable(StorageError): ...


class IndexCollision(IndexUnavailable): ...


class DataSetMismatch(StorageError): ...


class CannotUnderstand(StorageError): ...


class ArchiveMismatch(StorageError): ...


class Damaged(StorageError): ...


class NotFound(StorageError): ...


class StaleToken(StorageError): ...


class QuarantineConflict(StorageError): ...


class ReleaseConflict(StorageError): ...


class WorkitemRefused(StorageError):
    """What a workitem does not allow; ``status`` is that of PS3.4 annex CC, and stands for itself on the wire."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
