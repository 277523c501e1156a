"""Studies fetched to be compared with

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "prior_study",
        sa.Column("study_uid", sa.Text(), primary_key=True),
        sa.Column("ae_title", sa.String(16), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
    )
