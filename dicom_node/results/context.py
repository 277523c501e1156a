"""What an encoder is told about the run, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum

from storage.archive import EmittedObject

from .forms import Form


class Outcome(StrEnum):
    """How a run ended. The last three are different negatives and read differently in the SR."""

    FINDINGS = "findings"
    NOTHING_FOUND = "nothing_found"
    NOT_APPLICABLE = "not_applicable"
    FAILED = "failed"


@dataclass(frozen=True)
class FurtherInput:
    """A further series that a model of several inputs was given; ``instances`` are (SOP Class UID, SOP Instance UID)."""

    name: str
    study_uid: str
    series_uid: str
    instances: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ResultContext:
    """The run that the objects belong to.

    Parameters
    ----------
    run_key:
        Hash over input set, release and parameters; SOP Instance UIDs are derived from it.
    bundle:
        Name of the bundle; Tracking UIDs are derived from study, bundle and finding.
    device_uid:
        Device UID of the release on this archive, see `uids.device_uid`.
    software_version:
        Version of the node.
    started_at:
        Start of the analysis, UTC epoch seconds: Content Date and Time.
    station:
        Station name (AE title) of the node.
    predecessor_sr_uid, predecessor_series_uid:
        The SR that this one replaces in a rerun; its series defaults to this SR's own.
    kinds:
        Which objects of the record are wanted, of "SEG" and "SR".
    forms:
        What is wanted beside the record.
    reason:
        Readable sentence for outcomes that are no finding.
    report_reason:
        Whether a run that did not apply or failed is told in an SR (else it yields no object).
    evaluation:
        The evaluation by which the release was deployed, in one line; stands among the algorithm's parameters.
    inputs:
        The series beside the first that the model was given: evidence of the SR, and named in its groups.
    timezone:
        Zone of dates and times where the source states no offset; the machine's own by default.
    """

    run_key: str
    study_uid: str
    bundle: str
    device_uid: str
    software_version: str
    started_at: float
    station: str = ""
    predecessor_sr_uid: str | None = None
    predecessor_series_uid: str | None = None
    kinds: tuple[str, ...] = ("SEG", "SR")
    forms: tuple[Form, ...] = ()
    outcome: str = Outcome.FINDINGS
    reason: str = ""
    report_reason: bool = False
    instance_number: int = 1
    evaluation: str = ""
    inputs: tuple[FurtherInput, ...] = ()
    timezone: tzinfo | None = None

    def local_time(self, source_offset: tzinfo | None) -> datetime:
        """Start of the analysis in the zone that the source's own times are in."""
        return datetime.fromtimestamp(self.started_at, UTC).astimezone(source_offset or self.timezone)


@dataclass(frozen=True)
class EncodedObject:
    """One object as it is archived and sent; `dataset_bytes` is the data set without file meta, `forms` are those that it serves."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    transfer_syntax_uid: str
    dataset_bytes: bytes
    summary: str
    forms: tuple[str, ...] = ()

    def emitted(self, run_key: str) -> EmittedObject:
        """The object as the archive takes it, made by a run."""
        return EmittedObject(
            sop_class_uid=self.sop_class_uid,
            sop_instance_uid=self.sop_instance_uid,
            study_uid=self.study_uid,
            series_uid=self.series_uid,
            transfer_syntax_uid=self.transfer_syntax_uid,
            dataset_bytes=self.dataset_bytes,
            run_key=run_key,
        )
