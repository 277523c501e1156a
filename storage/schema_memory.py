"""What models took of a device's memory."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Integer, String, Table, Text, UniqueConstraint

from storage.schema_base import Big, metadata, pk_column

memory_use = Table(
    "memory_use",
    metadata,
    pk_column(),
    Column("release_digest", String(64), nullable=False),
    Column("device", String(16), nullable=False),  # its kind: cpu, cuda
    Column("rung", Text, nullable=False),  # how the network was applied
    Column("voxels", Big, nullable=False),  # of the preprocessed input
    Column("fitted", Boolean, nullable=False),
    Column("taken", Big, nullable=False),  # bytes at the peak; where it did not fit, the bytes that were free
    Column("runs", Integer, nullable=False),  # that were so
    Column("at", Float, nullable=False),  # of the newest
    UniqueConstraint("release_digest", "device", "rung", "voxels", "fitted"),
)
