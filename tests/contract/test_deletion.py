"""Deletion, interrupted at every step, ends the same; the bytes are gone, tar stays content, a rebuild agrees."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from storage import deletion, journal, schema
from storage.archive import Archive
from storage.database import Database, open_database
from storage.deletion import delete_instance, delete_study, finish_deletions
from storage.errors import NotFound
from storage.integrity import verify
from storage.reindex import reindex
from storage.segments import try_lock
from tests.datasets import dataset
from tests.segments import info_of, listed, member_bytes, write_segment

STUDY, SERIES = "1.2.1", "1.2.1.1"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def archive(tmp_path: Path, database: Database) -> Iterator[Archive]:
    root = tmp_path / "archive"
    (root / "segments").mkdir(parents=True)
    (root / "archive-id").write_text("the-archive\n")
    for name in ("a", "b"):
        write_segment(root, STUDY, name, [instance_bytes(f"{SERIES}.{ord(name)}{n}") for n in range(3)])
    other = dataset("1.2.2", "1.2.2.1", "1.2.2.1.1")
    write_segment(root, "1.2.2", "c", [member_bytes(info_of("1.2.2", "1.2.2.1", "1.2.2.1.1", other), other)])
    reindex(root, database)
    opened = Archive.open(root, database, process="test")
    yield opened
    opened.close()


def instance_bytes(sop_uid: str) -> bytes:
    data = dataset(STUDY, SERIES, sop_uid, pixels=b"\xaa" * 5000)
    return member_bytes(info_of(STUDY, SERIES, sop_uid, data), data)


def uids(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(select(schema.instance.c.sop_uid).order_by(schema.instance.c.sop_uid)).scalars())


def count(database: Database, table: Any) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def rebuilt_uids(archive: Archive, tmp_path: Path) -> list[str]:
    with closing(open_database(f"sqlite:///{tmp_path / f'rebuilt{time.monotonic_ns()}.sqlite'}", create=True)) as database:
        reindex(archive.root, database)
        return uids(database)


def test_one_instance_goes_and_its_neighbours_stay(archive: Archive, tmp_path: Path) -> None:
    gone = f"{SERIES}.971"
    report = delete_instance(archive, gone, who="me", reason="asked for")
    assert (report.instances, report.segments_removed) == (1, 0)
    assert gone not in uids(archive.database)
    assert len(uids(archive.database)) == 6
    segment = archive.root / "segments" / STUDY / "a.tar"
    names = listed(segment)
    assert [name.startswith(".deleted/") for name in names] == [False, True, False]
    assert segment.read_bytes().count(b"\xaa" * 5000) == 2
    assert verify(archive).ok
    assert rebuilt_uids(archive, tmp_path) == uids(archive.database)
    (entry,) = journal.read(archive.root)
    assert (entry.sop_uid, entry.deleted_by, entry.reason) == (gone, "me", "asked for")
    assert count(archive.database, schema.audit) == 2  # the rebuild and the deletion


def test_a_study_goes_with_its_segments(archive: Archive, tmp_path: Path) -> None:
    report = delete_study(archive, STUDY, who="me", reason="asked for")
    assert (report.instances, report.segments_removed) == (6, 2)
    assert uids(archive.database) == ["1.2.2.1.1"]
    assert list((archive.root / "segments").rglob("*.tar")) == [archive.root / "segments" / "1.2.2" / "c.tar"]
    assert [count(archive.database, table) for table in (schema.study, schema.series, schema.segment, schema.location)] == [1, 1, 1, 1]
    assert count(archive.database, schema.tombstone) == 6
    assert count(archive.database, schema.patient) == 1
    assert verify(archive).ok
    assert rebuilt_uids(archive, tmp_path) == ["1.2.2.1.1"]


def test_the_last_study_of_a_patient_takes_the_patient_along(archive: Archive) -> None:
    delete_study(archive, STUDY, who="me", reason="asked for")
    delete_instance(archive, "1.2.2.1.1", who="me", reason="asked for")
    assert [count(archive.database, table) for table in (schema.patient, schema.study, schema.segment)] == [0, 0, 0]
    assert verify(archive).ok


def test_what_is_not_there_is_not_found(archive: Archive) -> None:
    with pytest.raises(NotFound):
        delete_instance(archive, "1.9", who="me", reason="asked for")
    with pytest.raises(NotFound):
        delete_study(archive, "1.9", who="me", reason="asked for")


@pytest.mark.parametrize("step", ["append", "_erase", "punch", "_remove_bytes", "_remove_empty_segments", "_remove_segment"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_kill_at_any_step_is_finished_at_the_next_start(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str, whole: bool
) -> None:
    def die(*args: object, **kwargs: object) -> None:
        raise Killed

    gone = f"{SERIES}.981"
    with monkeypatch.context() as patch:
        patch.setattr({"append": journal, "punch": archive.disk}.get(step, deletion), step, die)
        if whole:
            with pytest.raises(Killed):
                delete_study(archive, STUDY, who="me", reason="asked for")
        elif step.startswith("_remove_empty") or step == "_remove_segment":
            delete_instance(archive, gone, who="me", reason="asked for")
        else:
            with pytest.raises(Killed):
                delete_instance(archive, gone, who="me", reason="asked for")
    expected = ["1.2.2.1.1"] if whole else [uid for uid in uids(archive.database) if uid != gone]
    assert uids(archive.database) == expected
    finish_deletions(archive)
    assert finish_deletions(archive) == 0
    assert uids(archive.database) == expected
    assert rebuilt_uids(archive, tmp_path) == expected
    assert verify(archive).ok
    assert len(journal.read(archive.root)) == (6 if whole else 1)
    for path in (archive.root / "segments").rglob("*.tar"):
        assert not any(gone in name for name in listed(path))
    assert len(list((archive.root / "segments" / STUDY).glob("*.tar"))) == (0 if whole else 2)


def test_a_rebuild_obeys_the_journal_before_anybody_finished(archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def die(*args: object, **kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(deletion, "_remove_bytes", die)
        with pytest.raises(Killed):
            delete_instance(archive, f"{SERIES}.970", who="me", reason="asked for")
    with closing(open_database(f"sqlite:///{tmp_path / 'rebuilt.sqlite'}", create=True)) as database:
        reindex(archive.root, database)
        assert uids(database) == uids(archive.database)
        again = Archive.open(archive.root, database, process="test")
        assert finish_deletions(again) == 1
        assert verify(again).ok
    assert len(journal.read(archive.root)) == 1
    assert listed(archive.root / "segments" / STUDY / "a.tar")[0] == ".deleted/0"


def test_a_segment_that_was_being_written_goes_once_it_is_free(archive: Archive, tmp_path: Path) -> None:
    path = archive.root / "segments" / STUDY / "a.tar"
    writing = try_lock(archive.disk, path)
    assert writing is not None
    report = delete_study(archive, STUDY, who="me", reason="asked for")
    assert (report.instances, report.segments_removed) == (6, 1)
    finish_deletions(archive, older_than=60)
    assert path.exists(), "somebody is writing it"
    archive.disk.close(writing)
    finish_deletions(archive, older_than=60)
    assert not path.exists()
    assert count(archive.database, schema.segment) == 1
    assert verify(archive).ok


def test_a_deletion_under_way_is_left_to_who_began_it(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: object, **kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(deletion, "_remove_bytes", die)
        with pytest.raises(Killed):
            delete_instance(archive, f"{SERIES}.970", who="me", reason="asked for")
    assert finish_deletions(archive, older_than=60) == 0
    assert finish_deletions(archive) == 1


def test_a_sender_whose_last_instance_went_has_sent_nothing_of_the_study(archive: Archive) -> None:
    sop_uids = [f"{SERIES}.{ord(name)}{n}" for name in ("a", "b") for n in range(3)]
    with archive.database.begin() as connection:
        connection.execute(schema.instance.update().values(calling_ae="CT1"))
        connection.execute(schema.instance.update().where(schema.instance.c.sop_uid == sop_uids[0]).values(calling_ae="CT2"))
    senders = select(schema.study_source.c.calling_ae).join(schema.study, schema.study.c.pk == schema.study_source.c.study_pk)
    with archive.database.read() as connection:
        assert {*connection.scalars(senders.where(schema.study.c.study_uid == STUDY))} >= {"CT1", "CT2"}
    delete_instance(archive, sop_uids[0], who="ada", reason="wrong patient")
    with archive.database.read() as connection:
        assert {*connection.scalars(senders.where(schema.study.c.study_uid == STUDY))} == {"CT1"}
    delete_study(archive, STUDY, who="ada", reason="wrong patient")
    with archive.database.read() as connection:
        assert [*connection.scalars(senders.where(schema.study.c.study_uid == STUDY))] == []
