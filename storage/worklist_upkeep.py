"""The worklist's rows follow what the index says of their studies: a batch of noted changes becomes rows and events in one transaction.

Any process may do it, at any time: the changes are noted in the transactions that made them (triggers), a row is made from what the index
holds now, and one follower at a time takes them away. So events have the order in which they became visible; none is lost or seen twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, exists, func, insert, select, update

from storage.database import Database
from storage.names import fold_name
from storage.schema import delivery, feedback, instance, patient, run, series, study, worklist, worklist_change, worklist_event
from storage.standing import successors
from storage.statements import insert_new

BATCH: Final = 100  # studies of one transaction: others write between two
KEPT: Final = 2000  # events for whoever comes back
FINDINGS_SHOWN: Final = 6
NOT_IMAGES: Final = frozenset({"", "SR", "SEG", "PR", "KO", "RTSTRUCT", "REG", "DOC"})
URGENCIES: Final = {"urgent": 1, "critical": 2}
# A study's runs and deliveries in one word, the one to look at first in front.
RUN_STATES: Final = ("", "NOT_APPLICABLE", "CANCELED", "COMPLETED", "SCHEDULED", "IN_PROGRESS", "FAILED")
DELIVERY_STATES: Final = ("", "CANCELED", "DELIVERED", "SCHEDULED", "FAILED")
_LOCK: Final = 0x776F726B  # PostgreSQL's advisory lock of the one follower, "work"


def behind(database: Database) -> bool:
    """Whether something changed that the worklist does not show yet."""
    with database.read() as connection:
        return connection.scalar(select(worklist_change.c.pk).limit(1)) is not None


def catch_up(database: Database, *, now: float, batches: int | None = None) -> int:
    """Let the worklist show what changed; how many changes that were.

    Parameters
    ----------
    batches : stop after so many, whatever is left
    """
    done = 0
    while (batches is None or batches > 0) and behind(database):
        with database.begin(durable=False) as connection:
            done += _batch(connection, now)
        batches = None if batches is None else batches - 1
    return done


def note(connection: Connection, study_uid: str, kind: str) -> None:
    """Note a change of a study that no trigger sees."""
    connection.execute(insert(worklist_change).values(study_uid=study_uid, kind=kind))


def _batch(connection: Connection, now: float) -> int:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    query = select(worklist_change).order_by(worklist_change.c.pk).limit(2 * BATCH)
    kinds: dict[str, set[str]] = {}
    taken: list[int] = []
    for row in connection.execute(query):
        if len(kinds) == BATCH and row.study_uid not in kinds:
            break
        kinds.setdefault(row.study_uid, set()).add(row.kind)
        taken.append(row.pk)
    if not taken:
        return 0
    connection.execute(delete(worklist_change).where(worklist_change.c.pk.in_(taken)))
    for uid in _refresh(connection, [uid for uid in kinds if uid], now):
        kinds[uid].add("finding")
    _tell(connection, kinds, now)
    return len(taken)


def _tell(connection: Connection, kinds: Mapping[str, set[str]], now: float) -> None:
    events = [{"study_uid": uid, "kinds": ",".join(sorted(of)), "at": now} for uid, of in kinds.items()]
    connection.execute(insert(worklist_event), events)
    newest = connection.scalar(select(func.max(worklist_event.c.pk))) or 0
    connection.execute(delete(worklist_event).where(worklist_event.c.pk <= newest - KEPT))


def _refresh(connection: Connection, uids: Sequence[str], now: float) -> list[str]:
    """Make the rows of some studies anew; those whose findings changed."""
    if not uids:
        return []
    about = select(study, patient.c.name, patient.c.name_key, patient.c.name_ideographic_key, patient.c.name_phonetic_key)
    about = about.add_columns(patient.c.patient_id, patient.c.birth_date, patient.c.sex).join(patient, patient.c.pk == study.c.patient_pk)
    studies = connection.execute(about.where(study.c.study_uid.in_(uids))).all()
    pks = [row.pk for row in studies]
    received = exists().where(instance.c.series_pk == series.c.pk, instance.c.origin != "emitted").label("received")
    kinds = _grouped(connection.execute(select(series.c.study_pk, series.c.modality, received).where(series.c.study_pk.in_(pks))))
    counted = select(instance.c.study_pk, func.count()).where(instance.c.study_pk.in_(pks), instance.c.origin != "emitted")
    counts = {row[0]: row[1] for row in connection.execute(counted.group_by(instance.c.study_pk))}
    runs, deliveries, rejected = _runs(connection, uids), _deliveries(connection, uids), _rejected(connection, uids)
    known = {row.study_pk: row for row in connection.execute(select(worklist).where(worklist.c.study_pk.in_(pks)))}
    made: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    new_findings = []
    for row in studies:
        before = known.get(row.pk)
        values = {
            **_study(row, kinds.get(row.pk, ()), counts.get(row.pk, 0)),
            **_of_runs(runs.get(row.study_uid, ()), rejected),
            **_of_deliveries(deliveries.get(row.study_uid, ())),
            "changed_at": now,
        }
        values |= _reading(before, values)
        if values["findings"] != (before.findings if before else []) or values["alerts"] != (before.alerts if before else []):
            new_findings.append(row.study_uid)
        (made if before is None else changed).append(values)
    if made:
        connection.execute(insert_new(connection, worklist), made)
    if changed:
        connection.execute(_CHANGE, [{**values, "of": values["study_pk"]} for values in changed])
    return new_findings


_CHANGE = (
    update(worklist)
    .where(worklist.c.study_pk == bindparam("of"))
    .values(
        {column.name: bindparam(column.name) for column in worklist.c if column.name not in ("study_pk", "study_uid", "reader", "read_at")}
    )
)


def _study(row: Row[Any], kinds: Sequence[Row[Any]], instances: int) -> dict[str, Any]:
    given = {each.modality for each in kinds if each.received}  # what this node made of it is no modality of the study
    images = sorted(given - NOT_IMAGES) or sorted(given - {""})
    searched = (
        row.name_key, row.name_ideographic_key, row.name_phonetic_key,
        folded(row.patient_id), folded(row.accession_number), folded(row.study_description),
    )  # fmt: skip
    return {
        "study_pk": row.pk,
        "study_uid": row.study_uid,
        "arrived_at": row.first_received_at,
        "name": row.name,
        "name_key": row.name_key,
        "patient_id": row.patient_id,
        "birth_date": row.birth_date,
        "sex": row.sex,
        "study_date": row.study_date,
        "study_time": row.study_time,
        "description": row.study_description,
        "accession_number": row.accession_number,
        "modalities": "\\".join(["", *images, ""]) if images else "",
        "series": len(kinds),
        "instances": instances,
        "state": row.state,
        "flag": row.flag,
        "search": "\n".join(searched),
    }


def folded(text: str) -> str:
    """A text as it is searched for: case, accents and widths do not count."""
    return fold_name(text.replace("=", " "))


def _runs(connection: Connection, uids: Sequence[str]) -> dict[str, list[Any]]:
    """Every run that is no shadow; the newest first."""
    columns = (
        run.c.study_uid,
        run.c.pk,
        run.c.rule,
        run.c.bundle,
        run.c.bundle_version,
        run.c.study_revision,
        run.c.series_uids,
        run.c.state,
        run.c.shadow,
        run.c.delivered,
        run.c.predecessor_pk,
        run.c.finished_at,
        run.c.findings,
        run.c.recalled_at,
    )
    query = select(*columns).where(run.c.study_uid.in_(uids), ~run.c.shadow).order_by(run.c.pk.desc())
    return _grouped(connection.execute(query))


def _rejected(connection: Connection, uids: Sequence[str]) -> set[tuple[int, str]]:
    """What radiologists rejected last: (run, finding as alerts name it); ``*`` for a result as a whole."""
    said: dict[tuple[int, str], Any] = {}
    query = select(feedback.c.run_pk, feedback.c.finding, feedback.c.verdict, feedback.c.found).where(feedback.c.study_uid.in_(uids))
    for row in connection.execute(query.order_by(feedback.c.revision)):
        said[row.run_pk, row.finding] = row
    gone = set()
    for row in said.values():
        if row.verdict == "reject":
            names = {"result": "*", "classification": row.found.get("label", "")}
            measured = f"{row.found.get('label', '')} {row.found.get('name', '')}".strip()
            gone.add((row.run_pk, names.get(row.found.get("kind"), measured)))
    return gone


def _deliveries(connection: Connection, uids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    """What was sent to each peer last: of a run's result the form that stands worst, and none that the peer does not take."""
    query = select(delivery.c.study_uid, delivery.c.peer, delivery.c.state, delivery.c.run_pk).where(delivery.c.study_uid.in_(uids))
    newest: dict[tuple[str, str], Any] = {}
    for row in connection.execute(query.where(delivery.c.state != "NOT_TAKEN").order_by(delivery.c.pk.desc())):
        last = newest.setdefault((row.study_uid, row.peer), row)
        same = row.run_pk is not None and row.run_pk == last.run_pk
        if same and DELIVERY_STATES.index(row.state) > DELIVERY_STATES.index(last.state):
            newest[row.study_uid, row.peer] = row
    return _grouped(newest.values())


