"""A backup holds every instance there was when it began, with its bytes, also while the archive changes; a restore gives them back."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from storage import backup as module
from storage.archive import Archive
from storage.backup import backup, restore
from storage.database import open_database
from storage.deletion import delete_instance, delete_study, finish_deletions
from storage.errors import NotFound, StorageError
from storage.integrity import verify
from tests.contract.test_deletion import SERIES, STUDY, archive, listed, uids  # noqa: F401 - a fixture


def restored(source: Path, tmp_path: Path, url: str | None = None) -> tuple[Archive, list[str]]:
    url = url or f"sqlite:///{tmp_path / 'restored.sqlite'}"
    root = tmp_path / "restored"
    restore(source, root, url)
    database = open_database(url)
    return Archive.open(root, database, process="test"), uids(database)


def test_restore_gives_back_what_was_backed_up(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    report = backup(archive, tmp_path / "backup")
    assert (report.instances, report.segments, report.missing) == (7, 3, ())
    again, held = restored(tmp_path / "backup", tmp_path)
    with closing(again.database):
        assert held == uids(archive.database)
        assert verify(again).ok
        assert (again.root / "archive-id").read_text() == (archive.root / "archive-id").read_text()
    for path in (again.root / "segments").rglob("*.tar"):
        listed(path)


def test_restore_into_the_other_database(archive: Archive, tmp_path: Path, empty_database_url: str) -> None:  # noqa: F811
    backup(archive, tmp_path / "backup")
    again, held = restored(tmp_path / "backup", tmp_path, empty_database_url)
    with closing(again.database):
        assert held == uids(archive.database)
        delete_instance(again, f"{SERIES}.970", who="me", reason="asked for")
        assert verify(again).ok


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_deleted_while_the_backup_runs_is_gone_after_the_restore(
    archive: Archive,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    link: bool,
    whole: bool,
) -> None:
    real = module._copy_all

    def meanwhile(*arguments: object) -> object:
        if whole:
            delete_study(archive, STUDY, who="me", reason="asked for")
        else:
            delete_instance(archive, f"{SERIES}.970", who="me", reason="asked for")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_copy_all", meanwhile)
    report = backup(archive, tmp_path / "backup", link=link)
    assert len(report.missing) == (2 if whole else 0)
    again, held = restored(tmp_path / "backup", tmp_path)
    with closing(again.database):
        assert held == uids(archive.database)
        finish_deletions(again)
        assert verify(again).ok


def test_a_backup_is_not_written_over_another(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    backup(archive, tmp_path / "backup")
    with pytest.raises(StorageError, match="not empty"):
        backup(archive, tmp_path / "backup")
    with pytest.raises(StorageError, match="not empty"):
        restore(tmp_path / "backup", archive.root, f"sqlite:///{tmp_path / 'x.sqlite'}")


def test_an_interrupted_backup_is_none(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    backup(archive, tmp_path / "backup")
    (tmp_path / "backup" / module.MANIFEST).unlink()
    with pytest.raises(NotFound, match="no complete backup"):
        restore(tmp_path / "backup", tmp_path / "restored", f"sqlite:///{tmp_path / 'x.sqlite'}")


def test_a_backup_that_lost_bytes_is_refused(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    backup(archive, tmp_path / "backup")
    manifest = json.loads((tmp_path / "backup" / module.MANIFEST).read_text())
    name = next(iter(manifest["files"]))
    with (tmp_path / "backup" / name).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(StorageError, match=r"has not the \d+ bytes"):
        restore(tmp_path / "backup", tmp_path / "restored", f"sqlite:///{tmp_path / 'x.sqlite'}")
