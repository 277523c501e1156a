"""The index rebuilt from bytes alone, on archives made by hand."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Table, func, select

from storage import schema
from storage.database import Database, open_database
from storage.disk import Disk
from storage.errors import ArchiveMismatch, StorageError
from storage.journal import Deletion, MemberSpan, append
from storage.members import read_member
from storage.quarantine_file import Why, write
from storage.reindex import reindex
from tests.datasets import SEG, dataset
from tests.segments import info_of, listed, member_bytes, write_segment

STUDY, SERIES = "1.2.1", "1.2.1.1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    (root / "segments").mkdir(parents=True)
    (root / "archive-id").write_text("the-archive\n")
    return root


def instance_bytes(number: int, **changes: object) -> bytes:
    data = dataset(STUDY, SERIES, f"1.2.1.1.{number}", number=number, pixels=bytes([number]) * 600)
    return member_bytes(info_of(STUDY, SERIES, f"1.2.1.1.{number}", data, **changes), data)


def rows(database: Database, table: Table) -> list[dict[str, object]]:
    with database.read() as connection:
        return [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns)).mappings()]


def test_receipt_source_and_attributes_come_back(root: Path, database: Database) -> None:
    path = write_segment(root, STUDY, "a", [instance_bytes(1), instance_bytes(2, received_at=1_760_000_009.25)], zeros=1 << 20)
    report = reindex(root, database)
    assert (report.instances, report.studies, report.damaged, report.passed_over) == (2, 1, [], [])
    first, second = rows(database, schema.instance)
    assert (first["sop_uid"], first["calling_ae"], first["called_ae"], first["association_id"]) == ("1.2.1.1.1", "SCANNER", "NODE", "a1")
    assert (second["received_at"], second["origin"], second["rows"], second["instance_number"]) == (1_760_000_009.25, "received", 10, "2")
    (study,) = rows(database, schema.study)
    assert (study["state"], study["revision"], study["completed_revision"], study["study_date"]) == ("COMPLETE", 2, 2, "20250102")
    (patient,) = rows(database, schema.patient)
    assert (patient["patient_id"], patient["name"]) == ("P1", "Doe^Jane")
    (segment,) = rows(database, schema.segment)
    assert (segment["name"], segment["state"]) == (str(path.relative_to(root)), "OPEN")
    for location in rows(database, schema.location):
        member = read_member(lambda length, offset: path.read_bytes()[offset : offset + length], int(str(location["member_offset"])))
        assert member is not None
        assert (member.offset, member.length, member.meta_length) == (location["offset"], location["length"], location["meta_length"])
    assert listed(path) == ["1.2.1.1/1.2.1.1.1.dcm", "1.2.1.1/1.2.1.1.2.dcm"]


def test_objects_we_made_come_back_as_emitted_and_raise_no_revision(root: Path, database: Database) -> None:
    data = dataset(STUDY, "1.2.9", "1.2.9.1", sop_class=SEG, modality="SEG")
    made = member_bytes(info_of(STUDY, "1.2.9", "1.2.9.1", data, sop_class_uid=SEG, origin="emitted", run_key="k" * 64), data)
    write_segment(root, STUDY, "a", [instance_bytes(1), made])
    assert reindex(root, database).emitted == 1
    assert [row["run_key"] for row in rows(database, schema.emitted)] == ["k" * 64]
    assert rows(database, schema.study)[0]["revision"] == 1
    assert rows(database, schema.instance)[1]["origin"] == "emitted"


def test_the_last_revision_counts_and_the_first_keeps_its_bytes(root: Path, database: Database) -> None:
    other = dataset(STUDY, SERIES, "1.2.1.1.1", pixels=b"\7" * 90)
    later = member_bytes(info_of(STUDY, SERIES, "1.2.1.1.1", other, revision=2), other)
    path = write_segment(root, STUDY, "a", [instance_bytes(1), later])
    reindex(root, database)
    (instance,) = rows(database, schema.instance)
    assert instance["digest"] == info_of(STUDY, SERIES, "1.2.1.1.1", other).digest
    assert instance["revision"] == 2
    assert [location["instance_revision"] for location in rows(database, schema.location)] == [1, 2]
    assert listed(path) == ["1.2.1.1/1.2.1.1.1.dcm", "1.2.1.1/1.2.1.1.1.r2.dcm"]


def test_the_journal_is_obeyed_but_not_for_what_came_after(root: Path, database: Database) -> None:
    path = write_segment(root, STUDY, "a", [instance_bytes(1), instance_bytes(2), instance_bytes(1, received_at=1_760_000_100.0)])
    name = str(path.relative_to(root))
    member = read_member(lambda length, offset: path.read_bytes()[offset : offset + length], 0)
    assert member is not None
    span = MemberSpan(name, 0, member.offset, member.length)
    append(Disk(), root, [Deletion(4, "1.2.1.1.1", STUDY, "d", "me", "asked", 1_760_000_050.0, (span,), run_key="r")])
    assert reindex(root, database).deleted == 1
    assert [row["received_at"] for row in rows(database, schema.instance)] == [1_760_000_000.5, 1_760_000_100.0]
    (tombstone,) = rows(database, schema.tombstone)
    assert (tombstone["sop_uid"], tombstone["finished_at"]) == ("1.2.1.1.1", None)
    assert [row["sop_uid"] for row in rows(database, schema.emitted)] == ["1.2.1.1.1"]


def test_damage_is_marked_and_an_interrupted_write_is_passed_over(root: Path, database: Database) -> None:
    damaged = bytearray(instance_bytes(1))
    damaged[damaged.index(b"\1" * 600)] ^= 1
    torn = bytearray(instance_bytes(3))
    torn[-512:] = bytes(512)
    write_segment(root, STUDY, "a", [bytes(damaged), instance_bytes(2), bytes(torn)], zeros=1 << 20)
    report = reindex(root, database)
    assert report.damaged == ["1.2.1.1.1"]
    assert [(row["sop_uid"], row["status"]) for row in rows(database, schema.instance)] == [("1.2.1.1.1", "DAMAGED"), ("1.2.1.1.2", "OK")]
    assert [why for _, _, why in report.passed_over] == ["an interrupted write"]


def test_a_broken_header_costs_only_its_member(root: Path, database: Database) -> None:
    broken = bytearray(instance_bytes(1))
    broken[700] ^= 1
    broken[300] ^= 1
    write_segment(root, STUDY, "a", [bytes(broken), instance_bytes(2)])
    report = reindex(root, database)
    assert [row["sop_uid"] for row in rows(database, schema.instance)] == ["1.2.1.1.2"]
    assert len(report.passed_over) == 1


def test_a_study_whose_patients_disagree_is_flagged(root: Path, database: Database) -> None:
    data = dataset(STUDY, SERIES, "1.2.1.1.8", patient_id="OTHER")
    write_segment(root, STUDY, "a", [instance_bytes(1), member_bytes(info_of(STUDY, SERIES, "1.2.1.1.8", data), data)])
    reindex(root, database)
    assert rows(database, schema.study)[0]["flag"]


def test_quarantine_comes_back(root: Path, database: Database, tmp_path: Path) -> None:
    data = dataset(STUDY, SERIES, "1.2.1.1.1", pixels=b"\x09" * 5000)
    (tmp_path / "data").write_bytes(data)
    info = info_of(STUDY, SERIES, "1.2.1.1.1", data)
    with (tmp_path / "data").open("rb") as file:
        name = write(Disk(), root, info, Why("conflict", "other content", "e" * 64), file.fileno(), 0, len(data))
        assert write(Disk(), root, info, Why("conflict", "other content", "e" * 64), file.fileno(), 0, len(data)) == name
    assert listed(root / name) == ["1.2.1.1/1.2.1.1.1.dcm"]
    assert reindex(root, database).quarantined == 1
    (held,) = rows(database, schema.quarantine)
    assert (held["kind"], held["reason"], held["existing_digest"], held["calling_ae"]) == ("conflict", "other content", "e" * 64, "SCANNER")


def test_what_names_no_study_can_be_quarantined_and_comes_back(root: Path, database: Database, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"x" * 99)
    info = info_of("", "", "1.2.3", b"x" * 99)
    with (tmp_path / "data").open("rb") as file:
        name = write(Disk(), root, info, Why("malformed", "names no study"), file.fileno(), 0, 99)
    listed(root / name)
    reindex(root, database)
    (held,) = rows(database, schema.quarantine)
    assert (held["kind"], held["sop_uid"], held["study_uid"]) == ("malformed", "1.2.3", "")


def test_a_folder_that_is_no_archive_is_refused(tmp_path: Path, database: Database) -> None:
    with pytest.raises(ArchiveMismatch):
        reindex(tmp_path, database)


def test_a_database_in_use_is_refused(root: Path, database: Database) -> None:
    reindex(root, database)
    with pytest.raises(StorageError, match="not empty"):
        reindex(root, database)


def test_both_databases_get_the_same(root: Path, database: Database, tmp_path: Path) -> None:
    write_segment(root, STUDY, "a", [instance_bytes(number) for number in range(1, 20)])
    reindex(root, database, clock=lambda: 5.0)
    with closing(open_database(f"sqlite:///{tmp_path / 'second.sqlite'}", create=True)) as second:
        reindex(root, second, clock=lambda: 5.0)
        assert rows(second, schema.instance) == rows(database, schema.instance)
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(schema.job)).scalar_one() == 0
