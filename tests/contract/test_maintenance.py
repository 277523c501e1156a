"""Import, export, quarantine and header JSON on a working archive, on both databases."""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from storage import header_json, quarantine, schema
from storage.archive import Archive, Outcome, Source
from storage.backup import backup, restore
from storage.completion import CompletionPolicy, complete_quiet
from storage.database import Database, open_database
from storage.deletion import delete_instance
from storage.errors import NotFound, QuarantineConflict
from storage.exporter import export
from storage.importer import import_files
from storage.integrity import verify
from tests.datasets import CT, EXPLICIT, dataset, part10
from tests.segments import listed

STUDY, SERIES = "1.2.1", "1.2.1.1"
SOURCE = Source(None, "SCANNER", "NODE", "127.0.0.1", "received")


@pytest.fixture
def archive(tmp_path: Path, database: Database) -> Iterator[Archive]:
    Archive.create(tmp_path / "archive", database).close()
    opened = Archive.open(tmp_path / "archive", database, process="test")
    opened.recover()
    yield opened
    opened.close()


def store(archive: Archive, sop_uid: str, data: bytes, source: Source = SOURCE) -> Outcome:
    session = archive.session(source)
    try:
        writer = session.begin(sop_class_uid=CT, sop_instance_uid=sop_uid, transfer_syntax_uid=EXPLICIT)
        writer.write([data])
        return writer.commit().outcome
    finally:
        session.close()


def slice_of(number: int, fill: int = 1) -> tuple[str, bytes]:
    sop_uid = f"{SERIES}.{number}"
    return sop_uid, dataset(STUDY, SERIES, sop_uid, number=number, pixels=bytes([fill]) * 3000)


def count(archive: Archive, table: object, *where: object) -> int:
    with archive.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())  # type: ignore[arg-type]


# -- import and export ------------------------------------------------------------------------------------------------------------------


def folder_of_files(folder: Path) -> None:
    (folder / "sub").mkdir(parents=True)
    for number in range(1, 4):
        sop_uid, data = slice_of(number)
        (folder / "sub" / f"{number}").write_bytes(part10(data, CT, sop_uid, preamble=b"MZ".ljust(128, b"\x90")))
    (folder / "again.dcm").write_bytes((folder / "sub" / "1").read_bytes())
    (folder / "readme.txt").write_text("a text that is long enough to be looked at")
    (folder / "truncated.dcm").write_bytes((folder / "sub" / "2").read_bytes()[:-100])
    os.mkfifo(folder / "pipe")


def test_import_takes_dicom_and_counts_the_rest(archive: Archive, tmp_path: Path) -> None:
    folder_of_files(tmp_path / "files")
    seen: list[tuple[int, int]] = []
    report = import_files(archive, [tmp_path / "files"], progress=lambda done, total: seen.append((done, total)))
    assert report.outcomes["STORED"] == 3
    assert report.outcomes["DUPLICATE"] == 1
    assert report.outcomes["SKIPPED"] == 2
    assert report.failed == 1
    assert report.study_uids == (STUDY,)
    assert seen[-1] == (7, 7)
    with archive.database.read() as connection:
        assert set(connection.execute(select(schema.instance.c.origin)).scalars()) == {"imported"}
        assert set(connection.execute(select(schema.study.c.state)).scalars()) == {"COMPLETE"}
    assert complete_quiet(archive.database, archive.clock() + 1e6, CompletionPolicy(quiet_period=1.0)) == []
    assert count(archive, schema.job) == 0
    assert b"MZ" not in archive.open_instance(f"{SERIES}.1").read()[:128]
    assert verify(archive).ok


def test_export_and_import_again_are_all_duplicates(archive: Archive, tmp_path: Path) -> None:
    folder_of_files(tmp_path / "files")
    import_files(archive, [tmp_path / "files"])
    report = export(archive, tmp_path / "out", [STUDY])
    assert (report.instances, report.failed) == (3, ())
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.dcm"))
    assert files == [f"{STUDY}/{SERIES}/{SERIES}.{number}.dcm" for number in (1, 2, 3)]
    assert import_files(archive, [tmp_path / "out"]).outcomes == {"DUPLICATE": 3}
    assert (tmp_path / "out" / files[0]).read_bytes() == archive.open_instance(f"{SERIES}.1").read()


@pytest.mark.real_data
def test_real_and_malformed_files_are_imported_or_refused(archive: Archive, real_data: Path, tmp_path: Path) -> None:
    report = import_files(archive, [real_data / name for name in ("malformed", "charsets", "transfer-syntax", "seg-sr-rt")])
    assert report.outcomes["STORED"] > 30
    assert verify(archive).ok
    while header_json.build_missing(archive, 50):
        pass
    exported = export(archive, tmp_path / "out", report.study_uids)
    assert exported.failed == ()
    assert exported.instances == count(archive, schema.instance)


