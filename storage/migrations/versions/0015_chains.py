"""Runs that wait for the segments of others

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "run_wait",
        sa.Column("run_pk", BIG, sa.ForeignKey("run.pk", name="fk_run_wait_run_pk"), primary_key=True),
        sa.Column("after_pk", BIG, sa.ForeignKey("run.pk", name="fk_run_wait_after_pk"), primary_key=True),
        sa.Column("input", sa.String(64), nullable=False, server_default=""),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
    )
    op.create_index("ix_run_wait_after_pk", "run_wait", ["after_pk"])
