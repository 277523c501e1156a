"""Which AE titles sent instances of a study: what accounts that are limited to some see is found without reading every instance

Revision ID: 0023
Revises: 0022
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.schema_base import Big, Bytewise

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_KNOWN = "EXISTS (SELECT 1 FROM study_source WHERE study_pk = NEW.study_pk AND calling_ae = NEW.calling_ae)"
_NOTE = "INSERT INTO study_source (study_pk, calling_ae) SELECT NEW.study_pk, NEW.calling_ae"
_EVENTS = {"study_source_insert": "INSERT", "study_source_update": "UPDATE OF study_pk, calling_ae"}


def upgrade() -> None:
    op.create_table(
        "study_source",
        sa.Column("study_pk", Big, nullable=False, autoincrement=False),
        sa.Column("calling_ae", Bytewise, nullable=False),
        sa.ForeignKeyConstraint(["study_pk"], ["study.pk"], name=op.f("fk_study_source_study_pk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study_pk", "calling_ae", name=op.f("pk_study_source")),
    )
    op.create_index("ix_study_source_calling_ae", "study_source", ["calling_ae", "study_pk"])
    op.create_index("ix_series_of_modality", "series", ["modality", "study_pk"])
    connection = op.get_bind()
    connection.exec_driver_sql(
        "INSERT INTO study_source (study_pk, calling_ae) SELECT DISTINCT study_pk, calling_ae FROM instance WHERE calling_ae <> ''"
    )
    for name, event in _EVENTS.items():
        for statement in (_sqlite if connection.dialect.name == "sqlite" else _postgresql)(name, event):
            connection.exec_driver_sql(statement)


def _sqlite(name: str, event: str) -> tuple[str, ...]:
    condition = f"NEW.calling_ae <> '' AND NOT {_KNOWN}"
    return (f"CREATE TRIGGER {name} AFTER {event} ON instance FOR EACH ROW WHEN {condition} BEGIN {_NOTE}; END",)


def _postgresql(name: str, event: str) -> tuple[str, ...]:
    return (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN IF NOT {_KNOWN} THEN {_NOTE} ON CONFLICT DO NOTHING; END IF; RETURN NULL; END $$",
        f"CREATE TRIGGER {name} AFTER {event} ON instance FOR EACH ROW WHEN (NEW.calling_ae <> '') EXECUTE FUNCTION {name}()",
    )
