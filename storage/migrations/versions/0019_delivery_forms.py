"""Each form of a result is a delivery of its own

A delivery that was made before holds every form of its result, and stays: it is sent, retried and recalled as it is.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_COLUMNS = "pk, run_pk, study_uid, peer, state, job_pk, created_at, finished_at, detail"
# SQLite changes no constraint of a table: it is made anew, and with it go its indexes and the triggers of migration 0011.
_SQLITE = (
    "PRAGMA legacy_alter_table = ON",  # what refers to the table goes on referring to its name
    """CREATE TABLE delivery_of_form (
    pk INTEGER NOT NULL,
    run_pk INTEGER,
    study_uid TEXT NOT NULL,
    peer TEXT NOT NULL,
    form VARCHAR(16) DEFAULT '' NOT NULL,
    state VARCHAR(16) DEFAULT 'SCHEDULED' NOT NULL,
    job_pk INTEGER,
    created_at FLOAT NOT NULL,
    finished_at FLOAT,
    detail TEXT,
    CONSTRAINT pk_delivery PRIMARY KEY (pk),
    CONSTRAINT fk_delivery_run_pk FOREIGN KEY(run_pk) REFERENCES run (pk),
    CONSTRAINT uq_delivery_run_pk_peer_form UNIQUE (run_pk, peer, form)
)""",
    f"INSERT INTO delivery_of_form ({_COLUMNS}) SELECT {_COLUMNS} FROM delivery",
    "DROP TABLE delivery",
    "ALTER TABLE delivery_of_form RENAME TO delivery",
    "PRAGMA legacy_alter_table = OFF",
    "CREATE INDEX ix_delivery_run_pk ON delivery (run_pk)",
    "CREATE INDEX ix_delivery_study_uid ON delivery (study_uid)",
    "CREATE INDEX ix_delivery_waiting ON delivery (peer, created_at) WHERE state = 'SCHEDULED'",
    "CREATE TRIGGER worklist_delivery_insert AFTER INSERT ON delivery FOR EACH ROW "
    "BEGIN INSERT INTO worklist_change (study_uid, kind) SELECT NEW.study_uid, 'delivery'; END",
    "CREATE TRIGGER worklist_delivery_update AFTER UPDATE OF state ON delivery FOR EACH ROW WHEN OLD.state <> NEW.state "
    "BEGIN INSERT INTO worklist_change (study_uid, kind) SELECT NEW.study_uid, 'delivery'; END",
)


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        for statement in _SQLITE:
            connection.exec_driver_sql(statement)
        return
    op.add_column("delivery", sa.Column("form", sa.String(16), nullable=False, server_default=""))
    op.drop_constraint("uq_delivery_run_pk_peer", "delivery", type_="unique")
    op.create_unique_constraint("uq_delivery_run_pk_peer_form", "delivery", ["run_pk", "peer", "form"])
