"""The workitems of this node's own runs: they follow what the runs do, and never hold one up.

A set-based look, not part of a run's transactions: whatever goes wrong here, runs go on. What a run was made of and what it made is read
from the run.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Row, exists, func, select

from storage import workitem_values as values
from storage import workitems
from storage.runs import objects_of
from storage.schema import instance, job, patient, run, series, study, workitem
from storage.workitem_values import Json, code, date_time, element
from storage.workitems import State, Workitem

AT_ONCE: Final = 100
NEWEST: Final = 43_200.0  # seconds: an older run had its workitem, or none is made for it any more
INCOMPLETE: Final = "INCOMPLETE"
_OUT_OF_ORDER: Final = 1000  # keys of runs whose transactions ended after those of newer ones
_STATES: Final = {"SCHEDULED": State.SCHEDULED, "IN_PROGRESS": State.IN_PROGRESS, "COMPLETED": State.COMPLETED}


def catch_up(connection: Connection, *, by: str, now: float) -> int:
    """Make the workitems of new runs, and bring those of others where their runs are; returns how many were touched."""
    newest = connection.scalar(select(func.max(workitem.c.run_pk))) or 0
    missing = ~exists().where(workitem.c.run_pk == run.c.pk)
    query = select(run).where(run.c.pk > newest - _OUT_OF_ORDER, run.c.created_at > now - NEWEST, ~run.c.shadow, missing)
    new = connection.execute(query.order_by(run.c.pk).limit(AT_ONCE)).all()
    for row in new:
        dataset = _dataset(connection, row, by)
        workitems.create(connection, values.text(dataset, values.SOP_INSTANCE), dataset, by=by, now=now, run_pk=row.pk)
    return len(new) + _make_ready(connection, by, now) + _follow(connection, by, now)


def _make_ready(connection: Connection, by: str, now: float) -> int:
    """Complete the input of workitems whose runs have got what they waited for: an earlier study, another run's segments."""
    queued = exists().where(job.c.pk == run.c.job_pk, job.c.kind == "infer")
    both = select(workitem.c.uid, *run.c).join(run, run.c.pk == workitem.c.run_pk)
    waiting = workitem.c.final_at.is_(None), workitem.c.state == State.SCHEDULED.value, workitem.c.readiness == INCOMPLETE
    rows = connection.execute(both.where(*waiting, run.c.state == "SCHEDULED", queued).order_by(workitem.c.pk).limit(AT_ONCE)).all()
    for row in rows:
        _complete_input(connection, workitems.get(connection, row.uid, lock=True), row, by, now)
    return len(rows)


def _complete_input(connection: Connection, item: Workitem, row: Row[Any], by: str, now: float) -> Workitem:
    given = _references(connection, [pair[0] for pair in row.input_set], _retrieved_from(item.dataset) or by)
    return workitems.refresh(connection, item, {values.INPUT: given, values.READINESS: element("CS", "READY")}, by=by, now=now)


def _follow(connection: Connection, by: str, now: float) -> int:
    both = select(workitem.c.uid, *run.c).join(run, run.c.pk == workitem.c.run_pk)
    differ = both.where(workitem.c.final_at.is_(None), (run.c.state != "SCHEDULED") & ~(_same()))
    rows = connection.execute(differ.order_by(workitem.c.pk).limit(AT_ONCE)).all()
    for row in rows:
        item = workitems.get(connection, row.uid, lock=True)
        state = _STATES.get(row.state, State.CANCELED)
        if item.readiness == INCOMPLETE and state is not State.CANCELED:
            item = _complete_input(connection, item, row, by, now)
        workitems.follow(connection, item, state, by=by, now=now, dataset=_ended(connection, item, row) if state.final else None)
    return len(rows)


def try_again(connection: Connection, run_pk: int, *, by: str, now: float) -> None:
    """Give a run that ended and is about to be put back a workitem for its new attempts; that of the last ones ends as the run did."""
    row = connection.execute(select(run).where(run.c.pk == run_pk, ~run.c.shadow)).one_or_none()
    if row is None or row.state not in ("FAILED", "CANCELED"):
        return
    waiting = select(workitem.c.uid).where(workitem.c.run_pk == run_pk, workitem.c.final_at.is_(None))
    for uid in connection.scalars(waiting).all():
        item = workitems.get(connection, uid, lock=True)
        workitems.follow(connection, item, State.CANCELED, by=by, now=now, dataset=_ended(connection, item, row))
    before = connection.scalar(select(workitem.c.dataset).where(workitem.c.run_pk == run_pk).order_by(workitem.c.pk.desc()).limit(1))
    dataset = {**_dataset(connection, row, _retrieved_from(before or {})), values.START: element("DT", date_time(now))}
    workitems.create(connection, values.text(dataset, values.SOP_INSTANCE), dataset, by=by, now=now, run_pk=row.pk)


