"""Workitems, what happened to them, who watches them

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Bytewise = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _pk() -> sa.Column[int]:
    return sa.Column("pk", Big, autoincrement=True, nullable=False)


def _text(name: str, kind: sa.types.TypeEngine[str], default: str = "") -> sa.Column[str]:
    return sa.Column(name, kind, server_default=default, nullable=False)


def upgrade() -> None:
    op.create_table(
        "workitem",
        _pk(),
        sa.Column("uid", sa.Text(), nullable=False),
        _text("state", sa.String(16), "SCHEDULED"),
        sa.Column("transaction_uid", sa.Text()),
        sa.Column("performer", sa.Text()),
        _text("priority", sa.String(16), "MEDIUM"),
        _text("readiness", sa.String(16), "READY"),
        _text("label", sa.Text()),
        _text("worklist_label", sa.Text()),
        _text("scheduled_start", Bytewise),
        _text("patient_id", Bytewise),
        _text("accession_number", Bytewise),
        _text("study_uid", sa.Text()),
        sa.Column("dataset", sa.JSON(), nullable=False),
        sa.Column("run_pk", Big),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("final_at", sa.Float()),
        sa.ForeignKeyConstraint(["run_pk"], ["run.pk"], name=op.f("fk_workitem_run_pk")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_workitem")),
        sa.UniqueConstraint("uid", name=op.f("uq_workitem_uid")),
    )
    op.create_index(op.f("ix_workitem_study_uid"), "workitem", ["study_uid"])
    op.create_index(op.f("ix_workitem_run_pk"), "workitem", ["run_pk"])
    op.create_index("ix_workitem_state", "workitem", ["state", "scheduled_start"])
    ended = sa.text("final_at IS NOT NULL")
    op.create_index("ix_workitem_final", "workitem", ["final_at"], sqlite_where=ended, postgresql_where=ended)
    op.create_table(
        "workitem_event",
        _pk(),
        sa.Column("workitem_pk", Big, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("type", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["workitem_pk"], ["workitem.pk"], name=op.f("fk_workitem_event_workitem_pk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_workitem_event")),
    )
    op.create_index(op.f("ix_workitem_event_workitem_pk"), "workitem_event", ["workitem_pk"])
    op.create_table(
        "workitem_subscription",
        _pk(),
        sa.Column("aet", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("channel", sa.String(8), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("deletion_lock", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("filter", sa.JSON()),
        sa.Column("suspended_at", sa.Float()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_workitem_subscription")),
        sa.UniqueConstraint("aet", "target", name=op.f("uq_workitem_subscription_aet_target")),
    )
    op.create_index("ix_workitem_subscription_target", "workitem_subscription", ["target"])
    op.create_table(
        "workitem_notice",
        _pk(),
        sa.Column("aet", sa.Text(), nullable=False),
        sa.Column("channel", sa.String(8), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("type", sa.Integer(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_workitem_notice")),
    )
    op.create_index("ix_workitem_notice_aet", "workitem_notice", ["channel", "aet", "pk"])
