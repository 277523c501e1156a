"""Ambiguous selections, and what a person chose

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "ambiguity",
        sa.Column("pk", BIG, primary_key=True, autoincrement=True),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("input", sa.Text(), nullable=False, server_default=""),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("study_revision", sa.Integer(), nullable=False),
        sa.Column("candidates", sa.JSON(), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("series_uid", sa.Text()),
        sa.Column("chosen_by", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("chosen_at", sa.Float()),
        sa.UniqueConstraint("study_uid", "rule", "bundle", "input", name="uq_ambiguity_study_uid_rule_bundle_input"),
    )
    is_open = sa.text("state = 'OPEN'")
    op.create_index("ix_ambiguity_open", "ambiguity", ["opened_at"], sqlite_where=is_open, postgresql_where=is_open)
