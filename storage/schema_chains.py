"""Which runs wait for the segments of others."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, String, Table

from storage.schema_base import Big, metadata

run_wait = Table(
    "run_wait",
    metadata,
    # Kept when the run goes on: it says of which run's result a run is made.
    Column("run_pk", Big, ForeignKey("run.pk"), primary_key=True),
    Column("after_pk", Big, ForeignKey("run.pk"), primary_key=True, index=True),
    Column("input", String(64), nullable=False, server_default=""),  # which input its segments are; empty: none, the order alone counts
    Column("priority", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
)
