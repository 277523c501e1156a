"""The worklist: a row a study, what changed, and who is told

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

INDEXES = (
    ("rank", "arrived_at", "study_pk"),
    ("name_key", "study_pk"),
    ("study_date", "study_pk"),
    ("run_state", "arrived_at", "study_pk"),
    ("finding_count", "arrived_at", "study_pk"),
    ("delivery_state", "arrived_at", "study_pk"),
    ("arrived_at", "study_pk"),
    ("patient_id",),
    ("accession_number",),
)


def _text(name: str, kind: sa.types.TypeEngine[str] | None = None) -> sa.Column[str]:
    return sa.Column(name, kind or sa.Text(), nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default="0")


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "worklist",
        sa.Column("study_pk", BIG, nullable=False, autoincrement=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        _number("rank"),
        _number("urgency"),
        sa.Column("raised_at", sa.Float()),
        _json("alerts"),
        sa.Column("arrived_at", sa.Float(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        _text("name"),
        _text("name_key", BYTEWISE),
        _text("patient_id", BYTEWISE),
        _text("birth_date"),
        _text("sex"),
        _text("study_date", BYTEWISE),
        _text("study_time"),
        _text("description"),
        _text("accession_number"),
        _text("modalities"),
        _number("series"),
        _number("instances"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("flag", sa.Text()),
        _number("run_state"),
        _json("models"),
        _number("finding_count"),
        _json("findings"),
        _number("delivery_state"),
        _json("deliveries"),
        sa.Column("reading", sa.String(16), nullable=False, server_default="open"),
        sa.Column("reader", sa.Text()),
        sa.Column("read_at", sa.Float()),
        _text("search", BYTEWISE),
        sa.ForeignKeyConstraint(["study_pk"], ["study.pk"], name=op.f("fk_worklist_study_pk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study_pk", name=op.f("pk_worklist")),
        sa.UniqueConstraint("study_uid", name=op.f("uq_worklist_study_uid")),
    )
    for columns in INDEXES:
        op.create_index(f"ix_worklist_{columns[0]}", "worklist", list(columns))
    urgent = sa.text("urgency > 0")
    op.create_index("ix_worklist_urgent", "worklist", ["urgency", "reading"], sqlite_where=urgent, postgresql_where=urgent)
    op.create_table(
        "worklist_change",
        sa.Column("pk", BIG, primary_key=True, autoincrement=True),
        _text("study_uid"),
        sa.Column("kind", sa.String(16), nullable=False),
    )
    op.create_table(
        "worklist_event",
        sa.Column("pk", BIG, primary_key=True, autoincrement=True),
        _text("study_uid"),
        sa.Column("kinds", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )
    connection = op.get_bind()
    _watch(connection)
    # What was there already is a change like any other: its rows are made, a batch at a time, by who follows the changes.
    connection.exec_driver_sql("INSERT INTO worklist_change (study_uid, kind) SELECT study_uid, 'study' FROM study ORDER BY pk DESC")


# Triggers note what has to be looked at again, in the transaction that changed it, whichever statement did. The ingest path meets
# those of a new study and a new series only: one small row each.

_SEARCH = "patient_pk, study_date, study_time, study_description, accession_number"
# table, event, when, kind, the studies
_STUDY = [
    ("study", "INSERT", "", "study", "NEW.study_uid"),
    ("study", "DELETE", "", "deleted", "OLD.study_uid"),
    (
        "study",
        "UPDATE OF state, flag",
        "OLD.state <> NEW.state OR COALESCE(OLD.flag, '') <> COALESCE(NEW.flag, '')",
        "study",
        "NEW.study_uid",
    ),
    ("run", "INSERT", "", "run", "NEW.study_uid"),
    ("run", "UPDATE OF state, recalled_at", "", "run", "NEW.study_uid"),
    ("delivery", "INSERT", "", "delivery", "NEW.study_uid"),
    ("delivery", "UPDATE OF state", "OLD.state <> NEW.state", "delivery", "NEW.study_uid"),
    ("job", "UPDATE OF state", "(OLD.state = 'FAILED') <> (NEW.state = 'FAILED')", "job", "COALESCE(NEW.study_uid, '')"),
]
_SELECTED = [
    ("study_header", "study", f"UPDATE OF {_SEARCH}", "SELECT NEW.study_uid, 'study'"),
    ("series_new", "series", "INSERT", "SELECT study_uid, 'study' FROM study WHERE pk = NEW.study_pk"),
    ("series_gone", "series", "DELETE", "SELECT study_uid, 'study' FROM study WHERE pk = OLD.study_pk"),
    (
        "patient_changed",
        "patient",
        "UPDATE OF name, patient_id, birth_date, sex",
        "SELECT study_uid, 'study' FROM study WHERE patient_pk = NEW.pk",
    ),
]
_FTS = "fts5(search, content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1')"
_ADD = "INSERT INTO worklist_search (rowid, search) VALUES (new.study_pk, new.search);"
_REMOVE = "INSERT INTO worklist_search (worklist_search, rowid, search) VALUES ('delete', old.study_pk, old.search);"
_SEARCH_SQLITE = (
    f"CREATE VIRTUAL TABLE worklist_search USING {_FTS}",
    f"CREATE TRIGGER worklist_search_insert AFTER INSERT ON worklist BEGIN {_ADD} END",
    f"CREATE TRIGGER worklist_search_delete AFTER DELETE ON worklist BEGIN {_REMOVE} END",
    f"CREATE TRIGGER worklist_search_update AFTER UPDATE OF search ON worklist WHEN old.search <> new.search BEGIN {_REMOVE} {_ADD} END",
)


def _watch(connection: sa.Connection) -> None:
    sqlite = connection.dialect.name == "sqlite"
    for statement in _sqlite() if sqlite else _postgresql():
        connection.exec_driver_sql(statement)
    (_searchable_sqlite if sqlite else _searchable_postgresql)(connection)


def _notes() -> Iterator[tuple[str, str, str, str, str]]:
    """Name, table, event, condition, and what is inserted."""
    for table, event, when, kind, uid in _STUDY:
        yield f"worklist_{table}_{event.split()[0].lower()}", table, event, when, f"SELECT {uid}, '{kind}'"
    for name, table, event, selected in _SELECTED:
        yield f"worklist_{name}", table, event, "", selected


def _sqlite() -> Iterator[str]:
    for name, table, event, when, selected in _notes():
        condition = f" WHEN {when}" if when else ""
        yield (
            f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW{condition} "
            f"BEGIN INSERT INTO worklist_change (study_uid, kind) {selected}; END"
        )


def _postgresql() -> Iterator[str]:
    for name, table, event, when, selected in _notes():
        condition = f" WHEN ({when})" if when else ""
        yield (
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
            f"BEGIN INSERT INTO worklist_change (study_uid, kind) {selected}; RETURN NULL; END $$"
        )
        yield f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW{condition} EXECUTE FUNCTION {name}()"


def _searchable_sqlite(connection: sa.Connection) -> None:
    try:
        for statement in _SEARCH_SQLITE:
            connection.exec_driver_sql(statement)
    except DBAPIError as error:
        if "no such module" not in str(error) and "no such tokenizer" not in str(error):
            raise  # a SQLite without FTS5 looks through the rows instead


def _searchable_postgresql(connection: sa.Connection) -> None:
    try:
        with connection.begin_nested():
            connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_trgm")
            connection.exec_driver_sql("CREATE INDEX ix_worklist_trigrams ON worklist USING gin (search gin_trgm_ops)")
    except DBAPIError:
        pass  # not installed, or not ours to create: rows are looked through instead
