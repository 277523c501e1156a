"""What people said about results

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "feedback",
        sa.Column("pk", BIG, primary_key=True, autoincrement=True),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("run_pk", BIG, sa.ForeignKey("run.pk", name="fk_feedback_run_pk"), nullable=False),
        sa.Column("release_digest", sa.String(64), nullable=False),
        sa.Column("finding", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("found", sa.JSON(), nullable=False),
        sa.Column("corrected", sa.JSON()),
        sa.Column("corrected_uid", sa.Text()),
        sa.Column("code", sa.String(32), nullable=False, server_default=""),
        sa.Column("reason", sa.Text(), nullable=False, server_default=""),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.UniqueConstraint("run_pk", "finding", "revision", name="uq_feedback_run_pk_finding_revision"),
    )
    op.create_index("ix_feedback_study_uid", "feedback", ["study_uid"])
    op.create_index("ix_feedback_release_digest", "feedback", ["release_digest"])
