"""The short way of a group of instances: one statement, whole or not at all, and never the last word."""

from __future__ import annotations

import os
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import select

from benchmarks.campaigns.powercut import Disk as SmallDisk
from benchmarks.campaigns.powercut import Unsupported
from storage import arrivals, write_ahead_log
from storage.archive import Archive, Outcome, Receipt, Source
from storage.database import Database, open_database
from storage.errors import IndexUnavailable
from storage.schema import instance, location, study
from storage.writer import OutcomeUnknown
from tests.datasets import CT, EXPLICIT, dataset

SOURCE = Source(None, "SCANNER", "NODE", "127.0.0.1")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'index.sqlite'}", create=True, busy_seconds=0.3)
    yield opened
    opened.close()


@pytest.fixture
def archive(tmp_path: Path, database: Database) -> Iterator[Archive]:
    Archive.create(tmp_path / "archive", database).close()
    opened = Archive.open(tmp_path / "archive", database, process="test")
    yield opened
    opened.close()


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which groups went the short way."""
    taken: list[bool] = []
    real = arrivals.insert

    def watched(*arguments: object) -> bool:
        taken.append(real(*arguments))  # type: ignore[arg-type]
        return taken[-1]

    monkeypatch.setattr(arrivals, "insert", watched)
    return taken


def put(archive: Archive, number: int, **more: object) -> Receipt:
    uid = f"1.2.1.{number}"
    session = archive.session(SOURCE)
    try:
        writer = session.begin(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT)
        writer.write([dataset("1.2", "1.2.1", uid, number=number, **more)])  # type: ignore[arg-type]
        return writer.commit()
    finally:
        session.close()


def row_of(archive: Archive, number: int) -> dict[str, object]:
    with archive.database.read() as connection:
        joined = select(instance, location).join(location, location.c.instance_pk == instance.c.pk)
        row = connection.execute(joined.where(instance.c.sop_uid == f"1.2.1.{number}")).one()
    own = {"pk", "sop_uid", "instance_number", "received_at", "digest", "pk_1", "instance_pk", "member_offset", "offset"}
    return {name: value for name, value in row._mapping.items() if name not in own}


def revision(archive: Archive) -> int:
    with archive.database.read() as connection:
        return int(connection.execute(select(study.c.revision)).scalar_one())


def test_both_ways_write_the_same_rows(archive: Archive, ways: list[bool]) -> None:
    for number in (11, 12, 13):
        assert put(archive, number).outcome is Outcome.STORED
    assert ways[-2:] == [True, True]
    assert row_of(archive, 11) == row_of(archive, 12) == row_of(archive, 13)
    assert revision(archive) == 3
    assert archive.open_instance("1.2.1.13").read().endswith(dataset("1.2", "1.2.1", "1.2.1.13", number=13))


def test_a_taken_uid_goes_the_long_way(archive: Archive, ways: list[bool]) -> None:
    for number in (1, 2):
        put(archive, number)
    assert put(archive, 1).outcome is Outcome.DUPLICATE
    assert put(archive, 2, description="other").outcome is Outcome.CONFLICT
    assert ways[-2:] == [False, False]
    assert revision(archive) == 2


@pytest.mark.parametrize("gone", ["UPDATE study SET study_uid = '9.9'", "UPDATE series SET series_uid = '9.9'"])
def test_a_study_that_is_no_longer_what_it_was_undoes_the_statement(archive: Archive, ways: list[bool], gone: str) -> None:
    for number in (1, 2):
        put(archive, number)
    with archive.database.begin() as connection:
        connection.exec_driver_sql(gone)
    assert put(archive, 3).outcome is Outcome.STORED
    assert ways[-1] is False
    with archive.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM instance WHERE sop_uid = '1.2.1.3'").scalar_one() == 1


def test_other_patients_and_closed_studies_are_noticed(archive: Archive, ways: list[bool]) -> None:
    for number in (1, 2):
        put(archive, number)
    with archive.database.begin() as connection:
        connection.exec_driver_sql("UPDATE study SET state = 'COMPLETE'")
    put(archive, 3)
    put(archive, 4, patient_id="another")
    assert ways[-2:] == [True, False]
    with archive.database.read() as connection:
        found = connection.execute(select(study.c.state, study.c.flag)).one()
    assert found.state == "RECEIVING"
    assert "PatientID" in found.flag


def test_a_locked_index_is_unavailable_and_service_resumes(archive: Archive) -> None:
    for number in (1, 2):
        put(archive, number)
    with archive.database.begin(), pytest.raises(IndexUnavailable):
        put(archive, 3)
    assert put(archive, 3).outcome is Outcome.STORED


def test_an_index_that_takes_no_writes_is_unavailable_and_nothing_is_left_open(archive: Archive) -> None:
    for number in (1, 2):
        put(archive, number)
    archive.writer._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(IndexUnavailable) as refused:
        put(archive, 3)
    assert not isinstance(refused.value, OutcomeUnknown)
    assert put(archive, 3).outcome is Outcome.STORED


def refused(archive: Archive, number: int) -> IndexUnavailable | None:
    try:
        put(archive, number)
    except IndexUnavailable as error:
        return error
    return None


def members(archive: Archive) -> list[str]:
    """The instances of which there are bytes, in the one segment there is."""
    (path,) = archive.root.glob("segments/*/*.tar")
    with tarfile.open(path) as segment:
        return [Path(name).stem for name in segment.getnames()]


def test_an_index_without_space_leaves_no_bytes_behind_however_often_it_is_tried(archive: Archive) -> None:
    stored = 2
    for number in (1, 2):
        put(archive, number)
    connection = archive.writer._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    while (refusal := refused(archive, stored + 1)) is None:
        stored += 1
    assert not isinstance(refusal, OutcomeUnknown)
    assert archive.writer._connection is None  # the next one has no such limit: the limit was of that connection
    assert members(archive) == [f"1.2.1.{number}" for number in range(1, stored + 1)]
    assert put(archive, stored + 1).outcome is Outcome.STORED
    assert len(members(archive)) == stored + 1


@pytest.mark.root
def test_an_index_on_a_full_disk_leaves_no_bytes_behind(tmp_path: Path) -> None:
    try:
        small = SmallDisk(tmp_path, 32)
    except (Unsupported, OSError) as error:
        pytest.skip(f"a file system cannot be mounted here: {error}")
    with ExitStack() as stack:
        stack.callback(small.remove)
        database = stack.enter_context(closing(open_database(f"sqlite:///{small.mount_point / 'index.sqlite'}", create=True)))
        Archive.create(tmp_path / "archive", database).close()
        archive = stack.enter_context(closing(Archive.open(tmp_path / "archive", database, process="test")))
        put(archive, 1)
        filler = small.mount_point / "filler"
        fill(filler)
        stored = 1
        while (refusal := refused(archive, stored + 1)) is None:
            stored += 1
        for again in (refusal, refused(archive, stored + 1), refused(archive, stored + 1)):
            assert isinstance(again, IndexUnavailable)
            assert not isinstance(again, OutcomeUnknown)
        assert members(archive) == [f"1.2.1.{number}" for number in range(1, stored + 1)]
        filler.unlink()
        assert put(archive, stored + 1).outcome is Outcome.STORED


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_the_log_does_not_grow_with_the_first_commits(archive: Archive, database: Database) -> None:
    put(archive, 1)
    log = Path(f"{database.path}-wal")  # type: ignore[attr-defined]
    size = log.stat().st_size
    assert size > 4000 * 4096
    for number in range(2, 40):
        put(archive, number)
    assert log.stat().st_size == size


def test_a_lengthened_log_loses_no_frame(tmp_path: Path) -> None:
    path = tmp_path / "some.sqlite"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);")
    write_ahead_log.lengthen(writer, 100)
    writer.execute("INSERT INTO t VALUES (2)")
    copy = tmp_path / "copy.sqlite"
    for ending in ("", "-wal"):  # as a crash leaves them: nothing was checkpointed
        (tmp_path / f"copy.sqlite{ending}").write_bytes(Path(f"{path}{ending}").read_bytes())
    assert os.path.getsize(f"{copy}-wal") > 100 * 4096
    reader = sqlite3.connect(copy)
    assert reader.execute("SELECT x FROM t").fetchall() == [(1,), (2,)]
    reader.close()
    writer.close()


def test_a_log_that_cannot_be_lengthened_is_no_error(tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "some.sqlite", isolation_level=None)
    writer.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x);")
    other = sqlite3.connect(tmp_path / "some.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer.execute("PRAGMA busy_timeout = 0")
    write_ahead_log.lengthen(writer, 100)
    other.execute("ROLLBACK")
    other.close()
    assert (tmp_path / "some.sqlite-wal").stat().st_size < 100 * 4096
    writer.execute("INSERT INTO t VALUES (1)")
    assert writer.execute("SELECT x FROM t").fetchall() == [(1,)]
    writer.close()
