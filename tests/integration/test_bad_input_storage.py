"""A full or read-only disk, a locked or absent database, a missing archive: the receiver answers in time and resumes by itself."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from benchmarks.campaigns.check import check
from benchmarks.instances import Identity, new_uid, template
from benchmarks.load import Wire
from storage.archive import Archive, ArchiveSettings
from storage.database import open_database
from storage.disk import Buffer, Disk
from storage.errors import ArchiveMismatch, NoSpace, ReadOnly
from tests.receiving import Receiving, index_url, receiving

OUT_OF_RESOURCES = 0xA700
DEADLINE = 10.0
ANY_SPACE = ArchiveSettings(min_free=0)


class FailingDisk(Disk):
    """The real disk, which fails while `error` is set; ``after`` lets so many more bytes through first."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.after = 0

    def _fail(self, length: int = 0) -> None:
        if self.error is not None and self.after < length + 1:
            raise self.error
        self.after -= length

    def create(self, path: Path) -> int:
        self._fail()
        return super().create(path)

    def write(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        self._fail(sum(map(len, buffers)))
        return super().write(descriptor, buffers, offset)

    def allocate(self, descriptor: int, start: int, length: int, *, written: bool) -> None:
        self._fail()
        super().allocate(descriptor, start, length, written=written)

    def sync(self, descriptor: int) -> None:
        if isinstance(self.error, ReadOnly):
            raise self.error
        super().sync(descriptor)


def identity(kind: str = "small") -> Identity:
    source = random.Random()
    return Identity(kind, new_uid(source), new_uid(source), new_uid(source), 1)


def store(port: int, one: Identity) -> tuple[int, str, float]:
    """Send one instance; return status, comment and seconds."""
    began = time.monotonic()
    with Wire("127.0.0.1", port, timeout=DEADLINE + 5) as wire:
        status, comment = wire.store(template(one.kind).instance(one), sop_instance=one.sop)
    return status, comment, time.monotonic() - began


def refused_then_resumed(node: Receiving, broken: Iterator[None] | object) -> None:
    """Inside `broken` an instance is answered 0xA700 in time; after it the same instance is taken; nothing acknowledged is lost."""
    before = identity()
    assert store(node.port, before)[0] == 0
    late = identity()
    with broken:  # type: ignore[attr-defined]
        for kind in ("small", "ct"):
            status, comment, seconds = store(node.port, identity(kind))
            assert status == OUT_OF_RESOURCES, f"{status:04X} {comment}"
            assert comment
            assert seconds < DEADLINE
        status, _, _ = store(node.port, late)
        assert status == OUT_OF_RESOURCES
    for one in (late, identity("ct")):
        status, comment, _ = store(node.port, one)
        assert status == 0, f"{status:04X} {comment}"
    verdict = check(node.index, node.root, [before, late])
    assert verdict.good, verdict


@pytest.mark.parametrize("error", [NoSpace("no space left"), ReadOnly("archive cannot be written")], ids=["full", "read-only"])
@pytest.mark.parametrize("after", [0, 3000])
def test_a_disk_that_fails(tmp_path: Path, error: Exception, after: int) -> None:
    disk = FailingDisk()

    @contextmanager
    def broken() -> Iterator[None]:
        disk.error, disk.after = error, after
        yield
        disk.error = None

    with receiving(tmp_path, disk=disk) as node:
        refused_then_resumed(node, broken())


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system of its own; skipped visibly where none can be mounted."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.root
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with mounted(tmp_path / "small") as place, receiving(tmp_path, root=place / "archive", settings=ANY_SPACE) as node:

        @contextmanager
        def full() -> Iterator[None]:
            filler = place / "filler"
            with filler.open("wb") as file:
                free = shutil.disk_usage(place).free
                file.write(bytes(free))
            yield
            filler.unlink()

        refused_then_resumed(node, full())


def test_below_the_watermark_nothing_is_written(tmp_path: Path) -> None:
    with receiving(tmp_path, settings=ArchiveSettings(min_free=1 << 60)) as node:
        status, comment, _ = store(node.port, identity())
        assert status == OUT_OF_RESOURCES
        assert comment
        assert not list(node.root.rglob("*.tar"))


def test_a_locked_database(tmp_path: Path) -> None:
    @contextmanager
    def locked() -> Iterator[None]:
        with closing(sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    with receiving(tmp_path, busy_seconds=0.5) as node:
        refused_then_resumed(node, locked())


def test_an_absent_database(tmp_path: Path) -> None:
    @contextmanager
    def absent() -> Iterator[None]:
        files = list(tmp_path.glob("index.sqlite*"))
        for path in files:
            path.rename(path.with_name("away-" + path.name))
        yield
        for path in files:
            path.with_name("away-" + path.name).rename(path)

    with receiving(tmp_path, busy_seconds=0.5) as node:
        refused_then_resumed(node, absent())


def test_an_archive_whose_mount_is_missing_is_no_empty_archive(tmp_path: Path) -> None:
    with receiving(tmp_path) as node:
        assert store(node.port, identity())[0] == 0
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    (tmp_path / "archive").mkdir()
    database = open_database(index_url(tmp_path))
    try:
        with pytest.raises(ArchiveMismatch, match="archive"):
            Archive.open(tmp_path / "archive", database, process="receiver")
    finally:
        database.close()


def test_an_archive_that_goes_away_while_receiving(tmp_path: Path) -> None:
    @contextmanager
    def away() -> Iterator[None]:
        (tmp_path / "archive").rename(tmp_path / "elsewhere")
        yield
        (tmp_path / "elsewhere").rename(tmp_path / "archive")

    with receiving(tmp_path) as node:
        refused_then_resumed(node, away())
