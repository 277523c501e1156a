"""When each run's source was given a turn by its quota."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Table, Text

from storage.schema_base import Big, metadata

quota_turn = Table(
    "quota_turn",
    metadata,
    Column("run_pk", Big, ForeignKey("run.pk"), primary_key=True),
    Column("source", Text, nullable=False),  # the calling AE title of who sent the study
    Column("due_at", Float, nullable=False),  # from when on the run may be taken
    Index("ix_quota_turn_source", "source", "due_at"),
    Index("ix_quota_turn_due", "due_at"),
)
