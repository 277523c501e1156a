"""Quarantine files go to the disk like everything else: in order, whole or not at all, and a full disk is named."""

from __future__ import annotations

import os

import pytest

from storage import quarantine
from storage.archive import Archive, Outcome
from storage.errors import NoSpace
from storage.quarantine_file import PARTIAL
from tests.contract.test_archive import TracingDisk, archive, count, disk, image, put, segments  # noqa: F401 - fixtures
from tests.segments import listed


def files(archive: Archive) -> list[str]:  # noqa: F811
    return sorted(path.name for path in (archive.root / "quarantine").iterdir())


def test_the_bytes_are_synced_before_they_get_their_name(archive: Archive, disk: TracingDisk) -> None:  # noqa: F811
    put(archive, *image(1))
    disk.trace.clear()
    assert put(archive, *image(1, pixels=b"other!")).outcome is Outcome.CONFLICT
    kept = disk.trace[disk.trace.index("create") :]
    assert kept[:7] == ["create", "write", "write", "write", "sync", "rename", "sync_directory"]
    assert disk.trace.count("rename") == 1


@pytest.mark.parametrize("kind", ["conflict", "malformed"])
@pytest.mark.parametrize("step", ["create", "write", "sync", "rename", "sync_directory"])
def test_a_full_disk_leaves_no_orphan_and_the_next_try_is_kept(
    archive: Archive,  # noqa: F811
    disk: TracingDisk,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    step: str,
) -> None:
    put(archive, *image(1))
    data, uid = image(1, pixels=b"other!") if kind == "conflict" else image(2)
    data = data if kind == "conflict" else data[:-3]
    from storage import quarantine_file

    real = quarantine_file.write

    def full(*arguments: object) -> str:
        disk.fail = step
        try:
            return real(*arguments)  # type: ignore[arg-type]
        finally:
            disk.fail = ""

    with monkeypatch.context() as patch:
        patch.setattr(quarantine_file, "write", full)
        with pytest.raises(NoSpace):
            put(archive, data, uid)
    assert [name for name in files(archive) if name.startswith(PARTIAL)] == []
    assert quarantine.list_held(archive) == []
    assert [len(listed(path)) for path in segments(archive)] == [1]
    assert put(archive, data, uid).outcome in (Outcome.CONFLICT, Outcome.QUARANTINED)
    (held,) = quarantine.list_held(archive)
    assert files(archive) == [held.name.rpartition("/")[2]]
    assert put(archive, *image(3)).outcome is Outcome.STORED


def test_what_a_crash_left_half_written_goes_when_it_is_old(archive: Archive) -> None:  # noqa: F811
    old, young = (archive.root / "quarantine" / f"{PARTIAL}{name}" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1.0, 1.0))
    archive.recover()
    assert files(archive) == [young.name]
