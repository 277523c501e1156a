"""Storage commitment transactions, asked of us and by us

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _partial(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.add_column("delivery_instance", sa.Column("commitment", sa.String(length=16), nullable=True))
    op.add_column("delivery_instance", sa.Column("failure_reason", sa.Integer(), nullable=True))
    op.add_column("delivery_instance", sa.Column("commit_attempts", sa.Integer(), server_default="0", nullable=False))
    op.add_column("delivery_instance", sa.Column("committed_at", sa.Float(), nullable=True))
    op.create_index("ix_delivery_instance_sop", "delivery_instance", ["sop_uid"])
    op.create_table(
        "commitment_request",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("transaction_uid", sa.Text(), nullable=False),
        sa.Column("delivery_pk", Big, nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="REQUESTED", nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("requested_at", sa.Float(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("reported_at", sa.Float(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_pk"], ["delivery.pk"], name=op.f("fk_commitment_request_delivery_pk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_commitment_request")),
        sa.UniqueConstraint("transaction_uid", name=op.f("uq_commitment_request_transaction_uid")),
    )
    op.create_index(op.f("ix_commitment_request_delivery_pk"), "commitment_request", ["delivery_pk"])
    op.create_index("ix_commitment_request_open", "commitment_request", ["peer", "requested_at"], **_partial("state = 'REQUESTED'"))
    op.create_table(
        "commitment",
        sa.Column("pk", Big, autoincrement=True, nullable=False),
        sa.Column("transaction_uid", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("called_ae", sa.Text(), nullable=False),
        sa.Column("references", sa.LargeBinary(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("duplicate", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="REQUESTED", nullable=False),
        sa.Column("failures", sa.LargeBinary(), nullable=True),
        sa.Column("failed", sa.Integer(), nullable=True),
        sa.Column("requested_at", sa.Float(), nullable=False),
        sa.Column("judged_at", sa.Float(), nullable=True),
        sa.Column("reported_at", sa.Float(), nullable=True),
        sa.Column("association_until", sa.Float(), nullable=False),
        sa.Column("reporter", sa.Text(), nullable=True),
        sa.Column("reporter_until", sa.Float(), nullable=True),
        sa.Column("job_pk", Big, nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_commitment")),
        sa.UniqueConstraint("peer", "transaction_uid", "request_digest", name=op.f("uq_commitment_peer_transaction_uid_request_digest")),
    )
    op.create_index("ix_commitment_open", "commitment", ["peer", "requested_at"], **_partial("state IN ('REQUESTED', 'JUDGED')"))
