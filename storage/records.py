"""Rows of the index as frozen, JSON-able dataclasses (``dataclasses.asdict``). Field names are the columns'."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Row

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


def from_row(kind: type[Record], row: Row[Any]) -> Record:
    """Make a record of a row that has a column for each of its fields."""
    values = row._mapping
    return kind(**{field.name: values[field.name] for field in fields(kind)})


@dataclass(frozen=True)
class StudyRecord:
    """A study with its patient and how far it has come. ``instances`` counts every stored instance, our own results too."""

    study_uid: str
    patient_id: str
    patient_name: str
    birth_date: str
    sex: str
    study_date: str
    study_time: str
    accession_number: str
    study_id: str
    study_description: str
    referring_physician: str
    state: str
    revision: int
    completed_revision: int | None
    completed_at: float | None
    complete_reason: str | None
    first_received_at: float
    last_received_at: float
    flag: str | None
    modalities: tuple[str, ...]
    series: int
    instances: int


@dataclass(frozen=True)
class SeriesRecord:
    study_uid: str
    series_uid: str
    modality: str
    series_number: str
    series_description: str
    series_date: str
    series_time: str
    body_part: str
    protocol_name: str
    laterality: str
    manufacturer: str
    model_name: str
    station_name: str
    institution_name: str
    frame_of_reference_uid: str
    instances: int
    emitted: int  # of these, made by this node


@dataclass(frozen=True)
class InstanceRecord:
    sop_uid: str
    sop_class_uid: str
    series_uid: str
    transfer_syntax_uid: str
    instance_number: str
    image_type: str
    rows: int | None
    columns: int | None
    bits_allocated: int | None
    number_of_frames: int | None
    digest: str
    length: int
    revision: int
    received_at: float
    association_id: str | None
    calling_ae: str
    called_ae: str
    origin: str
    run_key: str | None
    status: str
    damage: str | None


@dataclass(frozen=True)
class JobRecord:
    pk: int
    kind: str
    queue: str
    dedupe_key: str
    payload: dict[str, Any]
    study_uid: str | None
    priority: int
    state: str
    attempts: int
    max_attempts: int
    not_before: float
    lease_until: float | None
    transaction_uid: str | None
    worker: str | None
    error: str | None
    created_at: float
    updated_at: float
    finished_at: float | None
    rank: float = 0.0
    due_at: float | None = None

    @property
    def due_by(self) -> float | None:
        """When a job that runs is ended by its deadline."""
        return self.due_at if self.state == "IN_PROGRESS" else None


@dataclass(frozen=True)
class JobEventRecord:
    job_pk: int
    at: float
    state: str
    worker: str | None
    detail: str | None


@dataclass(frozen=True)
class SelectionRecord:
    study_revision: int
    rule: str
    bundle: str
    series_uid: str
    chosen: bool
    reason: str
    at: float


@dataclass(frozen=True)
class RunRecord:
    pk: int
    run_key: str
    study_uid: str
    study_revision: int
    series_uids: list[str]
    input_set: list[list[str]]
    rule: str
    bundle: str
    bundle_version: str
    release_digest: str
    parameters: dict[str, Any]
    deliver_to: list[str]
    state: str
    reason: str | None
    device: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    timings: dict[str, float] | None
    findings: Any
    predecessor_pk: int | None
    delivered: bool
    job_pk: int | None
    release_pk: int | None = None
    shadow: bool = False
    compared_with: int | None = None
    agreement: dict[str, Any] | None = None
    recalled_at: float | None = None
    recall_reason: str | None = None
    memory: dict[str, Any] | None = None


@dataclass(frozen=True)
class DeliveryRecord:
    pk: int
    run_pk: int | None
    study_uid: str
    peer: str
    form: str
    state: str
    job_pk: int | None
    created_at: float
    finished_at: float | None
    detail: str | None


@dataclass(frozen=True)
class DeliveryInstanceRecord:
    delivery_pk: int
    sop_uid: str
    state: str
    status: int | None
    comment: str | None
    attempts: int
    answered_at: float | None
    commitment: str | None
    failure_reason: int | None
    commit_attempts: int
    committed_at: float | None


@dataclass(frozen=True)
class CommitmentRequestRecord:
    """Storage commitment that we asked a peer for."""

    pk: int
    transaction_uid: str
    delivery_pk: int
    peer: str
    state: str
    instances: int
    requested_at: float
    due_at: float
    reported_at: float | None
    detail: str | None


@dataclass(frozen=True)
class CompletionRecord:
    study_uid: str
    revision: int
    at: float
    reason: str
    instances: int
    input_digest: str
    held: str | None


@dataclass(frozen=True)
class QuarantineRecord:
    pk: int
    kind: str
    state: str
    sop_uid: str
    study_uid: str
    digest: str
    existing_digest: str | None
    reason: str
    calling_ae: str
    received_at: float
    resolved_at: float | None
    resolved_by: str | None
    resolution: str | None


@dataclass(frozen=True)
class AuditRecord:
    at: float
    event: str
    study_uid: str | None
    sop_uid: str | None
    actor: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class ReleaseRecord:
    """A bundle version; ``state`` is candidate, shadow, deployed or retired. ``evaluation_pk``: by which it was deployed."""

    pk: int
    name: str
    version: str
    digest: str
    state: str
    added_at: float
    state_at: float
    evaluation_pk: int | None


@dataclass(frozen=True)
class ReleaseEventRecord:
    pk: int
    release_pk: int
    at: float
    actor: str
    before: str | None
    after: str
    reason: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class EvaluationRecord:
    """How a release did on a data set; the report itself is read with :func:`storage.release_watch.report`."""

    pk: int
    release_pk: int
    source: str
    digest: str
    data: str
    split: str
    items: int
    data_fingerprint: str
    metrics: dict[str, dict[str, Any]]
    passed: bool | None
    at: float
    actor: str


@dataclass(frozen=True)
class FlagRecord:
    pk: int
    release_pk: int
    kind: str
    raised_at: float
    cleared_at: float | None
    reason: str


@dataclass(frozen=True)
class DriftRecord:
    """One look at the newest inputs of a release: feature > distance, its kind, and whether it is beyond the limit."""

    pk: int
    release_pk: int
    at: float
    newest_input_pk: int
    runs: int
    drifted: bool
    distances: dict[str, dict[str, Any]]
