"""The archive's promises on both databases: what is acknowledged is durable in order, once, readable by tar, and survives what fails."""

from __future__ import annotations

import os
import subprocess
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from storage.archive import Archive, ArchiveSettings, EmittedObject, Outcome, Receipt, Source
from storage.database import Database
from storage.disk import Buffer, Disk
from storage.errors import ArchiveMismatch, CannotUnderstand, DataSetMismatch, IndexUnavailable, NoSpace, NotFound
from storage.headers import INFLATE_STEP
from storage.schema import audit, instance, location, quarantine, segment, series, study
from storage.writer import IndexWriter
from tests.datasets import CT, EXPLICIT, IMPLICIT, SEG, dataset
from tests.segments import listed

DEFLATED = "1.2.840.10008.1.2.1.99"
SOURCE = Source(None, "SCANNER", "NODE", "127.0.0.1")


class TracingDisk(Disk):
    """The real disk, which writes down what it is asked for, and fails where it is told to."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.fail: str = ""

    def _note(self, what: str) -> None:
        self.trace.append(what)
        if what == self.fail:
            raise NoSpace("no space left in the archive")

    def write(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        self._note("write")
        return super().write(descriptor, buffers, offset)

    def sync(self, descriptor: int) -> None:
        self._note("sync")
        super().sync(descriptor)

    def sync_directory(self, path: Path) -> None:
        self._note("sync_directory")
        super().sync_directory(path)

    def create(self, path: Path) -> int:
        self._note("create")
        return super().create(path)

    def rename(self, source: Path, target: Path) -> None:
        self._note("rename")
        super().rename(source, target)

    def allocate(self, descriptor: int, start: int, length: int, *, written: bool) -> None:
        self._note("allocate")
        super().allocate(descriptor, start, length, written=written)


@pytest.fixture
def disk() -> TracingDisk:
    return TracingDisk()


@pytest.fixture
def archive(tmp_path: Path, database: Database, disk: TracingDisk) -> Iterator[Archive]:
    Archive.create(tmp_path / "archive", database).close()
    opened = Archive.open(tmp_path / "archive", database, process="test", disk=disk, own_device_uids=lambda: ["2.25.777"])
    yield opened
    opened.close()


def put(archive: Archive, data: bytes, sop_uid: str, *, sop_class: str = CT, syntax: str = EXPLICIT, pieces: int = 1) -> Receipt:
    session = archive.session(SOURCE)
    try:
        writer = session.begin(sop_class_uid=sop_class, sop_instance_uid=sop_uid, transfer_syntax_uid=syntax)
        step = -(-len(data) // pieces)
        for start in range(0, len(data), step):
            writer.write([memoryview(data)[start : start + step]])
        return writer.commit()
    finally:
        session.close()


def image(number: int, study_uid: str = "1.2", **more: object) -> tuple[bytes, str]:
    uid = f"{study_uid}.1.{number}"
    return dataset(study_uid, f"{study_uid}.1", uid, number=number, **more), uid  # type: ignore[arg-type]


def count(archive: Archive, table: object) -> int:
    with archive.database.read() as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0  # type: ignore[arg-type]


def segments(archive: Archive) -> list[Path]:
    return sorted((archive.root / "segments").glob("*/*.tar"))


def revision(archive: Archive, study_uid: str = "1.2") -> tuple[int, str, str | None]:
    with archive.database.read() as connection:
        row = connection.execute(select(study.c.revision, study.c.state, study.c.flag).where(study.c.study_uid == study_uid)).one()
    return row.revision, row.state, row.flag


@pytest.mark.parametrize("pieces", [1, 7, 300])
def test_what_is_stored_comes_back(archive: Archive, pieces: int) -> None:
    for number in (1, 2, 3):
        data, uid = image(number)
        receipt = put(archive, data, uid, pieces=pieces)
        assert receipt.outcome is Outcome.STORED
        assert archive.open_instance(uid).read().endswith(data)
    assert [each.sop_uid for each in archive.instances("1.2")] == ["1.2.1.1", "1.2.1.2", "1.2.1.3"]
    assert revision(archive) == (3, "RECEIVING", None)
    (path,) = segments(archive)
    assert len(listed(path)) == 3
    with archive.open_instance("1.2.1.2").file() as file:
        from pydicom import dcmread

        assert dcmread(file).SOPInstanceUID == "1.2.1.2"


def test_bytes_are_synced_before_the_row_and_the_answer_comes_after_both(
    archive: Archive, disk: TracingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    transact = IndexWriter._transact

    def traced(self: IndexWriter, group: Sequence[object]) -> None:
        disk.trace.append("row")
        transact(self, group)  # type: ignore[arg-type]
        disk.trace.append("committed")

    monkeypatch.setattr(IndexWriter, "_transact", traced)
    put(archive, *image(1))
    assert disk.trace == ["create", "allocate", "write", "write", "sync", "sync_directory", "sync_directory", "row", "committed"]
    disk.trace.clear()
    put(archive, *image(2))
    assert disk.trace == ["write", "write", "sync", "row", "committed"]


def test_duplicates_change_nothing(archive: Archive) -> None:
    data, uid = image(1)
    put(archive, data, uid)
    before = revision(archive)
    assert put(archive, data, uid).outcome is Outcome.DUPLICATE
    assert revision(archive) == before
    assert count(archive, instance) == count(archive, location) == 1
    assert len(listed(segments(archive)[0])) == 1


def test_duplicates_in_parallel_are_one_row(archive: Archive) -> None:
    data, uid = image(1)
    start, outcomes = threading.Barrier(6), list[Outcome]()

    def send() -> None:
        start.wait()
        outcomes.append(put(archive, data, uid).outcome)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.name for each in outcomes) == ["DUPLICATE"] * 5 + ["STORED"]
    assert count(archive, instance) == 1
    assert sum(len(listed(path)) for path in segments(archive)) == 1


def test_other_content_is_a_conflict_and_fails_no_other(archive: Archive) -> None:
    data, uid = image(1)
    put(archive, data, uid)
    start, outcomes = threading.Barrier(4), dict[str, Outcome]()

    def send(content: bytes, name: str) -> None:
        start.wait()
        outcomes[name] = put(archive, content, name).outcome

    work = [(image(1, pixels=b"other!")[0], uid), image(2), image(3), image(4)]
    threads = [threading.Thread(target=send, args=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.pop(uid) is Outcome.CONFLICT
    assert set(outcomes.values()) == {Outcome.STORED}
    assert archive.open_instance(uid).read().endswith(data)
    assert count(archive, quarantine) == 1


def test_the_same_content_in_another_syntax_is_a_duplicate(archive: Archive) -> None:
    from io import BytesIO

    from pydicom.filereader import read_dataset
    from pynetdicom.dsutils import encode

    data, uid = image(1)
    put(archive, data, uid)
    implicit = encode(read_dataset(BytesIO(data), False, True), True, True)
    assert implicit is not None
    assert put(archive, bytes(implicit), uid, syntax=IMPLICIT).outcome is Outcome.DUPLICATE
    other = encode(read_dataset(BytesIO(image(1, pixels=b"zz" * 50)[0]), False, True), True, True)
    assert other is not None
    assert put(archive, bytes(other), uid, syntax=IMPLICIT).outcome is Outcome.CONFLICT


def test_own_results_are_known_by_uid_and_by_device(archive: Archive) -> None:
    put(archive, *image(1))
    data = dataset("1.2", "1.2.9", "1.2.9.1", sop_class=SEG, modality="SEG")
    ran: list[str] = []
    made = EmittedObject(SEG, "1.2.9.1", "1.2", "1.2.9", EXPLICIT, data, "k" * 64)
    archive.store_emitted([made], in_transaction=lambda connection: ran.append("yes"))
    before = revision(archive)
    assert ran == ["yes"]
    assert before[0] == 1
    coerced = dataset("1.2", "1.2.9", "1.2.9.1", sop_class=SEG, modality="SEG", patient_id="OTHER")
    assert put(archive, coerced, "1.2.9.1", sop_class=SEG).outcome is Outcome.OWN_RESULT
    foreign = dataset("1.2", "1.2.9", "1.2.9.2", sop_class=SEG, modality="SEG", description="2.25.777")
    for pieces in (1, 50):
        assert put(archive, foreign, "1.2.9.2", sop_class=SEG, pieces=pieces).outcome is Outcome.OWN_RESULT
    archive.delete_instance("1.2.9.1", who="test", reason="gone")
    assert put(archive, data, "1.2.9.1", sop_class=SEG).outcome is Outcome.OWN_RESULT
    assert revision(archive) == before
    with archive.database.read() as connection:
        assert connection.scalar(select(func.count()).where(audit.c.event == "instance.own_result")) == 4


@pytest.mark.parametrize("place", ["in an attribute", "where two inflated pieces meet"])
@pytest.mark.parametrize("pieces", [1, 50])
def test_our_device_is_seen_inside_a_deflated_data_set(archive: Archive, place: str, pieces: int) -> None:
    put(archive, *image(1))
    before = revision(archive)
    named = {"sop_class": SEG, "modality": "SEG"}
    if place == "in an attribute":
        data = dataset("1.2", "1.2.9", "1.2.9.7", description="2.25.777", **named)  # type: ignore[arg-type]
    else:
        header = len(dataset("1.2", "1.2.9", "1.2.9.7", pixels=b"", **named))  # type: ignore[arg-type]
        pixels = bytes(INFLATE_STEP - header - 4) + b"2.25.777" + bytes(64)
        data = dataset("1.2", "1.2.9", "1.2.9.7", pixels=pixels, **named)  # type: ignore[arg-type]
    deflated = zlib.compress(data, wbits=-zlib.MAX_WBITS)
    assert b"2.25.777" not in deflated
    assert put(archive, deflated, "1.2.9.7", sop_class=SEG, syntax=DEFLATED, pieces=pieces).outcome is Outcome.OWN_RESULT
    assert revision(archive) == before
    other = zlib.compress(dataset("1.2", "1.2.9", "1.2.9.8", **named), wbits=-zlib.MAX_WBITS)  # type: ignore[arg-type]
    assert put(archive, other, "1.2.9.8", sop_class=SEG, syntax=DEFLATED, pieces=pieces).outcome is Outcome.STORED


def test_a_failing_emission_leaves_nothing(archive: Archive) -> None:
    put(archive, *image(1))
    data = dataset("1.2", "1.2.9", "1.2.9.1", sop_class=SEG, modality="SEG")

    def refuse(connection: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        archive.store_emitted([EmittedObject(SEG, "1.2.9.1", "1.2", "1.2.9", EXPLICIT, data, "k")], in_transaction=refuse)
    with pytest.raises(NotFound):
        archive.open_instance("1.2.9.1")
    assert [len(listed(path)) for path in segments(archive)] == [1]


def test_deleted_instances_may_come_again(archive: Archive) -> None:
    data, uid = image(1)
    put(archive, data, uid)
    archive.delete_instance(uid, who="test", reason="test")
    assert put(archive, data, uid).outcome is Outcome.STORED
    assert archive.open_instance(uid).read().endswith(data)


def test_an_aborted_long_instance_leaves_no_trace(archive: Archive, tmp_path: Path) -> None:
    put(archive, *image(1))
    session = archive.session(SOURCE)
    long, uid = image(2, pixels=b"\xaa" * 3_000_000)
    writer = session.begin(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT)
    for start in range(0, len(long) - 1000, 100_000):
        writer.write([long[start : start + 100_000]])
        assert len(listed(segments(archive)[0])) == 1
    writer.abandon()
    session.close()
    put(archive, *image(3))
    (path,) = segments(archive)
    assert len(listed(path)) == 2
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "xf", path, "-C", out], check=True)
    assert len(list(out.rglob("*.dcm"))) == 2
    assert archive.seal_study("1.2") == 1
    assert len(listed(path)) == 2


def test_mismatches_and_nonsense_are_refused(archive: Archive) -> None:
    data, uid = image(1)
    with pytest.raises(DataSetMismatch):
        put(archive, data, "1.2.1.99")
    with pytest.raises(DataSetMismatch):
        put(archive, data, uid, sop_class=SEG)
    for bad in ("../x", "", "/abs", "1\0" * 3 + "/"):
        with pytest.raises(CannotUnderstand):
            put(archive, data, bad)
    assert put(archive, data[:-5], uid).outcome is Outcome.QUARANTINED
    assert put(archive, dataset("../../x", "1.2", uid), uid).outcome is Outcome.QUARANTINED
    assert count(archive, instance) == count(archive, study) == 0
    assert {path.name for path in archive.root.iterdir()} <= {"archive-id", "segments", "spool", "quarantine", "deletions.jsonl"}
    assert put(archive, data, f"{uid}\0").outcome is Outcome.STORED


@pytest.mark.parametrize("step", ["allocate", "write", "sync", "sync_directory"])
def test_a_full_disk_leaves_no_orphan_and_service_resumes(archive: Archive, disk: TracingDisk, step: str) -> None:
    disk.fail = step
    with pytest.raises(NoSpace):
        put(archive, *image(1))
    disk.fail = ""
    assert put(archive, *image(1)).outcome is Outcome.STORED
    assert put(archive, *image(2)).outcome is Outcome.STORED
    archive.pool.close()
    assert not archive.recover().damaged
    assert sum(len(listed(path)) for path in segments(archive)) == 2


def test_below_the_watermark_nothing_is_taken(archive: Archive, database: Database) -> None:
    full = Archive.open(archive.root, database, process="full", settings=ArchiveSettings(min_free=1 << 60))
    with pytest.raises(NoSpace):
        put(full, *image(1))
    full.close()


def test_an_unavailable_index_leaves_no_bytes(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    put(archive, *image(1))
    archive.writer.close()

    def away() -> object:
        raise IndexUnavailable("index is away")

    with monkeypatch.context() as patch:
        patch.setattr(archive.database, "raw", away)
        with pytest.raises(IndexUnavailable):
            put(archive, *image(2))
    assert [len(listed(path)) for path in segments(archive)] == [1]
    assert put(archive, *image(2)).outcome is Outcome.STORED


def test_one_association_per_instance_makes_one_segment(archive: Archive) -> None:
    for number in range(20):
        put(archive, *image(number))
    assert count(archive, segment) == len(segments(archive)) == 1


def test_interleaved_studies_make_one_segment_each(archive: Archive) -> None:
    session = archive.session(SOURCE)
    for number in range(3):
        for which in range(10):
            data, uid = image(number, f"1.{which + 5}")
            writer = session.begin(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT)
            writer.write([data])
            writer.commit()
    session.close()
    assert len(segments(archive)) == 10


def test_few_open_files_and_segments_are_reopened(tmp_path: Path, database: Database) -> None:
    Archive.create(tmp_path / "a", database).close()
    archive = Archive.open(tmp_path / "a", database, process="p", settings=ArchiveSettings(max_idle_segments=2))
    before = len(os.listdir("/dev/fd"))
    for number in range(2):
        for which in range(6):
            put(archive, *image(number, f"1.{which + 5}"))
    assert len(os.listdir("/dev/fd")) <= before + 6
    assert len(segments(archive)) == 6
    assert [len(listed(path)) for path in segments(archive)] == [2] * 6
    archive.close()


def test_two_processes_write_their_own_segments(archive: Archive, database: Database) -> None:
    other = Archive.open(archive.root, database, process="other")
    put(archive, *image(1))
    put(other, *image(2))
    assert len(segments(archive)) == 2
    assert len(other.recover().busy) == 2
    other.close()


def test_a_study_with_two_patients_is_flagged(archive: Archive) -> None:
    put(archive, *image(1))
    put(archive, *image(2, patient_id="P2"))
    assert revision(archive)[2]


@pytest.mark.parametrize(("flag", "kept"), [("held for review (x)", True), ("too little memory for model x: y", False)])
def test_two_patients_outweigh_a_flag_that_stops_nothing(archive: Archive, database: Database, flag: str, kept: bool) -> None:
    put(archive, *image(1))
    with database.begin() as connection:
        connection.execute(update(study).values(flag=flag))
    put(archive, *image(2, patient_id="P2"))
    assert (revision(archive)[2] == flag) is kept


def test_whole_members_without_rows_are_indexed_and_torn_ones_vanish(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    put(archive, *image(1))
    with monkeypatch.context() as patch:
        # As a crash between sync and row leaves it.
        patch.setattr(IndexWriter, "submit", lambda self, entry: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr("storage.segments.Segment.abandon", lambda self: self.close())
        with pytest.raises(KeyboardInterrupt):
            put(archive, *image(2))
    path = segments(archive)[0]
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 5000)
        file.write(b"torn")
    report = archive.recover()
    assert report.indexed == ["1.2.1.2"]
    assert report.torn
    assert len(listed(path)) == 2
    assert archive.open_instance("1.2.1.2").read().endswith(image(2)[0])
    assert put(archive, *image(3)).outcome is Outcome.STORED
    assert len(listed(path)) == 3
    assert revision(archive)[0] == 3
    again = archive.recover()
    assert not again.indexed
    assert not again.torn


def test_damage_is_marked_and_its_row_stays(archive: Archive) -> None:
    put(archive, *image(1))
    put(archive, *image(2))
    archive.pool.close()
    place = archive.open_instance("1.2.1.1")
    with place.path.open("r+b") as file:
        file.seek(place.offset - 100)
        file.write(b"garbage")
    assert archive.recover().damaged == ["1.2.1.1"]
    assert [each.damaged for each in archive.instances("1.2")] == [True, False]
    place.path.unlink()
    assert sorted(archive.recover().damaged) == ["1.2.1.1", "1.2.1.2"]
    assert count(archive, instance) == 2


def test_root_and_index_must_belong_together(archive: Archive, database: Database, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveMismatch):
        Archive.open(tmp_path / "empty", database, process="x")
    (archive.root / "archive-id").write_text("another\n")
    with pytest.raises(ArchiveMismatch):
        Archive.open(archive.root, database, process="x")


def test_series_of_one_uid_in_two_studies_stay_apart(archive: Archive) -> None:
    put(archive, dataset("1.2", "5.5", "1.2.7"), "1.2.7")
    put(archive, dataset("1.3", "5.5", "1.3.7"), "1.3.7")
    assert count(archive, series) == 2


class RobbedDisk(Disk):
    """Between the making and the locking of a segment another process clears it away, once."""

    def __init__(self) -> None:
        self.robbed = 0

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        if not self.robbed:
            self.robbed += 1
            path.unlink()
        return descriptor


def test_a_segment_that_was_cleared_away_before_its_lock_is_not_written(tmp_path: Path, database: Database) -> None:
    Archive.create(tmp_path / "archive", database).close()
    robbed = RobbedDisk()
    opened = Archive.open(tmp_path / "archive", database, process="test", disk=robbed)
    data, uid = image(1)
    assert put(opened, data, uid).outcome is Outcome.STORED
    assert robbed.robbed
    assert opened.open_instance(uid).read().endswith(data)
    opened.close()


def test_keys_that_another_process_deleted_and_gave_out_again_are_not_written_to(archive: Archive, database: Database) -> None:
    data, uid = image(1, "1.2.1")
    assert put(archive, data, uid).outcome is Outcome.STORED
    archive.close_idle_segments("1.2.1")
    other = Archive.open(archive.root, database, process="other")
    try:
        other.delete_study("1.2.1", who="test", reason="its keys shall be given out again")
        data, uid = image(2, "1.2.2")
        assert put(other, data, uid).outcome is Outcome.STORED
    finally:
        other.close()
    data, uid = image(3, "1.2.1")
    assert put(archive, data, uid).outcome is Outcome.STORED
    assert [one.study_uid for one in archive.instances("1.2.1")] == ["1.2.1"]
    assert revision(archive, "1.2.1")[0] == 1
    assert revision(archive, "1.2.2")[0] == 1
