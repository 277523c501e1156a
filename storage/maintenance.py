"""What archive maintenance shares: the lock between backup and compaction."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "maintenance.lock"


@contextmanager
def shared_lock(root: Path) -> Iterator[None]:
    """Held while segments are read as a whole (backup): they grow meanwhile, but none is rewritten."""
    yield from _locked(root, fcntl.LOCK_SH)


@contextmanager
def exclusive_lock(root: Path) -> Iterator[None]:
    """Held while segments are rewritten (compaction)."""
    yield from _locked(root, fcntl.LOCK_EX)


def _locked(root: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