# -- quarantine -------------------------------------------------------------------------------------------------------------------------


def conflict(archive: Archive, number: int = 1, fill: int = 9) -> quarantine.Quarantined:
    store(archive, *slice_of(number))
    assert store(archive, *slice_of(number, fill)) is Outcome.CONFLICT
    return next(held for held in quarantine.list_held(archive) if held.sop_uid == f"{SERIES}.{number}")


def test_a_conflict_is_held_and_its_difference_shown(archive: Archive) -> None:
    held = conflict(archive)
    assert (held.kind, held.state, held.calling_ae) == ("conflict", "HELD", "SCANNER")
    assert [difference.keyword for difference in quarantine.difference(archive, held.pk)] == ["PixelData"]
    assert listed(archive.root / held.name) == [f"{SERIES}/{SERIES}.1.dcm"]
    assert archive.open_instance(held.sop_uid).digest == held.existing_digest
    assert verify(archive).ok


def test_accept_makes_a_revision_and_keeps_the_old_bytes(archive: Archive) -> None:
    held = conflict(archive)
    resolved = quarantine.accept(archive, held.pk, who="me", reason="the scanner corrected it")
    assert (resolved.state, resolved.resolved_by, resolved.resolution) == ("ACCEPTED", "me", "the scanner corrected it")
    current = archive.open_instance(held.sop_uid)
    assert current.digest == held.digest
    assert current.read().endswith(b"\x09" * 3000)
    assert count(archive, schema.location) == 2
    assert not (archive.root / held.name).exists()
    assert store(archive, *slice_of(1, 9)) is Outcome.DUPLICATE
    (segment,) = (archive.root / "segments").rglob("*.tar")
    assert listed(segment) == [f"{SERIES}/{SERIES}.1.dcm", f"{SERIES}/{SERIES}.1.r2.dcm"]
    assert verify(archive).ok
    with pytest.raises(QuarantineConflict):
        quarantine.accept(archive, held.pk, who="me", reason="again")


def test_discard_removes_the_bytes_and_a_second_conflict_is_held_again(archive: Archive) -> None:
    held = conflict(archive)
    with pytest.raises(QuarantineConflict, match="reason"):
        quarantine.discard(archive, held.pk, who="me", reason=" ")
    assert quarantine.discard(archive, held.pk, who="me", reason="wrong patient").state == "DISCARDED"
    assert not (archive.root / held.name).exists()
    assert quarantine.list_held(archive) == []
    assert store(archive, *slice_of(1, 9)) is Outcome.CONFLICT
    assert len(quarantine.list_held(archive)) == 1
    assert verify(archive).ok


def test_what_it_collided_with_is_gone(archive: Archive) -> None:
    held = conflict(archive)
    delete_instance(archive, held.sop_uid, who="me", reason="wrong")
    with pytest.raises(NotFound):
        quarantine.difference(archive, held.pk)
    assert quarantine.accept(archive, held.pk, who="me", reason="the better one").state == "ACCEPTED"
    assert archive.open_instance(held.sop_uid).digest == held.digest
    assert verify(archive).ok


def test_the_same_conflict_twice_is_one_entry(archive: Archive) -> None:
    conflict(archive)
    store(archive, *slice_of(1, 9))
    assert len(quarantine.list_held(archive)) == 1


def test_a_study_in_which_every_slice_conflicts(archive: Archive) -> None:
    for number in range(60):
        store(archive, *slice_of(number))
    outcomes = Counter(store(archive, *slice_of(number, 7)) for number in range(60))
    assert outcomes == {Outcome.CONFLICT: 60}
    held = quarantine.list_held(archive)
    assert len(held) == 60
    for entry in held[::2]:
        quarantine.accept(archive, entry.pk, who="me", reason="all of them")
    for entry in held[1::2]:
        quarantine.discard(archive, entry.pk, who="me", reason="all of them")
    assert list((archive.root / "quarantine").glob("*.tar")) == []
    assert verify(archive).ok


# -- beside an open association -----------------------------------------------------------------------------------------------------------


