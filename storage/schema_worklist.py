"""The worklist: one row a study as people see it, what changed since it was made, and what those who watch are told.

Triggers, made by the migration 0011, note in ``worklist_change``, in the transaction that changes a study, a run or a
delivery, that something did; :mod:`storage.worklist_upkeep` makes rows and events of that.
"""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, ForeignKey, Index, Integer, String, Table, Text, text

from storage.schema_base import Big, Bytewise, metadata, pk_column


def _filled(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _number(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


worklist = Table(
    "worklist",
    metadata,
    Column("study_pk", Big, ForeignKey("study.pk", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("study_uid", Text, nullable=False, unique=True),
    _number("rank"),  # what it is sorted by: its urgency until somebody has read it
    _number("urgency"),  # 0 routine | 1 urgent | 2 critical
    Column("raised_at", Float),  # when the newest run that made it urgent ended
    Column("alerts", JSON, nullable=False),  # [{urgency, finding, reason, model}, ...], the most urgent first
    Column("arrived_at", Float, nullable=False),  # its first instance
    Column("changed_at", Float, nullable=False),
    _filled("name"),
    Column("name_key", Bytewise, nullable=False, server_default=""),
    Column("patient_id", Bytewise, nullable=False, server_default=""),
    _filled("birth_date"),
    _filled("sex"),
    Column("study_date", Bytewise, nullable=False, server_default=""),
    _filled("study_time"),
    _filled("description"),
    _filled("accession_number"),
    _filled("modalities"),  # of what was received, with a backslash before and after each
    _number("series"),
    _number("instances"),
    Column("state", String(16), nullable=False),  # of the study: RECEIVING | COMPLETE
    Column("flag", Text),
    _number("run_state"),  # the one to look at first; see worklist.RUN_STATES
    Column("models", JSON, nullable=False),  # [{bundle, version, state, recalled}, ...], the newest run of each
    _number("finding_count"),
    Column("findings", JSON, nullable=False),  # [{label, probability} | {name, of, value, unit}, ...]
    _number("delivery_state"),  # see worklist.DELIVERY_STATES
    Column("deliveries", JSON, nullable=False),  # [{peer, state}, ...]
    Column("reading", String(16), nullable=False, server_default="open"),  # open | reading | reviewed
    Column("reader", Text),
    Column("read_at", Float),
    Column("search", Bytewise, nullable=False, server_default=""),  # folded: name, patient ID, accession number, description
)
for _columns in (
    ("rank", "arrived_at", "study_pk"),
    ("name_key", "study_pk"),
    ("study_date", "study_pk"),
    ("run_state", "arrived_at", "study_pk"),
    ("finding_count", "arrived_at", "study_pk"),
    ("delivery_state", "arrived_at", "study_pk"),
    ("arrived_at", "study_pk"),
    ("patient_id",),
    ("accession_number",),
):
    Index(f"ix_worklist_{_columns[0]}", *(worklist.c[name] for name in _columns))
_urgent = text("urgency > 0")
Index("ix_worklist_urgent", worklist.c.urgency, worklist.c.reading, sqlite_where=_urgent, postgresql_where=_urgent)
# Any three characters of `search` lead to the row as well: `worklist_search` (SQLite, FTS5, kept up by triggers) or
# `ix_worklist_trigrams` (PostgreSQL, pg_trgm), made by the migration where the database can.

worklist_change = Table(
    "worklist_change",
    metadata,
    pk_column(),
    _filled("study_uid"),
    Column("kind", String(16), nullable=False),  # study | run | delivery | reading | feedback | job | deleted
)

worklist_event = Table(
    "worklist_event",
    metadata,
    # In the order in which they became visible; the newest stays, so that a number is never given again.
    pk_column(),
    _filled("study_uid"),
    Column("kinds", Text, nullable=False),  # those of `worklist_change` with commas between them, and "finding"
    Column("at", Float, nullable=False),
)
