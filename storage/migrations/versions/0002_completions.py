"""A history of completions, the job behind a run, and narrow indexes for what waits, fails or is damaged

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _partial(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "completion",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("input_digest", sa.String(length=64), nullable=False),
        sa.Column("held", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_completion")),
        sa.UniqueConstraint("study_uid", "revision", name=op.f("uq_completion_study_uid_revision")),
    )
    op.add_column("run", sa.Column("job_pk", Big, nullable=True))
    op.drop_index("ix_job_claim", table_name="job")
    op.create_index("ix_job_due", "job", ["queue", sa.text("priority DESC"), "not_before", "pk"], **_partial("state = 'SCHEDULED'"))
    op.create_index("ix_job_lease", "job", ["lease_until"], **_partial("state = 'IN_PROGRESS'"))
    op.create_index("ix_association_open", "association", ["process"], **_partial("closed_at IS NULL"))
    op.create_index("ix_job_failed", "job", ["queue"], **_partial("state = 'FAILED'"))
    op.create_index("ix_run_waiting", "run", ["job_pk"], **_partial("state IN ('SCHEDULED', 'IN_PROGRESS')"))
    op.create_index("ix_delivery_waiting", "delivery", ["peer", "created_at"], **_partial("state = 'SCHEDULED'"))
    op.create_index("ix_instance_damaged", "instance", ["series_pk"], **_partial("status <> 'OK'"))