def _grouped(rows: Iterable[Row[Any]]) -> dict[Any, list[Row[Any]]]:
    """By the first column."""
    groups: dict[Any, list[Row[Any]]] = {}
    for row in rows:
        groups.setdefault(row[0], []).append(row)
    return groups


def _of_runs(rows: Sequence[Any], rejected: Set[tuple[int, str]]) -> dict[str, Any]:
    replaced = successors(rows)
    standing = (row for row in rows if row.state == "COMPLETED" and row.recalled_at is None and row.findings and row.pk not in replaced)
    valid = [row for row in standing if (row.pk, "*") not in rejected]
    raised = [(row, alert) for row in valid for alert in row.findings.get("alerts", ())]
    alerts = [{**alert, "model": row.bundle} for row, alert in raised if (row.pk, alert["finding"]) not in rejected]
    alerts.sort(key=lambda alert: -URGENCIES.get(alert["urgency"], 0))
    urgency = max((URGENCIES.get(alert["urgency"], 0) for alert in alerts), default=0)
    worst = {alert["model"] for alert in alerts if URGENCIES.get(alert["urgency"], 0) == urgency}
    findings = [finding for row in valid for finding in _findings(row.findings) if (row.pk, _name(finding)) not in rejected]
    newest = _newest(rows)
    return {
        "urgency": urgency,
        "raised_at": max((row.finished_at for row in valid if row.bundle in worst), default=None),
        "alerts": alerts[:FINDINGS_SHOWN],
        "run_state": max((RUN_STATES.index(row.state) for row in newest), default=0),
        "models": [
            {
                "bundle": row.bundle,
                "version": row.bundle_version,
                "state": row.state,
                "recalled": row.recalled_at is not None,
                "rejected": any(pk == row.pk for pk, _ in rejected),
            }
            for row in newest
        ],
        "finding_count": len(alerts) + sum("label" in finding for finding in findings),
        "findings": findings[:FINDINGS_SHOWN],
    }


