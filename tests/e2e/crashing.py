"""A process that dies by kill -9 at one step of one operation on an archive, for test_crash_points."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, Identity, template
from benchmarks.load import Plan
from storage.archive import Archive, Outcome, Receipt, Source
from storage.database import open_database
from storage.disk import Buffer, Disk

STUDY = 6  # instances of the study that stands before


class DyingDisk(Disk):
    """The real disk, until its step number `last`: there the process kills itself, before or after the step, or half-way in a write."""

    def __init__(self, last: int, when: str) -> None:
        self.steps = 0
        self._last, self._when = last, when

    def _step(self, action: Callable[[], Any]) -> Any:
        self.steps += 1
        if self.steps == self._last and self._when == "before":
            die()
        result = action()
        if self.steps == self._last:
            die()
        return result

    def create(self, path: Path) -> int:
        return int(self._step(lambda: Disk.create(self, path)))

    def write(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        if self.steps + 1 == self._last and self._when == "half":
            data = b"".join(bytes(buffer) for buffer in buffers)
            super().write(descriptor, [data[: len(data) // 2]], offset)
            die()
        return int(self._step(lambda: Disk.write(self, descriptor, buffers, offset)))

    def allocate(self, descriptor: int, start: int, length: int, *, written: bool) -> None:
        self._step(lambda: Disk.allocate(self, descriptor, start, length, written=written))

    def zero(self, descriptor: int, start: int, length: int) -> None:
        self._step(lambda: Disk.zero(self, descriptor, start, length))

    def truncate(self, descriptor: int, size: int) -> None:
        self._step(lambda: Disk.truncate(self, descriptor, size))

    def sync(self, descriptor: int) -> None:
        self._step(lambda: Disk.sync(self, descriptor))

    def sync_directory(self, path: Path) -> None:
        self._step(lambda: Disk.sync_directory(self, path))

    def rename(self, source: Path, target: Path) -> None:
        self._step(lambda: Disk.rename(self, source, target))

    def unlink(self, path: Path) -> None:
        self._step(lambda: Disk.unlink(self, path))


def die() -> None:
    """End this process as a crash would."""
    os.kill(os.getpid(), signal.SIGKILL)


def open_archive(folder: Path, disk: Disk | None = None) -> Archive:
    database = open_database(f"sqlite:///{folder / 'index.sqlite'}")
    return Archive.open(folder / "archive", database, process="crashing", disk=disk or Disk())


def standing() -> list[Identity]:
    """Return the study that stands before every operation."""
    return list(Plan("small", studies=1, per_study=STUDY, seed=11).identities())


def arriving() -> list[Identity]:
    """Return what a further association sends."""
    return list(Plan("small", studies=1, per_study=3, seed=12).identities())


def store(archive: Archive, identities: Sequence[Identity], change: int = 0) -> list[Receipt]:
    """Store instances; `change` alters their last byte."""
    session = archive.session(Source(association_id=None, calling_ae="LOAD", called_ae="NODE", address="127.0.0.1", origin="received"))
    receipts = []
    for identity in identities:
        data = template(identity.kind).instance(identity)
        data = data[:-1] + bytes([data[-1] ^ change])
        writer = session.begin(
            sop_class_uid=CT_IMAGE_STORAGE, sop_instance_uid=identity.sop, transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN
        )
        writer.write([data])
        receipts.append(writer.commit())
    session.close()
    return receipts


def ingest(archive: Archive, told: Callable[[str], None]) -> None:
    for identity in arriving():
        assert store(archive, [identity])[0].outcome is Outcome.STORED
        told(identity.sop)


def duplicate(archive: Archive, told: Callable[[str], None]) -> None:
    for receipt in store(archive, standing()[:2]):
        assert receipt.outcome is Outcome.DUPLICATE


def conflict(archive: Archive, told: Callable[[str], None]) -> None:
    for receipt in store(archive, standing()[:2], change=1):
        assert receipt.outcome is Outcome.CONFLICT


def seal(archive: Archive, told: Callable[[str], None]) -> None:
    archive.seal_study(standing()[0].study)


def delete_instance(archive: Archive, told: Callable[[str], None]) -> None:
    archive.delete_instance(standing()[1].sop, who="test", reason="crash test")
    told("deleted")


def delete_study(archive: Archive, told: Callable[[str], None]) -> None:
    archive.delete_study(standing()[0].study, who="test", reason="crash test")
    told("deleted")


OPERATIONS: dict[str, Callable[[Archive, Callable[[str], None]], None]] = {
    "ingest": ingest,
    "duplicate": duplicate,
    "conflict": conflict,
    "seal": seal,
    "delete instance": delete_instance,
    "delete study": delete_study,
}


def run(folder: Path, operation: str, last: int, when: str) -> None:
    """Run one operation and die at its step `last`; what was told so far is appended to ``told``."""
    with (folder / "told").open("a", encoding="ascii", buffering=1) as told:
        archive = open_archive(folder, DyingDisk(last, when))
        OPERATIONS[operation](archive, lambda text: print(text, file=told, flush=True))
        archive.close()
