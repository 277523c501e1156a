"""What people said about results: one row for each time that somebody spoke about a finding of a run; the newest counts."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, ForeignKey, Integer, String, Table, Text, UniqueConstraint

from storage.schema_base import Big, metadata, pk_column

feedback = Table(
    "feedback",
    metadata,
    pk_column(),
    Column("study_uid", Text, nullable=False, index=True),
    Column("run_pk", Big, ForeignKey("run.pk"), nullable=False),
    Column("release_digest", String(64), nullable=False, index=True),
    Column("finding", Text, nullable=False),  # result, segment:LABEL, measurement:LABEL:NAME, classification:LABEL
    Column("revision", Integer, nullable=False),  # from 1: tells whether somebody spoke meanwhile
    Column("verdict", String(16), nullable=False),  # accept | modify | reject
    Column("found", JSON, nullable=False),  # what the model said, as it stood in the run
    Column("corrected", JSON(none_as_null=True)),  # of a modified one: a number or the name of a class
    Column("corrected_uid", Text),  # ... or the SEG in which it was corrected
    Column("code", String(32), nullable=False, server_default=""),  # of the short list of reasons
    Column("reason", Text, nullable=False, server_default=""),
    Column("actor", Text, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("run_pk", "finding", "revision"),
)
