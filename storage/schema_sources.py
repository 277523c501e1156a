"""Which AE titles sent instances of a study. Triggers, made by the migration 0023, add a row with the first instance of each."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Table

from storage.schema_base import Big, Bytewise, metadata

study_source = Table(
    "study_source",
    metadata,
    Column("study_pk", Big, ForeignKey("study.pk", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("calling_ae", Bytewise, primary_key=True),
    Index("ix_study_source_calling_ae", "calling_ae", "study_pk"),
)
