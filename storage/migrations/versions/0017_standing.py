"""The worklist shows every result that stands: its rows are made anew

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.text("INSERT INTO worklist_change (study_uid, kind) SELECT DISTINCT study_uid, 'run' FROM run"))
