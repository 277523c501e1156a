"""Reading queries, matching names and open associations."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select, update

from storage import associations, audit, index
from storage.database import Database
from storage.names import name_keys
from storage.records import AuditRecord, from_row
from storage.rule_facts import facts_of
from storage.schema import association, instance, patient
from storage.schema import audit as audit_table
from tests.contract.fill import add_instance, add_study


@pytest.fixture
def filled(database: Database) -> Database:
    with database.begin() as connection:
        for pid, name in (("P1", "Müller^Jörg"), ("P2", "Doe^Jane")):
            connection.execute(insert(patient).values(patient_id=pid, name=name, **name_keys("name", name)))
    add_study(database, "1.1", at=1000.0, patient_id="P1", study_date="20240110", accession_number="A1")
    add_study(database, "1.2", at=2000.0, patient_id="P2", study_date="20240220", study_description="Head 100%")
    add_instance(database, "1.1", "1.1.1.10", series_uid="1.1.1", series_number="2", series_description="T1")
    add_instance(database, "1.1", "1.1.1.9", series_uid="1.1.1")
    add_instance(database, "1.1", "1.1.2.1", series_uid="1.1.2", series_number="10", modality="CT")
    add_instance(database, "1.1", "1.1.3.1", series_uid="1.1.3", series_number="x", modality="SEG", origin="emitted")
    with database.begin() as connection:
        for uid, number in (("1.1.1.10", "10"), ("1.1.1.9", "9")):
            row = update(instance).where(instance.c.sop_uid == uid)
            connection.execute(row.values(instance_number=number, image_type="ORIGINAL\\PRIMARY", rows=int(number)))
    return database


def found(database: Database, **filters: str | list[str]) -> list[str]:
    with database.read() as connection:
        return [record.study_uid for record in index.studies(connection, filters)]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["1.2", "1.1"]),
        ({"PatientID": "P1"}, ["1.1"]),
        ({"PatientName": "muller*"}, ["1.1"]),
        ({"PatientName": "DOE^JANE"}, ["1.2"]),
        ({"PatientName": "%"}, []),
        ({"StudyDate": "20240101-20240131"}, ["1.1"]),
        ({"StudyDate": "20240201-"}, ["1.2"]),
        ({"StudyDescription": "*100%"}, ["1.2"]),
        ({"StudyDescription": "*10_%"}, []),
        ({"ModalitiesInStudy": "CT"}, ["1.1"]),
        ({"Modality": ["PT", "CT"]}, ["1.1"]),
        ({"StudyInstanceUID": ["1.1", "1.2"], "AccessionNumber": "A1"}, ["1.1"]),
    ],
)
def test_studies_are_found_by_matching(filled: Database, filters: dict[str, str | list[str]], expected: list[str]) -> None:
    assert found(filled, **filters) == expected


def test_an_unknown_attribute_is_refused(filled: Database) -> None:
    with pytest.raises(ValueError, match="PatientWeight"):
        found(filled, PatientWeight="1")
    with pytest.raises(ValueError, match="'EchoTime' is not an attribute"):
        index.series_clause({"EchoTime": "1"})


def test_a_study_counts_its_parts(filled: Database) -> None:
    with filled.read() as connection:
        record = index.study_record(connection, "1.1")
        assert index.study_record(connection, "9") is None
        assert len(index.studies(connection, state="COMPLETE")) == 0
        assert len(index.studies(connection, limit=1, offset=1)) == 1
    assert record is not None
    assert (record.series, record.instances, record.modalities) == (3, 4, ("CT", "MR", "SEG"))
    assert (record.patient_id, record.patient_name, record.revision) == ("P1", "Müller^Jörg", 3)


def test_series_and_instances_come_in_the_order_of_their_numbers(filled: Database) -> None:
    with filled.read() as connection:
        series = index.series_of(connection, "1.1")
        assert [(each.series_uid, each.instances, each.emitted) for each in series] == [("1.1.1", 2, 0), ("1.1.2", 1, 0), ("1.1.3", 1, 1)]
        assert [each.sop_uid for each in index.instances_of(connection, "1.1.1")] == ["1.1.1.9", "1.1.1.10"]


def test_a_run_is_frozen_on_received_instances_only(filled: Database) -> None:
    with filled.read() as connection:
        assert index.input_set(connection, "1.1", ["1.1.1", "1.1.3"]) == [("1.1.1.10", "d-1.1.1.10"), ("1.1.1.9", "d-1.1.1.9")]
        facts = facts_of(connection, ["1.1", "1.404"])
    assert set(facts) == {"1.1"}
    attributes = {uid: each.attributes for uid, each in facts["1.1"].series.items()}
    assert set(attributes) == {"1.1.1", "1.1.2"}
    assert attributes["1.1.1"]["ImageType"] == ["ORIGINAL\\PRIMARY"]
    assert attributes["1.1.1"]["Rows"] == ["10", "9"]
    assert attributes["1.1.1"]["NumberOfSeriesRelatedInstances"] == 2
    assert attributes["1.1.1"]["StudyDate"] == "20240110"
    assert attributes["1.1.1"]["PatientID"] == "P1"
    assert facts["1.1"].series["1.1.1"].instances == sum(facts["1.1"].series["1.1.1"].sources.values()) == 2


@pytest.mark.parametrize(
    ("uid", "expected"), [("1.1", ("study", "1.1")), ("1.1.2", ("series", "1.1")), ("1.1.1.9", ("instance", "1.1")), ("9", None)]
)
def test_a_uid_is_told_what_it_names(filled: Database, uid: str, expected: tuple[str, str] | None) -> None:
    with filled.read() as connection:
        assert index.find_uid(connection, uid) == expected


def test_an_association_is_opened_kept_and_closed(database: Database) -> None:
    for name in ("a1", "a2"):
        associations.open_association(database, name, "p1", "SCANNER", "NODE", "10.0.0.1", 30, now=1000)
    assert associations.touch(database, "p1", 30, now=1020) == 2
    assert associations.touch(database, "p2", 30, now=1020) == 0
    associations.close_all(database, [associations.Ended("a1", "released", 5, 1030)])
    assert associations.expire(database, now=1049) == 0
    assert associations.expire(database, now=1050) == 1
    associations.close_all(database, [associations.Ended("a2", "aborted", 1, 1060)])
    with database.read() as connection:
        rows = connection.execute(select(association).order_by(association.c.id)).all()
    assert [(row.closed_at, row.ended, row.stored) for row in rows] == [(1030, "released", 5), (1060, "aborted", 1)]


def test_an_audit_row_is_kept(database: Database) -> None:
    with database.begin() as connection:
        audit.record(connection, "study.deleted", actor="somebody", study_uid="1.2", detail={"reason": "asked"}, at=5.0)
        row = connection.execute(select(audit_table)).one()
    assert from_row(AuditRecord, row) == AuditRecord(5.0, "study.deleted", "1.2", None, "somebody", {"reason": "asked"})


def test_a_late_heartbeat_opens_an_association_again_that_counted_as_lost(database: Database) -> None:
    associations.open_association(database, "late", "p1", "SCANNER", "NODE", "10.0.0.1", 30, now=1000)
    associations.open_association(database, "gone", "p1", "SCANNER", "NODE", "10.0.0.1", 30, now=1000)
    assert associations.expire(database, now=1031) == 2
    assert associations.touch(database, "p1", 30, now=1032, among=["late"]) == 1
    with database.read() as connection:
        rows = connection.execute(select(association.c.id).where(associations.is_open(1040))).scalars().all()
    assert rows == ["late"]
