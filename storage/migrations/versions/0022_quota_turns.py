"""When each run's source was given a turn by its quota

Revision ID: 0022
Revises: 0021
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.schema_base import Big

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "quota_turn",
        sa.Column("run_pk", Big, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["run_pk"], ["run.pk"], name=op.f("fk_quota_turn_run_pk")),
        sa.PrimaryKeyConstraint("run_pk", name=op.f("pk_quota_turn")),
    )
    op.create_index("ix_quota_turn_source", "quota_turn", ["source", "due_at"])
    op.create_index("ix_quota_turn_due", "quota_turn", ["due_at"])
