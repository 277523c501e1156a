"""Jobs in the order of their priority and age

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

AGEING = 60


def upgrade() -> None:
    op.add_column("job", sa.Column("rank", sa.Float(), server_default="0", nullable=False))
    op.execute(f"UPDATE job SET rank = created_at - {AGEING} * priority")
    op.drop_index("ix_job_due", "job")
    waiting = sa.text("state = 'SCHEDULED'")
    op.create_index("ix_job_due", "job", ["queue", "rank", "pk", "not_before"], sqlite_where=waiting, postgresql_where=waiting)
