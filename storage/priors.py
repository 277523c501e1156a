"""Prior studies of a patient: those that are here, those that were fetched, and the run that waits until one is found or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update

from storage.chains import waits_for
from storage.fair_share import FREE, Turns
from storage.jobs import ClaimedJob, JobQueue, JobSpec
from storage.runs import INPUTS, RunSpec, enqueue, run_key
from storage.schema import instance, patient, prior_study, run, study
from storage.statements import insert_new

QUEUE = KIND = "prior"
WAITS = "waits for a prior study"


@dataclass(frozen=True)
class Identity:
    """Whose study it is, and of when. Never in a log or an error's text."""

    patient_pk: int
    patient_id: str
    issuer: str
    birth_date: str
    study_date: str


def identity_of(connection: Connection, study_uid: str) -> Identity | None:
    """Read whose a study is; None for one that is gone, or that names no patient."""
    columns = (patient.c.pk, patient.c.patient_id, patient.c.issuer, patient.c.birth_date, study.c.study_date)
    query = select(*columns).join(study, study.c.patient_pk == patient.c.pk).where(study.c.study_uid == study_uid)
    row = connection.execute(query.where(patient.c.patient_id != "")).one_or_none()
    return None if row is None else Identity(*row)


def earlier_studies(connection: Connection, whose: Identity, *, since: str, besides: str) -> list[str]:
    """List the patient's earlier studies that are here, newest first; ``since``: not before this date, YYYYMMDD."""
    query = select(study.c.study_uid).where(
        study.c.patient_pk == whose.patient_pk,
        study.c.study_uid != besides,
        study.c.study_date >= since,
        study.c.study_date < whose.study_date,
    )
    return list(connection.scalars(query.order_by(study.c.study_date.desc(), study.c.study_time.desc(), study.c.pk.desc())))


def expect(connection: Connection, study_uid: str, ae_title: str, *, now: float) -> None:
    """Say, before it is asked for, that a study comes as a prior."""
    connection.execute(insert_new(connection, prior_study).values(study_uid=study_uid, ae_title=ae_title, asked_at=now))


def only_a_prior(connection: Connection, study_uid: str) -> bool:
    """Whether all that was received of a study came because it was fetched as a prior."""
    row = connection.execute(select(prior_study).where(prior_study.c.study_uid == study_uid)).one_or_none()
    if row is None:
        return False
    other = (instance.c.calling_ae != row.ae_title) | (instance.c.received_at < row.asked_at)
    query = select(instance.c.pk).join(study, study.c.pk == instance.c.study_pk)
    return connection.scalar(query.where(study.c.study_uid == study_uid, instance.c.origin != "emitted", other).limit(1)) is None


def provisional_key(spec: RunSpec) -> str:
    """The key of a run until it is known which prior it gets."""
    return run_key([*spec.input_set, ("waits for", "a prior")], spec.release_digest, spec.parameters, salt=_salt(spec.shadow, spec.salt))


def wait(connection: Connection, queue: JobQueue, pk: int, study_uid: str, *, priority: int, max_attempts: int) -> None:
    """Queue the job that looks for the prior of a run which was made without one."""
    payload = {"run_pk": pk, "max_attempts": max_attempts}
    work = JobSpec(kind=KIND, queue=QUEUE, dedupe_key=f"prior:{pk}", payload=payload, study_uid=study_uid, priority=priority)
    connection.execute(update(run).where(run.c.pk == pk).values(reason=WAITS, job_pk=queue.enqueue(connection, work)))


def go_on(
    connection: Connection,
    queue: JobQueue,
    job: ClaimedJob,
    found: Mapping[str, tuple[str, Sequence[tuple[str, str]]]],
    said: str,
    *,
    priority: int,
    turns: Turns = FREE,
    now: float,
) -> bool:
    """Queue a run with the priors that were found; False where it waits no more, or this very input was run before.

    One that waits for other runs as well gets the priors and goes on waiting; `storage.chains.follow` looks at it next.

    Parameters
    ----------
    found
        By input: its series, and (SOP Instance UID, digest) of its instances.
    said
        What became of the search: kept among the parameters where nothing was found.
    turns
        When it comes among the runs of its own source and of others.
    """
    me = connection.execute(select(run).where(run.c.pk == int(job.payload["run_pk"])).with_for_update()).one()
    if me.state != "SCHEDULED":
        return False
    chosen = {**me.parameters.get(INPUTS, {}), **{name: series_uid for name, (series_uid, _) in found.items()}}
    parameters: dict[str, Any] = {**me.parameters, INPUTS: chosen, **({} if found else {"prior": said})}
    pairs = [*((uid, digest) for uid, digest in me.input_set), *(pair for _, instances in found.values() for pair in instances)]
    if others := waits_for(connection, me.pk):  # which queue it when they have ended
        values = {"input_set": [list(pair) for pair in pairs], "parameters": parameters, "reason": others, "job_pk": None}
        connection.execute(update(run).where(run.c.pk == me.pk).values(**values))
        return True
    key = run_key(pairs, me.release_digest, parameters, salt=_salt(me.shadow, ""))
    before = connection.scalar(select(run.c.pk).where(run.c.run_key == key, run.c.pk != me.pk))
    if before is not None:
        why = f"this very input was given to run {before}"
        connection.execute(update(run).where(run.c.pk == me.pk).values(state="CANCELED", reason=why, finished_at=now))
        return False
    values = {"input_set": [list(pair) for pair in pairs], "parameters": parameters, "run_key": key, "reason": None}
    connection.execute(update(run).where(run.c.pk == me.pk).values(**values))
    enqueue(
        connection, queue, me.pk, key, me.study_uid, to="outside" if me.device == "outside" else "infer",
        priority=priority, max_attempts=int(job.payload["max_attempts"]), turns=turns, since=me.created_at, now=now,
    )  # fmt: skip
    return True


def _salt(shadow: bool, salt: str) -> str:
    return f"shadow {salt}" if shadow else salt
