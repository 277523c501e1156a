"""Studies that were fetched from elsewhere to be compared with."""

from __future__ import annotations

from sqlalchemy import Column, Float, String, Table, Text

from storage.schema_base import metadata

prior_study = Table(
    "prior_study",
    metadata,
    # What comes of it from that AE title triggers no rule: it was asked for, and nobody waits for a result.
    Column("study_uid", Text, primary_key=True),
    Column("ae_title", String(16), nullable=False),
    Column("asked_at", Float, nullable=False),
)
