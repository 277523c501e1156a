"""Series that fit a model equally well, and which of them a person chose."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, Index, Integer, String, Table, Text, UniqueConstraint, text

from storage.schema_base import metadata, pk_column

ambiguity = Table(
    "ambiguity",
    metadata,
    # One row a study, rule, model and input, from the first time that several series fit equally well.
    pk_column(),
    Column("study_uid", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("input", Text, nullable=False, server_default=""),  # of a model of several inputs: which
    Column("state", String(16), nullable=False),  # OPEN | CHOSEN | CLOSED (it came to nothing: one series fits best now, or none)
    Column("study_revision", Integer, nullable=False),
    Column("candidates", JSON, nullable=False),  # [{series_uid, reason}]
    Column("opened_at", Float, nullable=False),
    Column("series_uid", Text),  # what was chosen, by whom, why
    Column("chosen_by", Text),
    Column("reason", Text),
    Column("chosen_at", Float),
    UniqueConstraint("study_uid", "rule", "bundle", "input"),
)
Index("ix_ambiguity_open", ambiguity.c.opened_at, sqlite_where=text("state = 'OPEN'"), postgresql_where=text("state = 'OPEN'"))