def _newest(rows: Iterable[Any]) -> list[Any]:
    """What each model does now: its newest run, one that was canceled only where there is no other; of several series the worst one."""
    of_series: dict[tuple[str, str, tuple[str, ...]], Any] = {}
    for row in rows:
        key = (row.bundle, row.rule, tuple(row.series_uids))
        other = of_series.setdefault(key, row)
        if other.state == "CANCELED" and row.state != "CANCELED":
            of_series[key] = row
    shown: dict[str, Any] = {}
    for row in of_series.values():
        shown[row.bundle] = max(shown.get(row.bundle, row), row, key=_now)
    return sorted(shown.values(), key=lambda row: -row.pk)


def _now(row: Any) -> tuple[bool, int, int]:
    return row.state != "CANCELED", row.study_revision, RUN_STATES.index(row.state)


def _name(finding: Mapping[str, Any]) -> str:
    return str(finding["label"]) if "label" in finding else f"{finding['of']} {finding['name']}".strip()


def _findings(found: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Positive decisions that no alert speaks of already, then measurements."""
    spoken = {alert["finding"] for alert in found.get("alerts", ())}
    for each in found.get("classifications", ()):
        if each["positive"] and each["label"] not in spoken:
            yield {"label": each["label"], "probability": each["probability"]}
    for each in found.get("measurements", ()):
        if f"{each['of']} {each['name']}".strip() not in spoken:
            yield {name: each[name] for name in ("name", "of", "value", "unit")}


def _of_deliveries(rows: Sequence[Row[Any]]) -> dict[str, Any]:
    return {
        "delivery_state": max((DELIVERY_STATES.index(row.state) for row in rows), default=0),
        "deliveries": [{"peer": row.peer, "state": row.state} for row in sorted(rows, key=lambda row: str(row.peer))],
    }


def _reading(before: Row[Any] | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """A study that somebody has read is to be read again when something urgent is found in it afterwards."""
    reading = "open" if before is None else before.reading
    if reading == "reviewed" and values["urgency"] and (values["raised_at"] or 0.0) > (before.read_at or 0.0):  # type: ignore[union-attr]
        reading = "open"
    return {"reading": reading, "rank": 0 if reading == "reviewed" else values["urgency"]}
