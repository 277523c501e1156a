"""Runs that somebody outside performs: claimed, completed and canceled as workitems (PS3.4 annex CC).

A job in an outside performer's hands has no lease: nobody takes it back but a person who cancels it. Claiming takes the job out of the
queue, in the transaction that claims the workitem, so that a worker of ours either has it or leaves it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, select, update

from storage import deliveries, runs
from storage import workitem_values as values
from storage.jobs import JobQueue, JobState
from storage.records import RunRecord
from storage.schema import emitted, instance, job, run, series, study
from storage.statements import insert_new

OUTSIDE: Final = "outside"
"""The queue of runs that are left to outside performers; no worker of ours looks into it."""
FORMS: Final = ("SEG", "SR", "KO", "PR")
"""The forms of a result that a modality names."""
_AT_ONCE: Final = 500


def claim(connection: Connection, queue: JobQueue, run_pk: int, by: str, *, now: float) -> bool:
    """Hand a run that waits to an outside performer; False where it has begun, or waits for another run."""
    record = runs.get_run(connection, run_pk)
    kind = connection.scalar(select(job.c.kind).where(job.c.pk == record.job_pk))
    if kind != "infer":
        return False  # an earlier study is still looked for
    if record.state != "SCHEDULED" or record.job_pk is None or not queue.hand_out(connection, record.job_pk, f"{OUTSIDE}/{by}"):
        return False
    return runs.start_run(connection, run_pk, f"{OUTSIDE}: {by}", now=now) is not None


def performs(connection: Connection, run_pk: int) -> bool:
    """Whether a run is in an outside performer's hands."""
    return (connection.scalar(select(run.c.device).where(run.c.pk == run_pk)) or "").startswith(f"{OUTSIDE}: ")


def complete(connection: Connection, queue: JobQueue, run_pk: int, dataset: Mapping[str, Any], by: str, *, now: float) -> bool:
    """Complete a run with the objects that its performer lists; those that are in its study here are its result, and are delivered.

    False where the run has ended meanwhile.
    """
    record = runs.get_run(connection, run_pk)
    if record.state not in runs.WAITING:
        return False
    listed = outputs(dataset)
    here = _keep(connection, record, listed, now)
    ended = runs.complete_run(connection, run_pk, device=f"{OUTSIDE}: {by}", timings={}, findings=None, now=now)
    gone = f", {len(listed) - len(here)} of them not in its study here" if len(here) < len(listed) else ""
    said = f"performed by {by}: {len(listed)} objects{gone}"
    connection.execute(update(run).where(run.c.pk == run_pk).values(reason=said))
    _end_job(connection, queue, record, JobState.COMPLETED, said)
    if here and ended.delivered:
        for peer in ended.deliver_to:
            for form, uids in _by_form(connection, here).items():
                deliveries.create_delivery(connection, run_pk, ended.study_uid, peer, uids, queue, form=form, now=now)
    return True


def cancel(connection: Connection, queue: JobQueue, run_pk: int, dataset: Mapping[str, Any], by: str, *, now: float) -> bool:
    """End a run that its performer gave up, with the reason given; False where the run has ended meanwhile."""
    record = runs.get_run(connection, run_pk)
    if record.state not in runs.WAITING:
        return False
    progress = next(iter(values.items(dataset, values.PROGRESS)), {})
    code = next(iter(values.items(progress, values.DISCONTINUATION)), {})
    why = values.text(progress, values.REASON) or values.text(code, "00080104") or "no reason given"
    said = f"canceled by {by}: {why}"
    runs.cancel_run(connection, run_pk, said, now=now)
    _end_job(connection, queue, record, JobState.CANCELED, said)
    return True


def outputs(dataset: Mapping[str, Any]) -> list[str]:
    """The SOP Instance UIDs of a workitem's Output Information Sequence, each once."""
    found = [
        values.text(reference, "00081155")
        for performed in values.items(dataset, values.PERFORMED)
        for output in values.items(performed, values.OUTPUT)
        for reference in values.items(output, "00081199")
    ]
    return [uid for uid in dict.fromkeys(found) if uid]


def _keep(connection: Connection, record: RunRecord, listed: Sequence[str], now: float) -> list[str]:
    """Say of the objects listed that they are this run's, so that no rule takes them for originals; those that are here."""
    here: list[str] = []
    of_study = select(study.c.pk).where(study.c.study_uid == record.study_uid).scalar_subquery()
    given = {uid for uid, _ in record.input_set}
    for start in range(0, len(listed), _AT_ONCE):
        some = [uid for uid in listed[start : start + _AT_ONCE] if uid not in given]
        which = instance.c.sop_uid.in_(some), instance.c.study_pk == of_study, instance.c.origin != "emitted"
        found = set(connection.scalars(select(instance.c.sop_uid).where(*which)))
        if found:
            rows = [{"sop_uid": uid, "run_key": record.run_key, "emitted_at": now} for uid in found]
            connection.execute(insert_new(connection, emitted).values(rows))
            connection.execute(update(instance).where(*which).values(run_key=record.run_key))
        here += [uid for uid in some if uid in found]
    return here


def _by_form(connection: Connection, sop_uids: Sequence[str]) -> dict[str, list[str]]:
    """The objects of each kind, which are a delivery each; "": of no kind that this node makes."""
    found: dict[str, list[str]] = {}
    for start in range(0, len(sop_uids), _AT_ONCE):
        query = select(instance.c.sop_uid, series.c.modality).join(series, series.c.pk == instance.c.series_pk)
        for uid, modality in connection.execute(query.where(instance.c.sop_uid.in_(sop_uids[start : start + _AT_ONCE]))):
            found.setdefault(modality if modality in FORMS else "", []).append(uid)
    return {form: found[form] for form in (*FORMS, "") if form in found}


def _end_job(connection: Connection, queue: JobQueue, record: RunRecord, state: JobState, said: str) -> None:
    if record.job_pk is not None:
        queue.take_back(connection, record.job_pk, state, said)
