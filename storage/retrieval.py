"""Which stored instances a retrieve means (PS3.4 C.4.2.2): unique keys of the levels in, instances in the order of their bytes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select

from storage.archive import STORED, Archive, StoredInstance
from storage.schema import instance, patient, series, study

_AT_ONCE: Final = 500  # UIDs in one statement


@dataclass(frozen=True)
class UniqueKeys:
    """Unique keys of the levels; an empty one does not narrow. There must be one besides the issuer.

    Attributes
    ----------
    issuer : Issuer of Patient ID, with which a Patient ID is unique
    """

    patient_id: str = ""
    issuer: str = ""
    study_uids: tuple[str, ...] = ()
    series_uids: tuple[str, ...] = ()
    sop_uids: tuple[str, ...] = ()


def select_instances(archive: Archive, keys: UniqueKeys) -> list[StoredInstance]:
    """Find the instances that fit all keys, damaged ones too, ordered as they lie on disk.

    However many UIDs there are, a statement has few parameters: the longest list is looked up in pieces, and a long one besides it is
    compared row by row.

    Raises
    ------
    IndexUnavailable
    """
    if not any((keys.patient_id, keys.study_uids, keys.series_uids, keys.sop_uids)):
        raise ValueError("a retrieve without any unique key")
    query: Select[*tuple[Any, ...]] = STORED
    if keys.patient_id:
        query = query.join(patient, patient.c.pk == study.c.patient_pk).where(patient.c.patient_id == keys.patient_id)
        if keys.issuer:
            query = query.where(patient.c.issuer == keys.issuer)
    columns = {study.c.study_uid: keys.study_uids, series.c.series_uid: keys.series_uids, instance.c.sop_uid: keys.sop_uids}
    longest = max(columns, key=lambda column: len(columns[column]))
    compared: list[tuple[str, frozenset[str]]] = []
    for column, uids in columns.items():
        if column is longest or not uids:
            continue
        if len(uids) > _AT_ONCE:
            compared.append((column.name, frozenset(uids)))
        else:
            query = query.where(column.in_(tuple(dict.fromkeys(uids))))
    queries = [query]
    if columns[longest]:
        uids = tuple(dict.fromkeys(columns[longest]))
        queries = [query.where(longest.in_(uids[start : start + _AT_ONCE])) for start in range(0, len(uids), _AT_ONCE)]
    with archive.database.read() as connection:
        found = (row for each in queries for row in connection.execute(each))
        rows = [row for row in found if all(row._mapping[name] in uids for name, uids in compared)]
    rows.sort(key=lambda row: (row.study_uid, row.name, row.offset))
    return [archive.stored(row) for row in rows]
