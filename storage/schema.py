"""The index as SQLAlchemy Core tables; the same on SQLite and PostgreSQL.

Times are UTC seconds since the epoch (float) in columns named ``*_at``, ``not_before`` and ``lease_until``. DICOM dates, times and names
stand as received (decoded to text). ``json`` columns hold small objects that are shown, never matched on.
Tables of one topic stand in files of their own, schema_<topic>.py; who asks for a table finds all of them here.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from storage.schema_accounts import account, api_token, web_session
from storage.schema_ambiguities import ambiguity
from storage.schema_base import Big, Bytewise, metadata, pk_column
from storage.schema_chains import run_wait
from storage.schema_feedback import feedback
from storage.schema_memory import memory_use
from storage.schema_priors import prior_study
from storage.schema_quotas import quota_turn
from storage.schema_sources import study_source
from storage.schema_workitem_reporters import workitem_reporter
from storage.schema_workitems import workitem, workitem_event, workitem_notice, workitem_subscription
from storage.schema_worklist import worklist, worklist_change, worklist_event

__all__ = [
    "Big",
    "Bytewise",
    "account",
    "ambiguity",
    "api_token",
    "archive_info",
    "association",
    "association_study",
    "audit",
    "commitment",
    "commitment_request",
    "completion",
    "delivery",
    "delivery_instance",
    "drift",
    "drift_input",
    "emitted",
    "feedback",
    "instance",
    "instance_header",
    "job",
    "job_event",
    "location",
    "memory_use",
    "metadata",
    "model_release",
    "patient",
    "prior_study",
    "quarantine",
    "quota_turn",
    "release_evaluation",
    "release_event",
    "release_flag",
    "retention_hold",
    "run",
    "run_wait",
    "segment",
    "selection",
    "series",
    "study",
    "study_source",
    "tombstone",
    "web_session",
    "workitem",
    "workitem_event",
    "workitem_notice",
    "workitem_reporter",
    "workitem_subscription",
    "worklist",
    "worklist_change",
    "worklist_event",
]

archive_info = Table(
    "archive_info",
    metadata,
    Column("key", String(64), primary_key=True),  # archive_id: must match the file `archive-id` in the archive root
    Column("value", Text, nullable=False),
)

patient = Table(
    "patient",
    metadata,
    pk_column(),
    Column("patient_id", Bytewise, nullable=False),
    Column("issuer", Text, nullable=False, server_default=""),
    Column("name", Text, nullable=False, server_default=""),
    # Its alphabetic, ideographic and phonetic groups, case- and accent-folded, for matching (names.py).
    Column("name_key", Bytewise, nullable=False, server_default="", index=True),
    Column("name_ideographic_key", Bytewise, nullable=False, server_default=""),
    Column("name_phonetic_key", Bytewise, nullable=False, server_default=""),
    Column("birth_date", Text, nullable=False, server_default=""),
    Column("sex", Text, nullable=False, server_default=""),
    # The study's UID where PatientID is empty (such patients are never merged), else empty.
    Column("anonymous_study", Text, nullable=False, server_default=""),
    UniqueConstraint("patient_id", "issuer", "anonymous_study"),
)
# Any three characters of a name lead to its patient as well: `patient_name_search` (SQLite, FTS5, kept up by triggers) or
# `ix_patient_name_trigrams` (PostgreSQL, pg_trgm), made by migration 0003 where the database can.
for _group in ("name_ideographic_key", "name_phonetic_key"):
    _filled = text(f"{_group} <> ''")
    Index(f"ix_patient_{_group}", patient.c[_group], sqlite_where=_filled, postgresql_where=_filled)

study = Table(
    "study",
    metadata,
    pk_column(),
    Column("study_uid", Text, nullable=False, unique=True),
    Column("patient_pk", Big, ForeignKey("patient.pk"), nullable=False, index=True),
    Column("study_date", Bytewise, nullable=False, server_default="", index=True),
    Column("study_time", Text, nullable=False, server_default=""),
    Column("accession_number", Bytewise, nullable=False, server_default="", index=True),
    Column("study_id", Text, nullable=False, server_default=""),
    Column("study_description", Text, nullable=False, server_default=""),
    Column("referring_physician", Text, nullable=False, server_default=""),
    Column("referring_key", Bytewise, nullable=False, server_default=""),
    Column("referring_ideographic_key", Bytewise, nullable=False, server_default=""),
    Column("referring_phonetic_key", Bytewise, nullable=False, server_default=""),
    Column("timezone_offset", Text, nullable=False, server_default=""),
    Column("state", String(16), nullable=False, server_default="RECEIVING"),  # RECEIVING | COMPLETE
    Column("revision", Integer, nullable=False, server_default="0"),  # raised by every new received instance
    Column("completed_revision", Integer),
    Column("completed_at", Float),
    Column("complete_reason", Text),
    Column("first_received_at", Float, nullable=False),
    Column("last_received_at", Float, nullable=False),
    Column("flag", Text),  # why the study is not run (instances disagree on PatientID, ...), else NULL
)
Index("ix_study_state_last", study.c.state, study.c.last_received_at)

series = Table(
    "series",
    metadata,
    pk_column(),
    Column("series_uid", Text, nullable=False),
    Column("study_pk", Big, ForeignKey("study.pk"), nullable=False),
    Column("modality", Text, nullable=False, server_default=""),
    Column("series_number", Text, nullable=False, server_default=""),
    Column("series_description", Text, nullable=False, server_default=""),
    Column("series_date", Text, nullable=False, server_default=""),
    Column("series_time", Text, nullable=False, server_default=""),
    Column("body_part", Text, nullable=False, server_default=""),
    Column("protocol_name", Text, nullable=False, server_default=""),
    Column("laterality", Text, nullable=False, server_default=""),
    Column("manufacturer", Text, nullable=False, server_default=""),
    Column("model_name", Text, nullable=False, server_default=""),
    Column("station_name", Text, nullable=False, server_default=""),
    Column("institution_name", Text, nullable=False, server_default=""),
    Column("frame_of_reference_uid", Text, nullable=False, server_default=""),
    Column("pps_start_date", Text, nullable=False, server_default=""),
    Column("pps_start_time", Text, nullable=False, server_default=""),
    UniqueConstraint("study_pk", "series_uid"),
)
Index("ix_series_uid", series.c.series_uid)
Index("ix_series_modality", series.c.study_pk, series.c.modality)
Index("ix_series_of_modality", series.c.modality, series.c.study_pk)

instance = Table(
    "instance",
    metadata,
    pk_column(),
    Column("sop_uid", Text, nullable=False, unique=True),
    Column("sop_class_uid", Text, nullable=False),
    Column("study_pk", Big, ForeignKey("study.pk"), nullable=False),
    Column("series_pk", Big, ForeignKey("series.pk"), nullable=False, index=True),
    Column("transfer_syntax_uid", Text, nullable=False),
    Column("instance_number", Text, nullable=False, server_default=""),
    Column("image_type", Text, nullable=False, server_default=""),
    Column("rows", Integer),
    Column("columns", Integer),
    Column("bits_allocated", Integer),
    Column("number_of_frames", Integer),
    Column("digest", String(64), nullable=False),  # BLAKE3 of the data set's bytes as received, hex
    Column("length", Big, nullable=False),  # bytes of the data set as received
    Column("revision", Integer, nullable=False, server_default="1"),  # of this instance: raised when a conflict is accepted
    Column("received_at", Float, nullable=False),
    Column("association_id", Text),
    Column("calling_ae", Text, nullable=False, server_default=""),
    Column("called_ae", Text, nullable=False, server_default=""),
    Column("origin", String(16), nullable=False),  # received | imported | emitted
    Column("run_key", Text),
    Column("status", String(16), nullable=False, server_default="OK"),  # OK | DAMAGED
    Column("damage", Text),
)
Index("ix_instance_study", instance.c.study_pk, instance.c.series_pk)

Index("ix_instance_damaged", instance.c.series_pk, sqlite_where=text("status <> 'OK'"), postgresql_where=text("status <> 'OK'"))

instance_header = Table(
    "instance_header",
    metadata,
    Column("instance_pk", Big, ForeignKey("instance.pk", ondelete="CASCADE"), primary_key=True),
    Column("json_zlib", LargeBinary, nullable=False),  # DICOM JSON (PS3.18 F) without bulk data, zlib
)

segment = Table(
    "segment",
    metadata,
    pk_column(),
    Column("name", Text, nullable=False, unique=True),  # path relative to the archive root
    Column("study_uid", Text, nullable=False, index=True),
    Column("state", String(16), nullable=False, server_default="OPEN"),  # OPEN | SEALED
    Column("size", Big),  # bytes, once sealed
    Column("owner", Text),  # process that may append (scaled: leased), NULL when idle or sealed
    Column("lease_until", Float),
    Column("created_at", Float, nullable=False),
    Column("sealed_at", Float),
)

location = Table(
    "location",
    metadata,
    pk_column(),
    Column("instance_pk", Big, ForeignKey("instance.pk", ondelete="CASCADE"), nullable=False),
    Column("segment_pk", Big, ForeignKey("segment.pk"), nullable=False),
    Column("member_offset", Big, nullable=False),  # of the member's pax header
    Column("offset", Big, nullable=False),  # of the Part 10 file (its preamble)
    Column("length", Big, nullable=False),  # of the Part 10 file
    Column("meta_length", Integer, nullable=False),  # the data set starts at offset + meta_length
    Column("instance_revision", Integer, nullable=False, server_default="1"),
)
Index("ix_location_instance", location.c.instance_pk)
Index("ix_location_segment", location.c.segment_pk, location.c.offset)

emitted = Table(
    "emitted",
    metadata,
    # Every SOP Instance UID this node ever made; outlives deletion, so the loop breaker knows it.
    Column("sop_uid", Text, primary_key=True),
    Column("run_key", Text, nullable=False),
    Column("emitted_at", Float, nullable=False),
)

tombstone = Table(
    "tombstone",
    metadata,
    pk_column(),
    Column("sop_uid", Text, nullable=False, index=True),
    Column("study_uid", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("deleted_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("deleted_at", Float, nullable=False),
    Column("members", JSON, nullable=False, server_default="[]"),  # [[segment name, member_offset, offset, length], ...] that go
    Column("finished_at", Float),  # headers rewritten and data punched; NULL: recovery finishes it
)

quarantine = Table(
    "quarantine",
    metadata,
    pk_column(),
    Column("kind", String(16), nullable=False),  # conflict | malformed
    Column("state", String(16), nullable=False, server_default="HELD"),  # HELD | ACCEPTED | DISCARDED
    Column("sop_uid", Text, nullable=False, server_default="", index=True),
    Column("study_uid", Text, nullable=False, server_default=""),
    Column("digest", String(64), nullable=False),
    Column("existing_digest", String(64)),
    Column("reason", Text, nullable=False),
    Column("name", Text, nullable=False),  # single-member tar, relative to the archive root
    Column("calling_ae", Text, nullable=False, server_default=""),
    Column("called_ae", Text, nullable=False, server_default=""),
    Column("received_at", Float, nullable=False),
    Column("resolved_at", Float),
    Column("resolved_by", Text),
    Column("resolution", Text),
    UniqueConstraint("sop_uid", "digest"),
)

association = Table(
    "association",
    metadata,
    Column("id", Text, primary_key=True),
    Column("process", Text, nullable=False),
    Column("calling_ae", Text, nullable=False),
    Column("called_ae", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False),  # an expired lease counts as closed
    Column("closed_at", Float),
    Column("ended", Text),  # released | aborted | lost | shutdown
    Column("stored", Integer, nullable=False, server_default="0"),
)

Index(
    "ix_association_open",
    association.c.process,
    sqlite_where=text("closed_at IS NULL"),
    postgresql_where=text("closed_at IS NULL"),
)

association_study = Table(
    "association_study",
    metadata,
    Column("association_id", Text, ForeignKey("association.id", ondelete="CASCADE"), primary_key=True),
    Column("study_uid", Text, primary_key=True, index=True),
    Column("last_at", Float, nullable=False),
)

completion = Table(
    "completion",
    metadata,
    # One row each time a study completes. `study` keeps the last one; here is the history, and what the frozen input set was.
    pk_column(),
    Column("study_uid", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("instances", Integer, nullable=False),
    Column("input_digest", String(64), nullable=False),  # BLAKE3 over the sorted UIDs and digests of the received instances
    Column("held", Text),  # why no route job was queued, else NULL
    UniqueConstraint("study_uid", "revision"),
)

job = Table(
    "job",
    metadata,
    pk_column(),
    Column("kind", String(16), nullable=False),  # route | infer | deliver | commit | evaluate | headers
    Column("queue", Text, nullable=False),  # what a worker claims by: "route", "infer", "deliver:<peer>", ...
    Column("dedupe_key", Text, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("study_uid", Text, index=True),
    Column("priority", Integer, nullable=False, server_default="0"),  # higher first
    Column("rank", Float, nullable=False, server_default="0"),  # lowest first: when it was due at first, less seconds for its priority
    Column("state", String(16), nullable=False, server_default="SCHEDULED"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("lease_until", Float),
    Column("due_at", Float),  # while it runs, where it has a deadline: when it is ended
    Column("transaction_uid", Text),  # the fencing token of the current claim
    Column("worker", Text),
    Column("error", Text),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("finished_at", Float),
)
Index(
    "ix_job_due",
    job.c.queue,
    job.c.rank,
    job.c.pk,
    job.c.not_before,
    sqlite_where=text("state = 'SCHEDULED'"),
    postgresql_where=text("state = 'SCHEDULED'"),
)
Index(
    "ix_job_lease",
    job.c.lease_until,
    sqlite_where=text("state = 'IN_PROGRESS'"),
    postgresql_where=text("state = 'IN_PROGRESS'"),
)
Index(
    "uq_job_live",
    job.c.dedupe_key,
    unique=True,
    sqlite_where=text("state IN ('SCHEDULED', 'IN_PROGRESS')"),
    postgresql_where=text("state IN ('SCHEDULED', 'IN_PROGRESS')"),
)

Index("ix_job_failed", job.c.queue, sqlite_where=text("state = 'FAILED'"), postgresql_where=text("state = 'FAILED'"))

job_event = Table(
    "job_event",
    metadata,
    pk_column(),
    Column("job_pk", Big, ForeignKey("job.pk", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("state", String(16), nullable=False),
    Column("worker", Text),
    Column("detail", Text),
)

selection = Table(
    "selection",
    metadata,
    pk_column(),
    Column("study_uid", Text, nullable=False),
    Column("study_revision", Integer, nullable=False),
    Column("rule", Text, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("series_uid", Text, nullable=False),
    Column("chosen", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
)
Index("ix_selection_study", selection.c.study_uid, selection.c.study_revision)

run = Table(
    "run",
    metadata,
    pk_column(),
    # Hash of UIDs and digests of the selected instances, release digest and parameters; unique over all runs.
    Column("run_key", String(64), nullable=False, unique=True),
    Column("study_uid", Text, nullable=False, index=True),
    Column("study_revision", Integer, nullable=False),
    Column("series_uids", JSON, nullable=False),
    Column("input_set", JSON, nullable=False),  # [[sop_uid, digest], ...] in order
    Column("rule", Text, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("bundle_version", Text, nullable=False),
    Column("release_digest", String(64), nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("deliver_to", JSON, nullable=False),  # peer names
    # SCHEDULED | IN_PROGRESS | COMPLETED | NOT_APPLICABLE | FAILED | CANCELED
    Column("state", String(16), nullable=False, server_default="SCHEDULED"),
    Column("reason", Text),
    Column("device", Text),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("timings", JSON),  # seconds: load, forward, encode, ...
    Column("findings", JSON),  # measurements and classifications as shown to people
    Column("predecessor_pk", Big, ForeignKey("run.pk")),
    Column("delivered", Boolean, nullable=False, server_default=text("true")),  # false: superseded while running, kept but not sent
    Column("job_pk", Big),
    Column("release_pk", Big),  # none: the bundle of a folder, which was never released here
    Column("shadow", Boolean, nullable=False, server_default=text("false")),  # looks on: its result is neither archived nor sent
    Column("compared_with", Big),  # of a shadow run: the run whose result went out
    Column("agreement", JSON),  # ... and how far the two agree
    Column("recalled_at", Float),  # its release was recalled: the result is kept, and must not be used
    Column("recall_reason", Text),
    Column("memory", JSON),  # what was known of the memory it takes, what was chosen and why, and what was measured
)
Index("ix_run_shadow", run.c.release_pk, sqlite_where=text("shadow"), postgresql_where=text("shadow"))

Index(
    "ix_run_waiting",
    run.c.job_pk,
    sqlite_where=text("state IN ('SCHEDULED', 'IN_PROGRESS')"),
    postgresql_where=text("state IN ('SCHEDULED', 'IN_PROGRESS')"),
)

delivery = Table(
    "delivery",
    metadata,
    pk_column(),
    Column("run_pk", Big, ForeignKey("run.pk"), index=True),
    Column("study_uid", Text, nullable=False, index=True),
    Column("peer", Text, nullable=False),
    # The kind of result that goes by it ("SEG", "SR", ...): each has its own. "": originals, a note, or all that a run made.
    Column("form", String(16), nullable=False, server_default=""),
    Column("state", String(16), nullable=False, server_default="SCHEDULED"),  # SCHEDULED | DELIVERED | NOT_TAKEN | FAILED | CANCELED
    Column("job_pk", Big),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("detail", Text),
    UniqueConstraint("run_pk", "peer", "form"),
)

Index(
    "ix_delivery_waiting",
    delivery.c.peer,
    delivery.c.created_at,
    sqlite_where=text("state = 'SCHEDULED'"),
    postgresql_where=text("state = 'SCHEDULED'"),
)

delivery_instance = Table(
    "delivery_instance",
    metadata,
    Column("delivery_pk", Big, ForeignKey("delivery.pk", ondelete="CASCADE"), primary_key=True),
    Column("sop_uid", Text, primary_key=True),
    Column("state", String(16), nullable=False, server_default="SCHEDULED"),  # SCHEDULED | ACCEPTED | REFUSED | NOT_OFFERED
    Column("status", Integer),  # DIMSE status of the last answer
    Column("comment", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("answered_at", Float),
    Column("commitment", String(16)),  # of an accepted one, where the peer commits: REQUESTED | COMMITTED | FAILED, else NULL
    Column("failure_reason", Integer),  # (0008,1197) of the last report
    Column("commit_attempts", Integer, nullable=False, server_default="0"),  # how often it was sent again because it was not committed
    Column("committed_at", Float),
)
Index("ix_delivery_instance_sop", delivery_instance.c.sop_uid)

retention_hold = Table(
    "retention_hold",
    metadata,
    # Studies that a person keeps from retention, whatever the rules say.
    Column("study_uid", Text, primary_key=True),
    Column("held_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("held_at", Float, nullable=False),
)

commitment_request = Table(
    "commitment_request",
    metadata,
    # Storage commitment asked by us (PS3.4 J.3), for the instances of a delivery.
    pk_column(),
    Column("transaction_uid", Text, nullable=False, unique=True),
    Column("delivery_pk", Big, ForeignKey("delivery.pk", ondelete="CASCADE"), nullable=False, index=True),
    Column("peer", Text, nullable=False),
    Column("state", String(16), nullable=False, server_default="REQUESTED"),  # REQUESTED | COMMITTED | FAILED | EXPIRED
    Column("instances", Integer, nullable=False),
    Column("requested_at", Float, nullable=False),
    Column("due_at", Float, nullable=False),  # without a report by then it is asked again
    Column("reported_at", Float),
    Column("detail", Text),
)
Index(
    "ix_commitment_request_open",
    commitment_request.c.peer,
    commitment_request.c.requested_at,
    sqlite_where=text("state = 'REQUESTED'"),
    postgresql_where=text("state = 'REQUESTED'"),
)

commitment = Table(
    "commitment",
    metadata,
    # Storage commitment asked of us: the transaction, durable before its N-ACTION is answered.
    pk_column(),
    Column("transaction_uid", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("request_digest", String(64), nullable=False),  # BLAKE3 of the references: tells a repeated request from another one
    Column("called_ae", Text, nullable=False),
    Column("references", LargeBinary, nullable=False),  # zlib of lines "SOP class UID, tab, SOP instance UID"
    Column("instances", Integer, nullable=False),
    Column("duplicate", Boolean, nullable=False),  # the UID was in use for something else: every instance fails with 0131H
    Column("state", String(16), nullable=False, server_default="REQUESTED"),  # REQUESTED | JUDGED | REPORTED | FAILED
    Column("failures", LargeBinary),  # zlib of lines "index into references, tab, reason"
    Column("failed", Integer),
    Column("requested_at", Float, nullable=False),
    Column("judged_at", Float),
    Column("reported_at", Float),
    Column("association_until", Float, nullable=False),  # until then the report is left to the association that asked
    Column("reporter", Text),  # who is sending the report now
    Column("reporter_until", Float),
    Column("job_pk", Big),
    Column("detail", Text),
    UniqueConstraint("peer", "transaction_uid", "request_digest"),
)
Index(
    "ix_commitment_open",
    commitment.c.peer,
    commitment.c.requested_at,
    sqlite_where=text("state IN ('REQUESTED', 'JUDGED')"),
    postgresql_where=text("state IN ('REQUESTED', 'JUDGED')"),
)

audit = Table(
    "audit",
    metadata,
    pk_column(),
    Column("at", Float, nullable=False),
    Column("event", Text, nullable=False),
    Column("study_uid", Text, index=True),
    Column("sop_uid", Text),
    Column("actor", Text, nullable=False),
    Column("detail", JSON, nullable=False),
)

model_release = Table(
    "model_release",
    metadata,
    # A bundle version by its release digest; its files lie in the data folder under that digest.
    pk_column(),
    Column("name", Text, nullable=False, index=True),
    Column("version", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("state", String(16), nullable=False, server_default="candidate"),  # candidate | shadow | deployed | retired
    Column("added_at", Float, nullable=False),
    Column("state_at", Float, nullable=False),
    Column("evaluation_pk", Big),  # by which it was deployed
)
Index(
    "uq_model_release_deployed",
    model_release.c.name,
    unique=True,
    sqlite_where=text("state = 'deployed'"),
    postgresql_where=text("state = 'deployed'"),
)

release_event = Table(
    "release_event",
    metadata,
    # Every transition: who, when, why.
    pk_column(),
    Column("release_pk", Big, ForeignKey("model_release.pk"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("actor", Text, nullable=False),
    Column("before", String(16)),
    Column("after", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", JSON, nullable=False),
)

release_evaluation = Table(
    "release_evaluation",
    metadata,
    # How a release did on a data set, with the report as it was read.
    pk_column(),
    Column("release_pk", Big, ForeignKey("model_release.pk"), nullable=False, index=True),
    Column("source", String(16), nullable=False),  # report: handed in by a person | scheduled: made by this node
    Column("digest", String(64), nullable=False),  # SHA-256 of the report
    Column("data", Text, nullable=False),
    Column("split", Text, nullable=False),
    Column("items", Integer, nullable=False),
    Column("data_fingerprint", Text, nullable=False),
    Column("metrics", JSON, nullable=False),  # name > {value, low, high, n}
    Column("report", LargeBinary, nullable=False),
    Column("passed", Boolean),  # of a scheduled one: whether it met the minima of then
    Column("at", Float, nullable=False),
    Column("actor", Text, nullable=False),
)

release_flag = Table(
    "release_flag",
    metadata,
    # What a person has to look at; one open flag of a kind a release.
    pk_column(),
    Column("release_pk", Big, ForeignKey("model_release.pk"), nullable=False),
    Column("kind", String(16), nullable=False),  # drift | evaluation
    Column("raised_at", Float, nullable=False),
    Column("cleared_at", Float),
    Column("reason", Text, nullable=False),
)
Index(
    "uq_release_flag_open",
    release_flag.c.release_pk,
    release_flag.c.kind,
    unique=True,
    sqlite_where=text("cleared_at IS NULL"),
    postgresql_where=text("cleared_at IS NULL"),
)

drift_input = Table(
    "drift_input",
    metadata,
    # What one run of a release was given, in numbers and coded header values; never identity.
    pk_column(),
    Column("release_pk", Big, ForeignKey("model_release.pk"), nullable=False),
    Column("run_pk", Big, nullable=False, unique=True),
    Column("at", Float, nullable=False),
    Column("statistics", JSON, nullable=False),
    Index(None, "release_pk", "pk"),
)

drift = Table(
    "drift",
    metadata,
    # One look at the newest inputs of a release, beside its training data.
    pk_column(),
    Column("release_pk", Big, ForeignKey("model_release.pk"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("newest_input_pk", Big, nullable=False),
    Column("runs", Integer, nullable=False),
    Column("drifted", Boolean, nullable=False),
    Column("distances", JSON, nullable=False),  # feature > {distance, kind, drifted}
)
