"""Workitems, who watches them, and what is on its way to those who do (PS3.4 annex CC)."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint, text

from storage.schema_base import Big, Bytewise, metadata, pk_column

workitem = Table(
    "workitem",
    metadata,
    # Unified Procedure Steps (PS3.4 annex CC): of our runs, and of whoever manages or performs tasks from outside.
    pk_column(),
    Column("uid", Text, nullable=False, unique=True),
    Column("state", String(16), nullable=False, server_default="SCHEDULED"),  # SCHEDULED | IN PROGRESS | COMPLETED | CANCELED
    Column("transaction_uid", Text),  # the lock of who performs it: compared with, never shown
    Column("performer", Text),
    Column("priority", String(16), nullable=False, server_default="MEDIUM"),  # HIGH | MEDIUM | LOW
    Column("readiness", String(16), nullable=False, server_default="READY"),
    Column("label", Text, nullable=False, server_default=""),
    Column("worklist_label", Text, nullable=False, server_default=""),
    Column("scheduled_start", Bytewise, nullable=False, server_default=""),
    Column("patient_id", Bytewise, nullable=False, server_default=""),
    Column("accession_number", Bytewise, nullable=False, server_default=""),
    Column("study_uid", Text, nullable=False, server_default="", index=True),
    Column("dataset", JSON, nullable=False),  # DICOM JSON; what stands in columns and what a run knows better is put in when it is read
    Column("run_pk", Big, ForeignKey("run.pk"), index=True),  # NULL: performed by somebody else
    Column("created_by", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("final_at", Float),
)
Index("ix_workitem_state", workitem.c.state, workitem.c.scheduled_start)
Index("ix_workitem_final", workitem.c.final_at, sqlite_where=text("final_at IS NOT NULL"), postgresql_where=text("final_at IS NOT NULL"))

workitem_event = Table(
    "workitem_event",
    metadata,
    pk_column(),
    Column("workitem_pk", Big, ForeignKey("workitem.pk", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("type", Integer, nullable=False),  # Event Type ID (PS3.4 table CC.2.4-1)
    Column("actor", Text, nullable=False),
    Column("content", JSON, nullable=False),  # DICOM JSON of the report
)

workitem_subscription = Table(
    "workitem_subscription",
    metadata,
    pk_column(),
    Column("aet", Text, nullable=False),
    Column("target", Text, nullable=False),  # a workitem's UID, or that of the global or the filtered global subscription
    Column("channel", String(8), nullable=False),  # web | dimse
    Column("active", Boolean, nullable=False, server_default=text("true")),  # false: left out of the global subscription
    Column("deletion_lock", Boolean, nullable=False, server_default=text("false")),
    Column("filter", JSON),  # matching keys of a filtered subscription
    Column("suspended_at", Float),  # nothing newer is subscribed to
    Column("created_at", Float, nullable=False),
    Column("owner", Text),  # account or token that subscribed; none: a peer, or anybody where nobody is asked who it is
    UniqueConstraint("aet", "target"),
)
Index("ix_workitem_subscription_target", workitem_subscription.c.target)

workitem_notice = Table(
    "workitem_notice",
    metadata,
    # A report on its way to one subscriber; gone once it was sent.
    pk_column(),
    Column("aet", Text, nullable=False),
    Column("channel", String(8), nullable=False),
    Column("uid", Text, nullable=False),
    Column("type", Integer, nullable=False),
    Column("content", JSON, nullable=False),
    Column("at", Float, nullable=False),
)
Index("ix_workitem_notice_aet", workitem_notice.c.channel, workitem_notice.c.aet, workitem_notice.c.pk)
