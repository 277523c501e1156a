"""Studies as a worklist has them: names of many scripts, findings, deliveries, straight in the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert

from storage import runs
from storage.database import Database
from storage.deliveries import create_delivery, finish
from storage.jobs import JobQueue
from storage.names import name_keys
from storage.runs import RunSpec
from storage.schema import patient
from tests.contract.fill import add_instance, add_study

PNEUMOTHORAX = {"urgency": "critical", "finding": "Pneumothorax", "reason": "Pneumothorax: Present (0.97)"}
COLLAPSE: dict[str, Any] = {
    "classifications": [{"label": "Effusion", "value": "Present", "positive": True, "probability": 0.81}],
    "measurements": [{"name": "Area", "of": "right lung", "value": 142.4, "unit": "cm2"}],
    "alerts": [PNEUMOTHORAX],
}
HOSTILE = "<img src=x onerror=alert(1)>^\u202eevil\u0007"


def add_patient(database: Database, number: int, name: str, **columns: Any) -> str:
    """A patient; returns the ID."""
    with database.begin() as connection:
        connection.execute(insert(patient).values(patient_id=f"P{number:05d}", name=name, **name_keys("name", name), **columns))
    return f"P{number:05d}"


def add(
    database: Database, number: int, name: str, modality: str, description: str, *,
    at: float, images: int = 1, born: str = "", sex: str = "", **columns: Any,
) -> str:  # fmt: skip
    """A complete study with its patient; returns its UID."""
    uid = f"1.2.826.0.1.{number}"
    columns = {"study_description": description, "accession_number": f"A{2400 + number}", **columns}
    add_study(database, uid, at=at, patient_id=add_patient(database, number, name, birth_date=born, sex=sex), **columns)
    for image in range(images):
        add_instance(database, uid, f"{uid}.1.{image}", at=at, modality=modality)
    return uid


def started(database: Database, uid: str, bundle: str) -> int:
    """A run that waits."""
    with database.begin() as connection:
        spec = RunSpec(uid, 1, [f"{uid}.1"], [(f"{uid}.1.0", "d")], "rule", bundle, "1.0.0", "r", run_key=f"{uid} {bundle}")
        pk = runs.create_run(connection, spec, queue=JobQueue(database))
    assert pk is not None
    return pk


def ended(
    database: Database, pk: int, findings: Mapping[str, Any], at: float, uid: str = "", peers: Sequence[tuple[str, str]] = ()
) -> None:
    """Complete a run, with deliveries in their states."""
    with database.begin() as connection:
        runs.start_run(connection, pk, "cpu", now=at)
        runs.complete_run(connection, pk, device="cpu", timings={}, findings=dict(findings), now=at)
        for peer, state in peers:
            delivery = create_delivery(connection, pk, uid, peer, [], JobQueue(database), now=at)
            if state != "SCHEDULED":
                finish(connection, delivery or 0, state, now=at)


def failed(database: Database, pk: int) -> None:
    """Fail a run."""
    with database.begin() as connection:
        runs.fail_run(connection, pk, "the device has too little memory")
