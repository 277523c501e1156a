"""Which instances a retrieve means, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.archive import Archive, Source
from storage.database import Database
from storage.retrieval import UniqueKeys, select_instances
from tests.datasets import CT, EXPLICIT, dataset, element

MANY = 40_000  # more than either database takes parameters


@pytest.fixture
def archive(tmp_path: Path, database: Database) -> Iterator[Archive]:
    Archive.create(tmp_path / "archive", database).close()
    opened = Archive.open(tmp_path / "archive", database, process="test")
    yield opened
    opened.close()


def put(archive: Archive, study: str, series: str, number: int, *, patient_id: str = "P1", issuer: str = "") -> str:
    uid = f"{study}.{series}.{number}"
    data = dataset(study, f"{study}.{series}", uid, patient_id=patient_id, number=number)
    if issuer:
        at = data.index(element(0x20, 0x0D, "UI", study))
        data = data[:at] + element(0x10, 0x21, "LO", issuer) + data[at:]
    session = archive.session(Source(None, "SCANNER", "NODE", "127.0.0.1"))
    try:
        writer = session.begin(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT)
        writer.write([data])
        assert writer.commit().outcome.name == "STORED"
    finally:
        session.close()
    return uid


def found(archive: Archive, **keys: object) -> list[str]:
    return sorted(each.sop_uid for each in select_instances(archive, UniqueKeys(**keys)))  # type: ignore[arg-type]


def test_the_issuer_tells_patients_of_one_id_apart(archive: Archive) -> None:
    here, there = put(archive, "1.2", "1", 1, issuer="HERE"), put(archive, "1.3", "1", 1, issuer="THERE")
    put(archive, "1.4", "1", 1, patient_id="P2", issuer="HERE")
    assert found(archive, patient_id="P1") == [here, there]
    assert found(archive, patient_id="P1", issuer="HERE") == [here]
    assert found(archive, patient_id="P1", issuer="THERE", study_uids=("1.2", "1.3")) == [there]
    assert found(archive, patient_id="P1", issuer="NOWHERE") == []


def test_any_number_of_uids_at_every_level_at_once(archive: Archive) -> None:
    stored = [put(archive, f"1.{study}", "1", number) for study in (2, 3) for number in (1, 2)]
    studies = (*(f"2.25.{number}" for number in range(MANY)), "1.2", "1.3")
    series = ("1.2.1", *(f"2.26.{number}" for number in range(MANY)), "1.3.1")
    images = (*(f"2.27.{number}" for number in range(MANY)), *stored[:3])
    assert found(archive, study_uids=studies) == stored
    assert found(archive, study_uids=studies, series_uids=series) == stored
    assert found(archive, study_uids=studies, series_uids=series, sop_uids=images) == stored[:3]
    assert found(archive, study_uids=studies, series_uids=("1.3.1",)) == stored[2:]
    assert found(archive, patient_id="P1", series_uids=series) == stored
    assert found(archive, study_uids=studies[:-2], series_uids=series) == []


def test_no_key_at_all_is_a_mistake(archive: Archive) -> None:
    with pytest.raises(ValueError, match="without any unique key"):
        select_instances(archive, UniqueKeys(issuer="HERE"))
