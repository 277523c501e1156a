"""The first tables: patients to instances, segments, jobs, runs, deliveries, audit

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "archive_info",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_archive_info")),
    )
    op.create_table(
        "association",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("calling_ae", sa.Text(), nullable=False),
        sa.Column("called_ae", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.Column("closed_at", sa.Float(), nullable=True),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.Column("stored", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_association")),
    )
    op.create_table(
        "audit",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=True),
        sa.Column("sop_uid", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_study_uid"), "audit", ["study_uid"], unique=False)
    op.create_table(
        "emitted",
        sa.Column("sop_uid", sa.Text(), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=False),
        sa.Column("emitted_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("sop_uid", name=op.f("pk_emitted")),
    )
    op.create_table(
        "job",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=True),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("state", sa.String(length=16), server_default="SCHEDULED", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Float(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("transaction_uid", sa.Text(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_job")),
    )
    op.create_index("ix_job_claim", "job", ["state", "queue", sa.text("priority DESC"), "not_before"], unique=False)
    op.create_index(op.f("ix_job_study_uid"), "job", ["study_uid"], unique=False)
    op.create_index(
        "uq_job_live",
        "job",
        ["dedupe_key"],
        unique=True,
        sqlite_where=sa.text("state IN ('SCHEDULED', 'IN_PROGRESS')"),
        postgresql_where=sa.text("state IN ('SCHEDULED', 'IN_PROGRESS')"),
    )
    op.create_table(
        "patient",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), server_default="", nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("name_key", sa.Text(), server_default="", nullable=False),
        sa.Column("birth_date", sa.Text(), server_default="", nullable=False),
        sa.Column("sex", sa.Text(), server_default="", nullable=False),
        sa.Column("anonymous_study", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_patient")),
        sa.UniqueConstraint("patient_id", "issuer", "anonymous_study", name=op.f("uq_patient_patient_id_issuer_anonymous_study")),
    )
    op.create_index(op.f("ix_patient_name_key"), "patient", ["name_key"], unique=False)
    op.create_table(
        "quarantine",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="HELD", nullable=False),
        sa.Column("sop_uid", sa.Text(), server_default="", nullable=False),
        sa.Column("study_uid", sa.Text(), server_default="", nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("existing_digest", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("calling_ae", sa.Text(), server_default="", nullable=False),
        sa.Column("called_ae", sa.Text(), server_default="", nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("resolved_at", sa.Float(), nullable=True),
        sa.Column("resolved_by", sa.Text(), nullable=True),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("sop_uid", "digest", name=op.f("uq_quarantine_sop_uid_digest")),
    )
    op.create_index(op.f("ix_quarantine_sop_uid"), "quarantine", ["sop_uid"], unique=False)
    op.create_table(
        "run",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("run_key", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("study_revision", sa.Integer(), nullable=False),
        sa.Column("series_uids", sa.JSON(), nullable=False),
        sa.Column("input_set", sa.JSON(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("bundle_version", sa.Text(), nullable=False),
        sa.Column("release_digest", sa.String(length=64), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("deliver_to", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="SCHEDULED", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("timings", sa.JSON(), nullable=True),
        sa.Column("findings", sa.JSON(), nullable=True),
        sa.Column("predecessor_pk", Big, nullable=True),
        sa.Column("delivered", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.ForeignKeyConstraint(["predecessor_pk"], ["run.pk"], name=op.f("fk_run_predecessor_pk")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_run")),
        sa.UniqueConstraint("run_key", name=op.f("uq_run_run_key")),
    )
    op.create_index(op.f("ix_run_study_uid"), "run", ["study_uid"], unique=False)
    op.create_table(
        "segment",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="OPEN", nullable=False),
        sa.Column("size", Big, nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("sealed_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_segment")),
        sa.UniqueConstraint("name", name=op.f("uq_segment_name")),
    )
    op.create_index(op.f("ix_segment_study_uid"), "segment", ["study_uid"], unique=False)
    op.create_table(
        "selection",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("study_revision", sa.Integer(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("series_uid", sa.Text(), nullable=False),
        sa.Column("chosen", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_selection")),
    )
    op.create_index("ix_selection_study", "selection", ["study_uid", "study_revision"], unique=False)
    op.create_table(
        "tombstone",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("sop_uid", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("deleted_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("deleted_at", sa.Float(), nullable=False),
        sa.Column("members", sa.JSON(), server_default="[]", nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_tombstone")),
    )
    op.create_index(op.f("ix_tombstone_sop_uid"), "tombstone", ["sop_uid"], unique=False)
    op.create_table(
        "association_study",
        sa.Column("association_id", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["association_id"], ["association.id"], name=op.f("fk_association_study_association_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("association_id", "study_uid", name=op.f("pk_association_study")),
    )
    op.create_index(op.f("ix_association_study_study_uid"), "association_study", ["study_uid"], unique=False)
    op.create_table(
        "delivery",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("run_pk", Big, nullable=True),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="SCHEDULED", nullable=False),
        sa.Column("job_pk", Big, nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_pk"], ["run.pk"], name=op.f("fk_delivery_run_pk")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_delivery")),
        sa.UniqueConstraint("run_pk", "peer", name=op.f("uq_delivery_run_pk_peer")),
    )
    op.create_index(op.f("ix_delivery_run_pk"), "delivery", ["run_pk"], unique=False)
    op.create_index(op.f("ix_delivery_study_uid"), "delivery", ["study_uid"], unique=False)
    op.create_table(
        "job_event",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("job_pk", Big, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_pk"], ["job.pk"], name=op.f("fk_job_event_job_pk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_job_event")),
    )
    op.create_index(op.f("ix_job_event_job_pk"), "job_event", ["job_pk"], unique=False)
    op.create_table(
        "study",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("patient_pk", Big, nullable=False),
        sa.Column("study_date", sa.Text(), server_default="", nullable=False),
        sa.Column("study_time", sa.Text(), server_default="", nullable=False),
        sa.Column("accession_number", sa.Text(), server_default="", nullable=False),
        sa.Column("study_id", sa.Text(), server_default="", nullable=False),
        sa.Column("study_description", sa.Text(), server_default="", nullable=False),
        sa.Column("referring_physician", sa.Text(), server_default="", nullable=False),
        sa.Column("timezone_offset", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.String(length=16), server_default="RECEIVING", nullable=False),
        sa.Column("revision", sa.Integer(), server_default="0", nullable=False),
        sa.Column("completed_revision", sa.Integer(), nullable=True),
        sa.Column("completed_at", sa.Float(), nullable=True),
        sa.Column("complete_reason", sa.Text(), nullable=True),
        sa.Column("first_received_at", sa.Float(), nullable=False),
        sa.Column("last_received_at", sa.Float(), nullable=False),
        sa.Column("flag", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["patient_pk"], ["patient.pk"], name=op.f("fk_study_patient_pk")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_study")),
        sa.UniqueConstraint("study_uid", name=op.f("uq_study_study_uid")),
    )
    op.create_index(op.f("ix_study_accession_number"), "study", ["accession_number"], unique=False)
    op.create_index(op.f("ix_study_patient_pk"), "study", ["patient_pk"], unique=False)
    op.create_index("ix_study_state_last", "study", ["state", "last_received_at"], unique=False)
    op.create_index(op.f("ix_study_study_date"), "study", ["study_date"], unique=False)
    op.create_table(
        "delivery_instance",
        sa.Column("delivery_pk", Big, nullable=False),
        sa.Column("sop_uid", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="SCHEDULED", nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("answered_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["delivery_pk"], ["delivery.pk"], name=op.f("fk_delivery_instance_delivery_pk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("delivery_pk", "sop_uid", name=op.f("pk_delivery_instance")),
    )
    op.create_table(
        "series",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("series_uid", sa.Text(), nullable=False),
        sa.Column("study_pk", Big, nullable=False),
        sa.Column("modality", sa.Text(), server_default="", nullable=False),
        sa.Column("series_number", sa.Text(), server_default="", nullable=False),
        sa.Column("series_description", sa.Text(), server_default="", nullable=False),
        sa.Column("series_date", sa.Text(), server_default="", nullable=False),
        sa.Column("series_time", sa.Text(), server_default="", nullable=False),
        sa.Column("body_part", sa.Text(), server_default="", nullable=False),
        sa.Column("protocol_name", sa.Text(), server_default="", nullable=False),
        sa.Column("laterality", sa.Text(), server_default="", nullable=False),
        sa.Column("manufacturer", sa.Text(), server_default="", nullable=False),
        sa.Column("model_name", sa.Text(), server_default="", nullable=False),
        sa.Column("station_name", sa.Text(), server_default="", nullable=False),
        sa.Column("institution_name", sa.Text(), server_default="", nullable=False),
        sa.Column("frame_of_reference_uid", sa.Text(), server_default="", nullable=False),
        sa.Column("pps_start_date", sa.Text(), server_default="", nullable=False),
        sa.Column("pps_start_time", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["study_pk"], ["study.pk"], name=op.f("fk_series_study_pk")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_series")),
        sa.UniqueConstraint("study_pk", "series_uid", name=op.f("uq_series_study_pk_series_uid")),
    )
    op.create_index(op.f("ix_series_study_pk"), "series", ["study_pk"], unique=False)
    op.create_index("ix_series_uid", "series", ["series_uid"], unique=False)
    op.create_table(
        "instance",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("sop_uid", sa.Text(), nullable=False),
        sa.Column("sop_class_uid", sa.Text(), nullable=False),
        sa.Column("study_pk", Big, nullable=False),
        sa.Column("series_pk", Big, nullable=False),
        sa.Column("transfer_syntax_uid", sa.Text(), nullable=False),
        sa.Column("instance_number", sa.Text(), server_default="", nullable=False),
        sa.Column("image_type", sa.Text(), server_default="", nullable=False),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("columns", sa.Integer(), nullable=True),
        sa.Column("bits_allocated", sa.Integer(), nullable=True),
        sa.Column("number_of_frames", sa.Integer(), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("length", Big, nullable=False),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("association_id", sa.Text(), nullable=True),
        sa.Column("calling_ae", sa.Text(), server_default="", nullable=False),
        sa.Column("called_ae", sa.Text(), server_default="", nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("run_key", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=16), server_default="OK", nullable=False),
        sa.Column("damage", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["series_pk"], ["series.pk"], name=op.f("fk_instance_series_pk")),
        sa.ForeignKeyConstraint(["study_pk"], ["study.pk"], name=op.f("fk_instance_study_pk")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_instance")),
        sa.UniqueConstraint("sop_uid", name=op.f("uq_instance_sop_uid")),
    )
    op.create_index(op.f("ix_instance_series_pk"), "instance", ["series_pk"], unique=False)
    op.create_index("ix_instance_study", "instance", ["study_pk", "series_pk"], unique=False)
    op.create_table(
        "instance_header",
        sa.Column("instance_pk", Big, nullable=False),
        sa.Column("json_zlib", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["instance_pk"], ["instance.pk"], name=op.f("fk_instance_header_instance_pk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("instance_pk", name=op.f("pk_instance_header")),
    )
    op.create_table(
        "location",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("instance_pk", Big, nullable=False),
        sa.Column("segment_pk", Big, nullable=False),
        sa.Column("member_offset", Big, nullable=False),
        sa.Column("offset", Big, nullable=False),
        sa.Column("length", Big, nullable=False),
        sa.Column("meta_length", sa.Integer(), nullable=False),
        sa.Column("instance_revision", sa.Integer(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(["instance_pk"], ["instance.pk"], name=op.f("fk_location_instance_pk"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["segment_pk"], ["segment.pk"], name=op.f("fk_location_segment_pk")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_location")),
    )
    op.create_index("ix_location_instance", "location", ["instance_pk"], unique=False)
    op.create_index("ix_location_segment", "location", ["segment_pk", "offset"], unique=False)
