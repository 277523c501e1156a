"""Whose subscription it is: nobody else listens in its name

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workitem_subscription", sa.Column("owner", sa.Text()))
