"""A duplicate of an instance whose stored bytes are broken is not told Success for nothing: its bytes become the instance's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.filereader import read_dataset
from pynetdicom.dsutils import encode
from sqlalchemy import func, select, update

from storage import deletion, quarantine, recovery, schema
from storage.archive import Archive, EmittedObject, Outcome
from storage.database import Database, open_database
from storage.errors import IndexUnavailable
from storage.integrity import verify
from storage.reindex import reindex
from tests.contract.test_archive import archive, count, disk, image, put, revision, segments  # noqa: F401 - fixtures
from tests.datasets import EXPLICIT, IMPLICIT, SEG, dataset
from tests.segments import listed

Harm = Callable[[Archive], object]
UID = "1.2.1.1"


def change(archive: Archive, uid: str = UID) -> None:  # noqa: F811
    """Alter a byte of the stored data set, and tell nobody."""
    stored = archive.open_instance(uid)
    with stored.path.open("r+b") as file:
        file.seek(stored.offset + stored.length - 2)
        file.write(b"\xee\xee")


def mark(archive: Archive) -> None:  # noqa: F811
    with archive.database.begin() as connection:
        connection.execute(update(schema.instance).where(schema.instance.c.sop_uid == UID).values(status="DAMAGED", damage="seen so"))


def cut(archive: Archive) -> None:  # noqa: F811
    stored = archive.open_instance(UID)
    archive.pool.close()
    with stored.path.open("r+b") as file:
        file.truncate(stored.offset + 100)


def remove(archive: Archive) -> None:  # noqa: F811
    archive.pool.close()
    archive.open_instance(UID).path.unlink()


def facts(database: Database) -> set[tuple[object, ...]]:
    columns = schema.instance.c
    query = select(columns.received_at, columns.sop_uid, columns.digest, columns.status, columns.calling_ae, columns.revision)
    with database.read() as connection:
        return {(round(row.received_at, 6), *row[1:]) for row in connection.execute(query)}


def rebuilt(archive: Archive, tmp_path: Path) -> set[tuple[object, ...]]:  # noqa: F811
    archive.pool.close()
    with closing(open_database(f"sqlite:///{tmp_path / 'rebuilt.sqlite'}", create=True)) as database:
        reindex(archive.root, database)
        return facts(database)


@pytest.mark.parametrize("harm", [change, mark, cut, remove])
def test_the_same_bytes_replace_broken_ones(archive: Archive, tmp_path: Path, harm: Harm) -> None:  # noqa: F811
    data, uid = image(1)
    put(archive, data, uid)
    before = revision(archive)
    harm(archive)
    assert put(archive, data, uid).outcome is Outcome.STORED
    stored = archive.open_instance(uid)
    assert stored.status == "OK"
    assert stored.read().endswith(data)
    assert revision(archive) == before
    assert count(archive, schema.instance) == count(archive, schema.location) == 1
    with archive.database.read() as connection:
        assert connection.scalar(select(func.count()).where(schema.audit.c.event == "instance.repaired")) == 1
    assert put(archive, data, uid).outcome is Outcome.DUPLICATE
    assert count(archive, schema.tombstone) == 1
    assert verify(archive).ok
    live = [name for path in segments(archive) for name in listed(path) if not name.startswith(".deleted/")]
    assert live == ["1.2.1/1.2.1.1.dcm"]
    assert rebuilt(archive, tmp_path) == facts(archive.database)
    assert not archive.recover().damaged


def test_what_recovery_marked_is_made_whole_beside_its_neighbours(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    for number in (1, 2, 3):
        put(archive, *image(number))
    change(archive)
    assert [each.sop_uid for each in verify(archive).damaged] == [UID]
    assert put(archive, *image(1)).outcome is Outcome.STORED
    assert [put(archive, *image(number)).outcome for number in (1, 2, 3, 4)] == [Outcome.DUPLICATE] * 3 + [Outcome.STORED]
    assert verify(archive).ok
    assert rebuilt(archive, tmp_path) == facts(archive.database)


def test_an_accepted_revision_is_repaired_as_that_revision(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    old, new = image(1)[0], image(1, pixels=b"other!")[0]
    put(archive, old, UID)
    assert put(archive, new, UID).outcome is Outcome.CONFLICT
    quarantine.accept(archive, quarantine.list_held(archive)[0].pk, who="me", reason="better")
    change(archive)
    assert put(archive, new, UID).outcome is Outcome.STORED
    assert archive.open_instance(UID).read().endswith(new)
    assert verify(archive).ok
    assert {path.name for path in segments(archive)} == {segments(archive)[0].name}
    assert [name for name in listed(segments(archive)[0]) if not name.startswith(".deleted/")] == [
        "1.2.1/1.2.1.1.dcm",
        "1.2.1/1.2.1.1.r2.dcm",
    ]
    assert rebuilt(archive, tmp_path) == facts(archive.database)


def test_many_senders_repair_it_once(archive: Archive) -> None:  # noqa: F811
    data, uid = image(1)
    put(archive, data, uid)
    change(archive)
    start, outcomes = threading.Barrier(4), list[str]()

    def send() -> None:
        start.wait()
        outcomes.append(put(archive, data, uid).outcome.name)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["DUPLICATE"] * 3 + ["STORED"]
    assert archive.open_instance(uid).read().endswith(data)
    assert verify(archive).ok


def test_other_content_does_not_replace_a_broken_copy(archive: Archive) -> None:  # noqa: F811
    put(archive, *image(1))
    mark(archive)
    assert put(archive, *image(1, pixels=b"other!")).outcome is Outcome.CONFLICT
    assert archive.open_instance(UID).damaged


def test_an_index_that_goes_away_is_told_and_the_next_try_succeeds(
    archive: Archive,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, uid = image(1)
    put(archive, data, uid)
    change(archive)

    def away(*arguments: object, **named: object) -> object:
        raise IndexUnavailable("index is away")

    with monkeypatch.context() as patch:
        patch.setattr("storage.repair._move", away)
        with pytest.raises(IndexUnavailable):
            put(archive, data, uid)
    assert put(archive, data, uid).outcome is Outcome.STORED
    assert archive.open_instance(uid).read().endswith(data)
    assert verify(archive).ok


def test_a_kill_before_the_broken_bytes_went_is_finished_at_the_next_start(
    archive: Archive,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, uid = image(1)
    put(archive, data, uid)
    change(archive)

    def die(*arguments: object, **named: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(deletion, "_remove_bytes", die)
        assert put(archive, data, uid).outcome is Outcome.STORED
    assert rebuilt(archive, tmp_path) == facts(archive.database)
    archive.recover()
    assert verify(archive).ok
    assert [name for path in segments(archive) for name in listed(path) if not name.startswith(".deleted/")] == ["1.2.1/1.2.1.1.dcm"]


@pytest.mark.parametrize("harm", [change, mark, cut, remove])
@pytest.mark.parametrize("named", [False, True], ids=["by its UID", "by its device too"])
def test_an_object_of_our_own_that_comes_back_mends_ours(archive: Archive, tmp_path: Path, harm: Harm, named: bool) -> None:  # noqa: F811
    put(archive, *image(2))
    data = dataset("1.2", "1.2.1", UID, sop_class=SEG, modality="SEG", description="2.25.777" if named else "")
    made = EmittedObject(SEG, UID, "1.2", "1.2.1", EXPLICIT, data, "k" * 64)
    archive.store_emitted([made], in_transaction=lambda connection: None)
    before, told = revision(archive), [each for each in facts(archive.database) if each[1] == UID]
    other = dataset("1.2", "1.2.1", UID, sop_class=SEG, modality="SEG", patient_id="COERCED")
    assert put(archive, data, UID, sop_class=SEG).outcome is Outcome.OWN_RESULT
    assert count(archive, schema.tombstone) == 0, "whole as it is"
    harm(archive)
    assert put(archive, other, UID, sop_class=SEG).outcome is Outcome.OWN_RESULT
    assert count(archive, schema.tombstone) == 0, "other bytes mend nothing"
    assert put(archive, data, UID, sop_class=SEG, pieces=3).outcome is Outcome.OWN_RESULT
    stored = archive.open_instance(UID)
    assert (stored.status, stored.read().endswith(data)) == ("OK", True)
    assert revision(archive) == before
    if harm is remove:
        put(archive, *image(2))
    assert [each for each in facts(archive.database) if each[1] == UID] == told, "the receipt is no new one"
    with archive.database.read() as connection:
        row = connection.execute(select(schema.instance).where(schema.instance.c.sop_uid == UID)).one()
    assert (row.origin, row.run_key) == ("emitted", "k" * 64)
    assert verify(archive).ok
    assert rebuilt(archive, tmp_path) == facts(archive.database)


def test_a_row_that_became_durable_while_its_segment_was_recovered_keeps_its_bytes(
    archive: Archive,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in (1, 2):
        put(archive, *image(number))
    archive.pool.close()
    monkeypatch.setattr(recovery, "_known", lambda *asked: (0, set()))  # the rows were looked for just before they were there
    report = archive.recover()
    assert report.discarded == []
    assert archive.open_instance(UID).read().endswith(image(1)[0])
    assert verify(archive).ok
    assert count(archive, schema.instance) == count(archive, schema.location) == 2


@pytest.mark.parametrize("harm", [change, mark, cut, remove])
def test_the_same_content_in_another_syntax_mends_broken_bytes(archive: Archive, tmp_path: Path, harm: Harm) -> None:  # noqa: F811
    data, uid = image(1)
    put(archive, data, uid)
    before, told = revision(archive), facts(archive.database)
    harm(archive)
    other = in_implicit(image(1, pixels=b"zz" * 50)[0])
    assert put(archive, other, uid, syntax=IMPLICIT).outcome is Outcome.CONFLICT
    assert put(archive, in_implicit(data), uid, syntax=IMPLICIT).outcome is Outcome.STORED
    stored = archive.open_instance(uid)
    assert (stored.status, stored.transfer_syntax_uid, stored.read().endswith(data)) == ("OK", EXPLICIT, True)
    assert revision(archive) == before
    assert facts(archive.database) == told
    assert verify(archive).ok
    assert rebuilt(archive, tmp_path) == told
    assert put(archive, in_implicit(data), uid, syntax=IMPLICIT).outcome is Outcome.DUPLICATE


def in_implicit(data: bytes) -> bytes:
    encoded = encode(read_dataset(BytesIO(data), False, True), True, True)
    assert encoded is not None
    return bytes(encoded)