def test_a_study_deleted_while_it_is_being_sent(archive: Archive) -> None:
    session = archive.session(SOURCE)

    def send(number: int) -> Outcome:
        sop_uid, data = slice_of(number)
        writer = session.begin(sop_class_uid=CT, sop_instance_uid=sop_uid, transfer_syntax_uid=EXPLICIT)
        writer.write([data])
        return writer.commit().outcome

    assert [send(number) for number in (1, 2)] == [Outcome.STORED] * 2
    assert archive.delete_study(STUDY, who="me", reason="asked").segments_removed == 0
    assert [send(number) for number in (2, 3)] == [Outcome.STORED] * 2
    session.close()
    (segment,) = (archive.root / "segments").rglob("*.tar")
    assert [name.startswith(".deleted/") for name in listed(segment)] == [True, True, False, False]
    assert {each.sop_uid for each in archive.instances(STUDY)} == {f"{SERIES}.2", f"{SERIES}.3"}
    assert verify(archive).ok
    assert archive.delete_study(STUDY, who="me", reason="asked").segments_removed == 1
    assert verify(archive).ok


# -- backup under load ------------------------------------------------------------------------------------------------------------------


def test_every_instance_acknowledged_before_the_backup_began_is_in_it(archive: Archive, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    stop = threading.Event()

    def send(thread: int) -> None:
        session = archive.session(SOURCE)
        for number in itertools.count():
            if stop.is_set():
                break
            study = f"1.2.{thread}.{number // 10}"
            sop_uid = f"{study}.1.{number}"
            writer = session.begin(sop_class_uid=CT, sop_instance_uid=sop_uid, transfer_syntax_uid=EXPLICIT)
            writer.write([dataset(study, f"{study}.1", sop_uid, pixels=os.urandom(2000))])
            assert writer.commit().outcome is Outcome.STORED
            acknowledged.append(sop_uid)
        session.close()

    with ThreadPoolExecutor(3) as pool:
        try:
            sending = [pool.submit(send, thread) for thread in range(3)]
            for target in ("first", "second"):
                while len(acknowledged) < 60 and not any(future.done() for future in sending):
                    stop.wait(0.01)
                before = list(acknowledged)
                backup(archive, tmp_path / target)
                url = f"sqlite:///{tmp_path / target}.sqlite"
                restore(tmp_path / target, tmp_path / f"{target}-restored", url)
                with closing(open_database(url)) as index:
                    again = Archive.open(tmp_path / f"{target}-restored", index, process="test")
                    recovered = again.recover()
                    assert (recovered.damaged, recovered.torn) == ([], [])
                    with index.read() as connection:
                        held = set(connection.execute(select(schema.instance.c.sop_uid)).scalars())
                    assert held.issuperset(before)
                    assert verify(again).ok
                    again.close()
        finally:
            stop.set()
        for future in sending:
            future.result()


# -- header JSON ------------------------------------------------------------------------------------------------------------------------


def test_header_json_is_made_in_batches_and_anew_for_a_revision(archive: Archive) -> None:
    for number in range(1, 6):
        store(archive, *slice_of(number))
    assert header_json.backlog(archive) == 5
    assert header_json.build_missing(archive, 3) == 3
    assert header_json.backlog(archive) == 2
    assert header_json.build_missing(archive, 3) == 2
    assert header_json.build_missing(archive, 3) == 0
    with archive.database.read() as connection:
        (packed,) = connection.execute(select(schema.instance_header.c.json_zlib).limit(1)).scalars()
    assert header_json.decode_header(packed)["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}
    held = conflict(archive, 1)
    quarantine.accept(archive, held.pk, who="me", reason="better")
    assert header_json.backlog(archive) == 1
    assert header_json.build_missing(archive, 3) == 1


def test_a_maker_finds_new_rows_by_its_watermark_and_old_ones_by_its_passes(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_json, "OVERLAP", 0)
    now = [1000.0]
    archive.clock = lambda: now[0]
    for number in range(1, 8):
        store(archive, *slice_of(number))
    maker = header_json.HeaderMaker(archive, every=60.0)
    assert [maker.build(3) for _ in range(4)] == [3, 3, 1, 0]
    store(archive, *slice_of(8))
    assert maker.build(3) == 1
    held = conflict(archive, 1)
    quarantine.accept(archive, held.pk, who="me", reason="better")
    assert maker.build(3) == 0
    now[0] += 61.0
    assert maker.build(3) == 1
    assert header_json.backlog(archive) == 0


def test_the_headers_of_one_study_are_made_at_once(archive: Archive) -> None:
    for number in range(1, 6):
        store(archive, *slice_of(number))
    other = dataset("1.9", "1.9.1", "1.9.1.1")
    store(archive, "1.9.1.1", other)
    assert header_json.build_study(archive, STUDY, batch=2) == 5
    assert header_json.build_study(archive, STUDY) == 0
    assert header_json.build_study(archive, "1.5") == 0
    assert header_json.backlog(archive) == 1
