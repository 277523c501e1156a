"""Reading the index: studies, series and instances as records. Every function takes the connection of the caller's snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, and_, case, exists, func, select

from storage.attributes import Level, columns_of
from storage.matching import Wanted, clause, vr_of
from storage.names import key_columns, name_clause
from storage.records import InstanceRecord, SeriesRecord, StudyRecord, from_row
from storage.schema import instance, patient, series, study
from storage.tags import has_tag
from storage.visibility import NO_LIMITS, Limits, visible

PATIENT_COLUMNS, STUDY_COLUMNS, SERIES_COLUMNS, INSTANCE_COLUMNS = (columns_of(level) for level in Level)
# What a rule or a required series may name: attributes of the series and of its study.
RULE_COLUMNS: Mapping[str, Column[Any]] = {**STUDY_COLUMNS, **SERIES_COLUMNS}


def series_clause(wanted: Mapping[str, Wanted], *, ignore_case: bool = False) -> ColumnElement[bool]:
    """Make the condition that a row of ``series`` (joined with its ``study``) matches; ValueError for a keyword that the index lacks."""
    conditions = []
    for keyword, value in wanted.items():
        if keyword not in RULE_COLUMNS:
            known = ", ".join(sorted(RULE_COLUMNS))
            raise ValueError(f"{keyword!r} is not an attribute of study or series in the index; there are: {known}")
        conditions.append(clause(RULE_COLUMNS[keyword], value, vr_of(keyword), ignore_case=ignore_case and vr_of(keyword) == "LO"))
    return and_(True, *conditions)


def study_record(connection: Connection, study_uid: str) -> StudyRecord | None:
    """Read one study; None where there is none."""
    row = connection.execute(_studies().where(study.c.study_uid == study_uid)).one_or_none()
    return None if row is None else _study(connection, [row])[0]


def studies(
    connection: Connection,
    filters: Mapping[str, Wanted] | None = None,
    *,
    state: str | None = None,
    tag: str | None = None,
    limit: int = 100,
    offset: int = 0,
    limits: Limits = NO_LIMITS,
) -> list[StudyRecord]:
    """Read the studies that match, latest received first; with ``tag`` those that a rule tagged so.

    ``filters`` are matching values by keyword, of patient, study or series (``Modality`` or ``ModalitiesInStudy``: any series has it).
    """
    query = _studies()
    for keyword, value in (filters or {}).items():
        query = query.where(_study_filter(keyword, value))
    if state is not None:
        query = query.where(study.c.state == state)
    if tag is not None:
        query = query.where(has_tag(tag))
    if (seen := visible(limits)) is not None:
        query = query.where(seen)
    rows = connection.execute(query.order_by(study.c.last_received_at.desc(), study.c.pk.desc()).limit(limit).offset(offset)).all()
    return _study(connection, rows)


def _study_filter(keyword: str, value: Wanted) -> ColumnElement[bool]:
    if keyword == "PatientName":
        return name_clause(key_columns(patient, "name"), value)
    if keyword in STUDY_COLUMNS or keyword in PATIENT_COLUMNS:
        return clause({**STUDY_COLUMNS, **PATIENT_COLUMNS}[keyword], value, vr_of(keyword))
    column = SERIES_COLUMNS.get("Modality" if keyword == "ModalitiesInStudy" else keyword)
    if column is None:
        raise ValueError(f"{keyword!r} is not an attribute of patient, study or series in the index")
    return exists().where(series.c.study_pk == study.c.pk, clause(column, value, vr_of(keyword)))


def _studies() -> Select[Any]:
    of_study = instance.c.study_pk == study.c.pk
    return select(
        study,
        patient.c.patient_id,
        patient.c.name.label("patient_name"),
        patient.c.birth_date,
        patient.c.sex,
        select(func.count()).select_from(series).where(series.c.study_pk == study.c.pk).scalar_subquery().label("series"),
        select(func.count()).select_from(instance).where(of_study).scalar_subquery().label("instances"),
    ).join(patient, patient.c.pk == study.c.patient_pk)


def _study(connection: Connection, rows: Sequence[Row[Any]]) -> list[StudyRecord]:
    modalities: dict[int, set[str]] = {row.pk: set() for row in rows}
    query = select(series.c.study_pk, series.c.modality).where(series.c.study_pk.in_(list(modalities))).distinct()
    for pk, modality in connection.execute(query):
        modalities[pk].add(modality)
    return [_study_record(row, tuple(sorted(modalities[row.pk] - {""}))) for row in rows]


def _study_record(row: Row[Any], modalities: tuple[str, ...]) -> StudyRecord:
    values = {name: value for name, value in row._mapping.items() if name in StudyRecord.__dataclass_fields__}
    return StudyRecord(**values, modalities=modalities)


def series_of(connection: Connection, study_uid: str) -> list[SeriesRecord]:
    """Read the series of a study in the order of their numbers."""
    counted = func.count(instance.c.pk)
    emitted = func.coalesce(func.sum(case((instance.c.origin == "emitted", 1), else_=0)), 0)
    query = (
        select(study.c.study_uid, series, counted.label("instances"), emitted.label("emitted"))
        .join(study, study.c.pk == series.c.study_pk)
        .outerjoin(instance, instance.c.series_pk == series.c.pk)
        .where(study.c.study_uid == study_uid)
        .group_by(series.c.pk, study.c.study_uid)
    )
    records = [from_row(SeriesRecord, row) for row in connection.execute(query)]
    return sorted(records, key=lambda record: (_number(record.series_number), record.series_uid))


def instances_of(connection: Connection, series_uid: str) -> list[InstanceRecord]:
    """Read the instances of a series in the order of their numbers."""
    query = select(instance, series.c.series_uid).join(series, series.c.pk == instance.c.series_pk).where(series.c.series_uid == series_uid)
    records = [from_row(InstanceRecord, row) for row in connection.execute(query)]
    return sorted(records, key=lambda record: (_number(record.instance_number), record.sop_uid))


def input_set(connection: Connection, study_uid: str, series_uids: Sequence[str]) -> list[tuple[str, str]]:
    """Read (SOP Instance UID, digest) of what was received in some series of a study, sorted: what a run is frozen on."""
    query = (
        select(instance.c.sop_uid, instance.c.digest)
        .join(series, series.c.pk == instance.c.series_pk)
        .join(study, study.c.pk == instance.c.study_pk)
        .where(study.c.study_uid == study_uid, series.c.series_uid.in_(list(series_uids)), instance.c.origin != "emitted")
        .order_by(instance.c.sop_uid)
    )
    return [(row.sop_uid, row.digest) for row in connection.execute(query)]


def deleted_inputs(connection: Connection, study_uid: str, sop_uids: Iterable[str]) -> set[str]:
    """Tell which of a run's input instances neither its study nor, of an earlier one, the archive holds any more."""
    query = select(instance.c.sop_uid).join(study, study.c.pk == instance.c.study_pk).where(study.c.study_uid == study_uid)
    elsewhere = sorted(set(sop_uids).difference(connection.scalars(query)))
    here: set[str] = set()
    for start in range(0, len(elsewhere), 500):
        here.update(connection.scalars(select(instance.c.sop_uid).where(instance.c.sop_uid.in_(elsewhere[start : start + 500]))))
    return set(elsewhere) - here


def find_uid(connection: Connection, uid: str) -> tuple[str, str] | None:
    """Tell what a UID names here: ("study" | "series" | "instance", its study's UID); None for an unknown one."""
    if connection.scalar(select(study.c.pk).where(study.c.study_uid == uid)) is not None:
        return "study", uid
    of_series = select(study.c.study_uid).join(series, series.c.study_pk == study.c.pk).where(series.c.series_uid == uid)
    of_instance = select(study.c.study_uid).join(instance, instance.c.study_pk == study.c.pk).where(instance.c.sop_uid == uid)
    for level, query in (("series", of_series), ("instance", of_instance)):
        study_uid = connection.scalar(query.limit(1))
        if study_uid is not None:
            return level, study_uid
    return None


def _number(text: str) -> tuple[int, str]:
    """Order Integer Strings as numbers; what is none comes last."""
    try:
        return int(text), ""
    except ValueError:
        return 1 << 31, text
