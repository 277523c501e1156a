"""A patient's numbers over time: one of each study that whoever asks may see, the newest that stands, with the radiologist's word."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update

from storage import feedback, runs
from storage.database import Database
from storage.feedback import Word
from storage.patient_history import Point, measured
from storage.runs import RunSpec
from storage.schema import run
from storage.visibility import Limits
from tests.contract.fill import add_instance, add_study

VOLUME = "measurement:Brain:Volume"


def ran(database: Database, uid: str, value: float, *, bundle: str = "brain", version: str = "1", **more: Any) -> int:
    findings = {"measurements": [{"name": "Volume", "of": "Brain", "value": value, "unit": "mL"}]}
    with database.begin() as connection:
        spec = RunSpec(
            uid, 1, [f"{uid}.1"], [(f"{uid}.1.1", "d")], "heads", bundle, version, f"d{version}", salt=f"{value}{bundle}", **more
        )
        pk = runs.create_run(connection, spec)
        assert pk is not None
        runs.start_run(connection, pk, "cpu")
        runs.complete_run(connection, pk, device="cpu", timings={}, findings=findings)
    return pk


def history(database: Database, uid: str, **more: Any) -> list[Point]:
    with database.read() as connection:
        return measured(connection, uid, ["brain"], **more).get(("brain", VOLUME), [])


def test_one_number_of_each_study_of_the_patient_in_their_order(database: Database) -> None:
    for uid, date, patient in (("1.2", "20240101", "P1"), ("1.3", "20220101", "P1"), ("1.4", "20230101", "P1"), ("1.5", "20200101", "P2")):
        add_study(database, uid, study_date=date, patient_id=patient)
        add_instance(database, uid, f"{uid}.1.1", modality="MR" if uid != "1.4" else "CT")
    ran(database, "1.3", 1400.0)
    ran(database, "1.3", 1405.0, version="2")  # the newest counts
    ran(database, "1.4", 1390.0)
    now = ran(database, "1.2", 1380.0)
    ran(database, "1.5", 999.0)  # another patient
    ran(database, "1.2", 5.0, bundle="other")  # another model
    ran(database, "1.2", 6.0, shadow=True)
    recalled = ran(database, "1.2", 7.0)
    with database.begin() as connection:
        connection.execute(update(run).where(run.c.pk == recalled).values(recalled_at=1.0))
        said = Word("modify", "1382", code="wrong_value")
        assert feedback.give(connection, "1.2", now, VOLUME, said, seen=0, actor="ada") is not None
    found = history(database, "1.2")
    assert [(each.study_uid, each.value, each.right, each.version) for each in found] == [
        ("1.3", 1405.0, 1405.0, "2"),
        ("1.4", 1390.0, 1390.0, "1"),
        ("1.2", 1380.0, 1382.0, "1"),
    ]
    assert [each.study_uid for each in history(database, "1.2", limits=Limits(modalities=("MR",)))] == ["1.3", "1.2"]
    assert history(database, "1.9") == []


def test_a_rejected_number_is_known_as_such(database: Database) -> None:
    add_study(database, "1.2", study_date="20240101")
    pk = ran(database, "1.2", 1380.0)
    with database.begin() as connection:
        assert feedback.give(connection, "1.2", pk, VOLUME, Word("reject", code="wrong_value"), seen=None, actor="ada") is not None
    assert [(each.rejected, each.corrected) for each in history(database, "1.2")] == [(True, None)]
