"""Releases of models: their states and how they got there, evaluations, shadow runs, drift of the input, flags

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _partial(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def _pk() -> sa.Column[int]:
    return sa.Column("pk", Big, autoincrement=True, nullable=False)


def _of_release(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["release_pk"], ["model_release.pk"], name=op.f(f"fk_{table}_release_pk"))


def upgrade() -> None:
    op.create_table(
        "model_release",
        _pk(),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="candidate", nullable=False),
        sa.Column("added_at", sa.Float(), nullable=False),
        sa.Column("state_at", sa.Float(), nullable=False),
        sa.Column("evaluation_pk", Big, nullable=True),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_model_release")),
        sa.UniqueConstraint("digest", name=op.f("uq_model_release_digest")),
    )
    op.create_index(op.f("ix_model_release_name"), "model_release", ["name"])
    op.create_index("uq_model_release_deployed", "model_release", ["name"], unique=True, **_partial("state = 'deployed'"))
    op.create_table(
        "release_event",
        _pk(),
        sa.Column("release_pk", Big, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("before", sa.String(length=16), nullable=True),
        sa.Column("after", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        _of_release("release_event"),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_release_event")),
    )
    op.create_index(op.f("ix_release_event_release_pk"), "release_event", ["release_pk"])
    op.create_table(
        "release_evaluation",
        _pk(),
        sa.Column("release_pk", Big, nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("data_fingerprint", sa.Text(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("report", sa.LargeBinary(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        _of_release("release_evaluation"),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_release_evaluation")),
    )
    op.create_index(op.f("ix_release_evaluation_release_pk"), "release_evaluation", ["release_pk"])
    op.create_table(
        "release_flag",
        _pk(),
        sa.Column("release_pk", Big, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("raised_at", sa.Float(), nullable=False),
        sa.Column("cleared_at", sa.Float(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        _of_release("release_flag"),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_release_flag")),
    )
    op.create_index("uq_release_flag_open", "release_flag", ["release_pk", "kind"], unique=True, **_partial("cleared_at IS NULL"))
    op.create_table(
        "drift_input",
        _pk(),
        sa.Column("release_pk", Big, nullable=False),
        sa.Column("run_pk", Big, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("statistics", sa.JSON(), nullable=False),
        _of_release("drift_input"),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_drift_input")),
        sa.UniqueConstraint("run_pk", name=op.f("uq_drift_input_run_pk")),
    )
    op.create_index(op.f("ix_drift_input_release_pk_pk"), "drift_input", ["release_pk", "pk"])
    op.create_table(
        "drift",
        _pk(),
        sa.Column("release_pk", Big, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("newest_input_pk", Big, nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("drifted", sa.Boolean(), nullable=False),
        sa.Column("distances", sa.JSON(), nullable=False),
        _of_release("drift"),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_drift")),
    )
    op.create_index(op.f("ix_drift_release_pk"), "drift", ["release_pk"])
    op.add_column("run", sa.Column("release_pk", Big, nullable=True))
    op.add_column("run", sa.Column("shadow", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("run", sa.Column("compared_with", Big, nullable=True))
    op.add_column("run", sa.Column("agreement", sa.JSON(), nullable=True))
    op.create_index("ix_run_shadow", "run", ["release_pk"], **_partial("shadow"))
