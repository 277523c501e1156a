"""Where sealed segments live: a local directory, or memory in tests; an object store speaks the same few words.

A sealed segment is one object, a member a range of it. Names are those of the index, relative to the archive root.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from storage.disk import Disk, translated
from storage.errors import NotFound, StorageError

CHUNK = 1 << 20
PARTIAL = ".partial-"


class ObjectStore(Protocol):
    """Keeps sealed segments. Every method raises a `StorageError`; `NotFound` where there is no such object."""

    def put(self, name: str, source: BinaryIO) -> int:
        """Keep all of `source` under `name`, durably and all at once, over what was there; return its size."""

    def read(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`; fewer where the object ends before them."""

    def size(self, name: str) -> int:
        """Bytes of an object."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names that start with `prefix`, in order."""

    def delete(self, name: str) -> None:
        """Remove an object, durably; one that is not there is as good as removed."""


class LocalObjects:
    """Objects as files below a directory, which must exist."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self._root = root
        self._disk = disk or Disk()

    def put(self, name: str, source: BinaryIO) -> int:
        target = self._path(name)
        self._make_folders(target.parent)
        partial = target.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
        descriptor = self._disk.create(partial)
        try:
            try:
                size = 0
                while data := source.read(CHUNK):
                    size += self._disk.write(descriptor, [data], size)
                self._disk.sync(descriptor)
            finally:
                self._disk.close(descriptor)
            self._disk.rename(partial, target)
        except BaseException:
            with suppress(StorageError):
                self._disk.unlink(partial)
            raise
        self._disk.sync_directory(target.parent)
        return size

    def read(self, name: str, offset: int, length: int) -> bytes:
        with _known(name), self._path(name).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    def size(self, name: str) -> int:
        with _known(name):
            return self._path(name).stat().st_size

    def names(self, prefix: str = "") -> Iterator[str]:
        with translated():
            files = [path for path in self._root.rglob("*") if path.is_file() and not path.name.startswith(PARTIAL)]
        yield from sorted(name for name in (path.relative_to(self._root).as_posix() for path in files) if name.startswith(prefix))

    def delete(self, name: str) -> None:
        path = self._path(name)
        if path.exists():
            self._disk.unlink(path)
            self._disk.sync_directory(path.parent)

    def _path(self, name: str) -> Path:
        _check(name)
        return self._root / name

    def _make_folders(self, folder: Path) -> None:
        """Make the folders that are not there, each one's name durable. Never the root: one that is gone is no archive."""
        if folder == self._root or folder.is_dir():
            return
        self._make_folders(folder.parent)
        self._disk.make_directory(folder)
        self._disk.sync_directory(folder.parent)


class MemoryObjects:
    """Objects in memory, for tests."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, name: str, source: BinaryIO) -> int:
        _check(name)
        data = source.read()
        with self._lock:
            self._objects[name] = data
        return len(data)

    def read(self, name: str, offset: int, length: int) -> bytes:
        return self._data(name)[offset : offset + length]

    def size(self, name: str) -> int:
        return len(self._data(name))

    def names(self, prefix: str = "") -> Iterator[str]:
        with self._lock:
            found = sorted(name for name in self._objects if name.startswith(prefix))
        yield from found

    def delete(self, name: str) -> None:
        _check(name)
        with self._lock:
            self._objects.pop(name, None)

    def _data(self, name: str) -> bytes:
        with self._lock:
            data = self._objects.get(name)
        if data is None:
            raise NotFound(f"no object {name!r}")
        return data


def _check(name: str) -> None:
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(PARTIAL) for part in parts):
        raise NotFound(f"no object can be named {name!r}")


@contextmanager
def _known(name: str) -> Iterator[None]:
    with translated():
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFound(f"no object {name!r}") from None
