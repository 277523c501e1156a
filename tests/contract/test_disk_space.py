"""A disk that fills up: what could not be had is given back, what fits is taken, and a reserve stays for the index."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.campaigns.powercut import Disk as SmallDisk
from benchmarks.campaigns.powercut import Unsupported
from storage.disk import Disk
from storage.errors import NoSpace
from storage.segments import SEGMENTS, create_segment

MIB = 1 << 20


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 64 MiB; skipped visibly where none can be mounted."""
    try:
        small = SmallDisk(tmp_path, 64)
    except (Unsupported, OSError) as error:
        pytest.skip(f"a file system cannot be mounted here: {error}")
    try:
        (small.mount_point / SEGMENTS).mkdir()
        yield small.mount_point
    finally:
        small.remove()


@pytest.mark.root
@pytest.mark.parametrize("written", [True, False])
def test_an_allocation_that_fails_takes_nothing(place: Path, written: bool) -> None:
    disk = Disk()
    descriptor = disk.create(place / "file")
    free = shutil.disk_usage(place).free
    with pytest.raises(NoSpace):
        disk.allocate(descriptor, 0, 200 * MIB, written=written)
    assert os.fstat(descriptor).st_size == 0
    assert shutil.disk_usage(place).free >= free - MIB
    disk.close(descriptor)


@pytest.mark.root
def test_an_instance_that_fits_is_taken_although_the_next_step_would_not_fit(place: Path) -> None:
    segment = create_segment(Disk(), place, "1.2")
    free = shutil.disk_usage(place).free
    for at in range(0, free - 8 * MIB, 4 * MIB):
        segment.write([bytes(4 * MIB)], at, 4 * MIB)
    with pytest.raises(NoSpace):
        segment.write([bytes(16 * MIB)], free, 16 * MIB)
    segment.close()


def test_an_allocation_leaves_the_reserve_alone(tmp_path: Path) -> None:
    disk = Disk()
    descriptor = disk.create(tmp_path / "file")
    disk.reserve = shutil.disk_usage(tmp_path).free - 512 * MIB
    with pytest.raises(NoSpace, match="limit"):
        disk.allocate(descriptor, 0, 1024 * MIB, written=False)
    assert os.fstat(descriptor).st_size == 0
    disk.allocate(descriptor, 0, MIB, written=False)
    assert os.fstat(descriptor).st_size == MIB
    disk.close(descriptor)
