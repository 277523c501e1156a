"""The memory that models took, and how each run came to be applied

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.schema_base import Big

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "memory_use",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("release_digest", sa.String(64), nullable=False),
        sa.Column("device", sa.String(16), nullable=False),
        sa.Column("rung", sa.Text(), nullable=False),
        sa.Column("voxels", Big, nullable=False),
        sa.Column("fitted", sa.Boolean(), nullable=False),
        sa.Column("taken", Big, nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_memory_use")),
        sa.UniqueConstraint(
            "release_digest", "device", "rung", "voxels", "fitted",
            name=op.f("uq_memory_use_release_digest_device_rung_voxels_fitted"),
        ),
    )  # fmt: skip
    op.add_column("run", sa.Column("memory", sa.JSON()))
