"""Compaction gives the room of deleted members back and changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import compact as module
from storage.archive import Archive
from storage.compact import compact
from storage.deletion import delete_instance
from storage.integrity import verify
from storage.segments import SEGMENTS
from tests.contract.test_deletion import SERIES, STUDY, Killed, archive, listed, rebuilt_uids, uids  # noqa: F401 - a fixture


def files(archive: Archive) -> list[Path]:  # noqa: F811
    return sorted((archive.root / SEGMENTS / STUDY).glob("*.tar"))


def test_deleted_members_go_and_the_others_stay(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    before = sum(path.stat().st_size for path in files(archive))
    delete_instance(archive, f"{SERIES}.970", who="me", reason="asked for")
    report = compact(archive)
    assert report.segments == 1
    assert sum(path.stat().st_size for path in files(archive)) == before - report.freed
    assert not any(name.startswith(".deleted") for path in files(archive) for name in listed(path))
    assert len(files(archive)) == 2
    assert verify(archive).ok
    assert rebuilt_uids(archive, tmp_path) == uids(archive.database)
    assert compact(archive).segments == 0


@pytest.mark.parametrize("step", ["_copy_live", "_move_rows", "_locations"])
def test_a_kill_leaves_nothing_that_counts_twice(
    archive: Archive,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    step: str,
) -> None:
    delete_instance(archive, f"{SERIES}.970", who="me", reason="asked for")
    real = getattr(module, step)

    def die_after(*arguments: object) -> None:
        real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, step, die_after)
        with pytest.raises(Killed):
            compact(archive)
    assert rebuilt_uids(archive, tmp_path) == uids(archive.database)
    compact(archive)
    assert verify(archive).ok
    assert len(files(archive)) == 2
    assert rebuilt_uids(archive, tmp_path) == uids(archive.database)


def test_a_deletion_in_between_is_not_undone(archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    delete_instance(archive, f"{SERIES}.970", who="me", reason="asked for")
    real = module._copy_live

    def meanwhile(*arguments: object) -> object:
        result = real(*arguments)  # type: ignore[arg-type]
        delete_instance(archive, f"{SERIES}.971", who="me", reason="asked for")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, "_copy_live", meanwhile)
        assert compact(archive).segments == 0
    assert rebuilt_uids(archive, tmp_path) == uids(archive.database)
    assert verify(archive).ok
    assert compact(archive).segments == 1
    assert verify(archive).ok


def test_a_segment_that_got_its_row_since_the_list_was_read_is_no_leftover(archive: Archive) -> None:  # noqa: F811
    (path, _) = files(archive)
    assert not module._remove_leftover(archive, path)
    assert path.exists()
    assert verify(archive).ok
