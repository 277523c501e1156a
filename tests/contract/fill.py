"""Rows for tests of the index: what the ingest path would have written."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update

from storage.database import Database
from storage.schema import association_study, instance, patient, series, study


def add_study(database: Database, study_uid: str, *, at: float = 1000.0, patient_id: str = "P1", **columns: Any) -> int:
    with database.begin() as connection:
        known = connection.scalar(select(patient.c.pk).where(patient.c.patient_id == patient_id))
        patient_pk = known or connection.scalar(insert(patient).values(patient_id=patient_id, name="A^B").returning(patient.c.pk))
        values = {"study_uid": study_uid, "patient_pk": patient_pk, "first_received_at": at, "last_received_at": at, **columns}
        pk = connection.scalar(insert(study).values(**values).returning(study.c.pk))
    assert pk is not None
    return int(pk)


def add_instance(
    database: Database,
    study_uid: str,
    sop_uid: str,
    *,
    at: float = 1000.0,
    series_uid: str | None = None,
    association_id: str | None = None,
    origin: str = "received",
    calling_ae: str = "SCANNER",
    **series_columns: Any,
) -> None:
    """Add a received instance: revision, time of receipt and the association's row rise in the same transaction."""
    series_uid = series_uid or f"{study_uid}.1"
    with database.begin() as connection:
        study_pk = connection.scalar(select(study.c.pk).where(study.c.study_uid == study_uid))
        series_pk = connection.scalar(select(series.c.pk).where(series.c.series_uid == series_uid))
        if series_pk is None:
            row = insert(series).values(series_uid=series_uid, study_pk=study_pk, **{"modality": "MR", **series_columns})
            series_pk = connection.scalar(row.returning(series.c.pk))
        values = {"sop_uid": sop_uid, "sop_class_uid": "1.2.840.10008.5.1.4.1.1.4", "study_pk": study_pk, "series_pk": series_pk}
        values |= {"transfer_syntax_uid": "1.2.840.10008.1.2.1", "digest": f"d-{sop_uid}", "length": 1, "received_at": at}
        connection.execute(insert(instance).values(**values, origin=origin, association_id=association_id, calling_ae=calling_ae))
        if origin != "received":
            return
        change = update(study).where(study.c.pk == study_pk)
        connection.execute(change.values(revision=study.c.revision + 1, last_received_at=at, state="RECEIVING"))
        if association_id is not None:
            link = association_study
            key = (link.c.association_id == association_id, link.c.study_uid == study_uid)
            if connection.execute(update(link).where(*key).values(last_at=at)).rowcount == 0:
                connection.execute(insert(link).values(association_id=association_id, study_uid=study_uid, last_at=at))
