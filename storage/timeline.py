"""The whole story of a study in one snapshot: received, complete, selected, run, delivered. What ``study show`` tells."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select

from storage import ambiguities, index
from storage.ambiguities import AmbiguityRecord
from storage.database import Database
from storage.errors import NotFound
from storage.feedback import FeedbackRecord, history
from storage.records import (
    AuditRecord,
    CommitmentRequestRecord,
    CompletionRecord,
    DeliveryInstanceRecord,
    DeliveryRecord,
    JobEventRecord,
    JobRecord,
    QuarantineRecord,
    Record,
    RunRecord,
    SelectionRecord,
    SeriesRecord,
    StudyRecord,
    from_row,
)
from storage.schema import (
    association,
    audit,
    commitment_request,
    completion,
    delivery,
    delivery_instance,
    instance,
    job,
    job_event,
    quarantine,
    run,
    selection,
    study,
)


@dataclass(frozen=True)
class Reception:
    """What came in one association (or import): from whom, when, how much. ``stored`` and times of the association where there was one."""

    origin: str
    association_id: str | None
    calling_ae: str
    called_ae: str
    address: str | None
    opened_at: float | None
    closed_at: float | None
    ended: str | None
    first_at: float
    last_at: float
    instances: int
    bytes: int


@dataclass(frozen=True)
class SeriesStory:
    """A series, and for each model whether it was chosen and why (not). Newest study revision last."""

    series: SeriesRecord
    selections: tuple[SelectionRecord, ...]


@dataclass(frozen=True)
class DeliveryStory:
    delivery: DeliveryRecord
    instances: tuple[DeliveryInstanceRecord, ...]
    commitments: tuple[CommitmentRequestRecord, ...] = ()


@dataclass(frozen=True)
class RunStory:
    run: RunRecord
    deliveries: tuple[DeliveryStory, ...]


@dataclass(frozen=True)
class JobStory:
    job: JobRecord
    events: tuple[JobEventRecord, ...]


@dataclass(frozen=True)
class Timeline:
    """Everything the index knows of a study. ``deliveries`` are those that belong to no run."""

    study: StudyRecord
    receptions: tuple[Reception, ...]
    completions: tuple[CompletionRecord, ...]
    series: tuple[SeriesStory, ...]
    runs: tuple[RunStory, ...]
    deliveries: tuple[DeliveryStory, ...]
    jobs: tuple[JobStory, ...]
    quarantine: tuple[QuarantineRecord, ...]
    audit: tuple[AuditRecord, ...]
    feedback: tuple[FeedbackRecord, ...] = ()
    ambiguities: tuple[AmbiguityRecord, ...] = ()


def timeline(database: Database, study_uid: str) -> Timeline:
    """Tell the story of a study; NotFound for one that the index does not know."""
    with database.read() as connection:
        record = index.study_record(connection, study_uid)
        if record is None:
            raise NotFound(f"no study {study_uid}")
        stories = _deliveries(connection, study_uid)
        of_run: dict[int | None, list[DeliveryStory]] = defaultdict(list)
        for story in stories:
            of_run[story.delivery.run_pk].append(story)
        runs = _read(connection, RunRecord, select(run).where(run.c.study_uid == study_uid).order_by(run.c.pk))
        return Timeline(
            study=record,
            receptions=_receptions(connection, study_uid),
            completions=_of_study(connection, CompletionRecord, completion, study_uid),
            series=_series(connection, study_uid),
            runs=tuple(RunStory(each, tuple(of_run[each.pk])) for each in runs),
            deliveries=tuple(of_run[None]),
            jobs=_jobs(connection, study_uid),
            quarantine=_of_study(connection, QuarantineRecord, quarantine, study_uid),
            audit=_of_study(connection, AuditRecord, audit, study_uid),
            feedback=history(connection, study_uid),
            ambiguities=tuple(ambiguities.of_study(connection, study_uid)),
        )


def _read(connection: Connection, kind: type[Record], query: Select[Any]) -> tuple[Record, ...]:
    return tuple(from_row(kind, row) for row in connection.execute(query))


def _of_study(connection: Connection, kind: type[Record], table: Any, study_uid: str) -> tuple[Record, ...]:
    return _read(connection, kind, select(table).where(table.c.study_uid == study_uid).order_by(table.c.pk))


def _receptions(connection: Connection, study_uid: str) -> tuple[Reception, ...]:
    known = association.c
    came = (instance.c.origin, instance.c.association_id, instance.c.calling_ae, instance.c.called_ae)
    joined = (known.address, known.opened_at, known.closed_at, known.ended)
    query = (
        select(
            *came,
            *joined,
            func.min(instance.c.received_at).label("first_at"),
            func.max(instance.c.received_at).label("last_at"),
            func.count().label("instances"),
            func.sum(instance.c.length).label("bytes"),
        )
        .select_from(instance)
        .join(study, study.c.pk == instance.c.study_pk)
        .outerjoin(association, known.id == instance.c.association_id)
        .where(study.c.study_uid == study_uid, instance.c.origin != "emitted")
        .group_by(*came, *joined)
        .order_by(func.min(instance.c.received_at))
    )
    return tuple(Reception(**{**row._mapping, "bytes": int(row.bytes)}) for row in connection.execute(query))


def _series(connection: Connection, study_uid: str) -> tuple[SeriesStory, ...]:
    chosen: dict[str, list[SelectionRecord]] = defaultdict(list)
    for record in _read(connection, SelectionRecord, select(selection).where(selection.c.study_uid == study_uid).order_by(selection.c.pk)):
        chosen[record.series_uid].append(record)
    return tuple(SeriesStory(each, tuple(chosen[each.series_uid])) for each in index.series_of(connection, study_uid))


def _deliveries(connection: Connection, study_uid: str) -> list[DeliveryStory]:
    sent: dict[int, list[DeliveryInstanceRecord]] = defaultdict(list)
    link, of_study = delivery_instance.c.delivery_pk == delivery.c.pk, delivery.c.study_uid == study_uid
    query = select(delivery_instance).join(delivery, link).where(of_study).order_by(delivery_instance.c.sop_uid)
    for record in _read(connection, DeliveryInstanceRecord, query):
        sent[record.delivery_pk].append(record)
    asked: dict[int, list[CommitmentRequestRecord]] = defaultdict(list)
    requests = select(commitment_request).join(delivery, commitment_request.c.delivery_pk == delivery.c.pk).where(of_study)
    for request in _read(connection, CommitmentRequestRecord, requests.order_by(commitment_request.c.pk)):
        asked[request.delivery_pk].append(request)
    deliveries = _read(connection, DeliveryRecord, select(delivery).where(of_study).order_by(delivery.c.pk))
    return [DeliveryStory(each, tuple(sent[each.pk]), tuple(asked[each.pk])) for each in deliveries]


def _jobs(connection: Connection, study_uid: str) -> tuple[JobStory, ...]:
    events: dict[int, list[JobEventRecord]] = defaultdict(list)
    of_study = job.c.study_uid == study_uid
    query = select(job_event).join(job, job.c.pk == job_event.c.job_pk).where(of_study).order_by(job_event.c.pk)
    for record in _read(connection, JobEventRecord, query):
        events[record.job_pk].append(record)
    return tuple(
        JobStory(each, tuple(events[each.pk])) for each in _read(connection, JobRecord, select(job).where(of_study).order_by(job.c.pk))
    )
