"""Verification finds every kind of damage, marks it, deletes nothing, and takes the mark away when the bytes are back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from storage import schema
from storage.archive import Archive
from storage.integrity import verify
from storage.segments import SEGMENTS
from tests.contract.test_deletion import SERIES, STUDY, archive, instance_bytes  # noqa: F401 - a fixture

Harm = Callable[[Path], object]


def segment_a(archive: Archive) -> Path:  # noqa: F811
    return archive.root / SEGMENTS / STUDY / "a.tar"


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def status(archive: Archive) -> dict[str, str]:  # noqa: F811
    with archive.database.read() as connection:
        return {row.sop_uid: row.status for row in connection.execute(select(schema.instance.c.sop_uid, schema.instance.c.status))}


@pytest.mark.parametrize(
    ("harm", "reason", "damaged"),
    [
        (lambda path: flip(path, path.read_bytes().index(b"\xaa" * 5000) + 77), "have changed", 1),
        (lambda path: flip(path, 5), "checksum", 1),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "have changed", 3),
        (lambda path: path.unlink(), "missing", 3),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "no member", 3),
    ],
)
def test_damage_is_marked_and_unmarked(archive: Archive, harm: Harm, reason: str, damaged: int) -> None:  # noqa: F811
    path = segment_a(archive)
    whole = path.read_bytes()
    harm(path)
    report = verify(archive)
    assert not report.ok
    assert reason in report.damaged[0].reason
    assert len(report.damaged) == damaged
    assert list(status(archive).values()).count("DAMAGED") == damaged
    path.write_bytes(whole)
    again = verify(archive)
    assert again.ok
    assert len(again.repaired) == damaged
    assert set(status(archive).values()) == {"OK"}
    assert verify(archive).repaired == []


def test_bytes_without_rows_are_reported(archive: Archive) -> None:  # noqa: F811
    path = segment_a(archive)
    data = path.read_bytes()
    path.write_bytes(data[:-1024] + instance_bytes(f"{SERIES}.5") + bytes(1024))
    (archive.root / SEGMENTS / STUDY / "unknown.tar").write_bytes(bytes(1024))
    report = verify(archive)
    assert [stray.what for stray in report.strays] == [f"{SERIES}/{SERIES}.5.dcm"]
    assert report.unknown_files == [f"{SEGMENTS}/{STUDY}/unknown.tar"]
    assert report.checked == 7
    assert path.exists()


def test_a_missing_quarantine_file_is_reported(archive: Archive) -> None:  # noqa: F811
    values = {"kind": "conflict", "digest": "d", "reason": "r", "name": "quarantine/d.tar", "received_at": 1.0}
    with archive.database.begin() as connection:
        connection.execute(insert(schema.quarantine).values(values))
    assert verify(archive).missing_quarantine == ["quarantine/d.tar"]


def test_one_study_alone(archive: Archive) -> None:  # noqa: F811
    segment_a(archive).unlink()
    assert verify(archive, study_uid="1.2.2").checked == 1
    assert verify(archive, study_uid="1.2.2").ok
    assert len(verify(archive, study_uid=STUDY).damaged) == 3


def test_headers_alone_are_quick_and_miss_changed_data(archive: Archive) -> None:  # noqa: F811
    path = segment_a(archive)
    flip(path, path.read_bytes().index(b"\xaa" * 5000) + 77)
    assert verify(archive, read_data=False).ok