def _same() -> Any:
    return (run.c.state == "IN_PROGRESS") & (workitem.c.state == State.IN_PROGRESS.value)


def _dataset(connection: Connection, row: Row[Any], ae_title: str) -> Json:
    uid = values.new_uid()
    made: Json = {
        values.SOP_INSTANCE: element("UI", uid),
        values.STATE: element("CS", State.SCHEDULED),
        values.PRIORITY: element("CS", _priority(connection, row.job_pk)),
        values.READINESS: element("CS", _readiness(connection, row)),
        values.LABEL: element("LO", row.bundle[:64]),
        values.WORKLIST: element("LO", row.rule[:64] or "default"),
        values.START: element("DT", date_time(row.created_at)),
        values.CODES: element("SQ", code(row.bundle[:16], "99DICOMNODE", row.bundle[:64])),
        values.INPUT: _references(connection, [pair[0] for pair in row.input_set], ae_title),
        values.STUDY: element("UI", row.study_uid),
    }
    about = select(patient.c.patient_id, patient.c.name, patient.c.birth_date, patient.c.sex, study.c.accession_number)
    found = connection.execute(
        about.join(study, study.c.patient_pk == patient.c.pk).where(study.c.study_uid == row.study_uid)
    ).one_or_none()
    if found is not None:
        made["00100010"] = element("PN", {"Alphabetic": found.name}) if found.name else element("PN")
        shown = (("00100020", "LO", found.patient_id), ("00100030", "DA", found.birth_date), ("00100040", "CS", found.sex))
        made |= {tag: element(vr, value) if value else element(vr) for tag, vr, value in shown}
        made[values.ACCESSION] = element("SH", found.accession_number) if found.accession_number else element("SH")
    return made


def _readiness(connection: Connection, row: Row[Any]) -> str:
    """INCOMPLETE while an earlier study is looked for, or another run is waited for (PS3.3 table C.30.3-1)."""
    waits = row.state == "SCHEDULED" and connection.scalar(select(job.c.kind).where(job.c.pk == row.job_pk)) != "infer"
    return INCOMPLETE if waits else "READY"


def _priority(connection: Connection, job_pk: int | None) -> str:
    """That of its job, in the standard's three words."""
    added = connection.scalar(select(job.c.priority).where(job.c.pk == job_pk)) or 0
    return "HIGH" if added > 0 else "LOW" if added < 0 else "MEDIUM"


def _references(connection: Connection, sop_uids: list[str], ae_title: str) -> Json:
    """Instances as a sequence of their series, and from where to retrieve them (PS3.3 table 10-3b); one that is gone is left out."""
    source = {"0040E020": element("CS", "DICOM"), "0040E021": element("SQ", {"00080054": element("AE", ae_title)})} if ae_title else {}
    query = select(study.c.study_uid, series.c.series_uid, instance.c.sop_class_uid, instance.c.sop_uid)
    query = query.join(series, series.c.pk == instance.c.series_pk).join(study, study.c.pk == instance.c.study_pk)
    found: dict[tuple[str, str], list[Json]] = {}
    for start in range(0, len(sop_uids), 500):
        for row in connection.execute(query.where(instance.c.sop_uid.in_(sop_uids[start : start + 500]))):
            item = {"00081150": element("UI", row.sop_class_uid), "00081155": element("UI", row.sop_uid)}
            found.setdefault((row.study_uid, row.series_uid), []).append(item)
    items = [
        {values.STUDY: element("UI", of), "0020000E": element("UI", uid), "00081199": element("SQ", *instances), **source}
        for (of, uid), instances in found.items()
    ]
    return element("SQ", *items)


def _retrieved_from(dataset: Json) -> str:
    """The AE title at which a workitem's input is retrieved."""
    given = next(iter(values.items(dataset, values.INPUT)), {})
    return values.text(next(iter(values.items(given, "0040E021")), {}), "00080054")


def _ended(connection: Connection, item: Workitem, row: Row[Any]) -> Json:
    """The data set of a run that ended: what it made, or why it made nothing."""
    ended = row.finished_at or item.updated_at
    if row.state != "COMPLETED":
        return workitems.canceled(item.dataset, {values.REASON: element("LT", f"{row.state}: {row.reason or 'no reason given'}")}, ended)
    performed: Json = {
        values.PERFORMED_STATION: element("SQ", code("DICOM_NODE", "99DICOMNODE", "dicom-node")),
        values.PERFORMED_AT: element("DT", date_time(row.started_at or ended)),
        values.PERFORMED_UNTIL: element("DT", date_time(ended)),
        values.PERFORMED_CODES: item.dataset[values.CODES],
        values.OUTPUT: _references(connection, objects_of(connection, row.run_key), _retrieved_from(item.dataset)),
    }
    return {**item.dataset, values.PERFORMED: element("SQ", performed)}
