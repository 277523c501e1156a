"""On SQLite, what is asked most is looked up in an index, and the counts are computed from indexes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite

from storage.attributes import Level
from storage.database import Database, open_database
from storage.query import Key, Query, plan
from storage.query_sql import match_statement

COUNTS = (0x00080061, 0x00201206, 0x00201208)


@pytest.fixture
def index(sqlite_template: bytes, tmp_path: Path) -> Any:
    path = tmp_path / "index.sqlite"
    path.write_bytes(sqlite_template)
    opened = open_database(f"sqlite:///{path}")
    yield opened
    opened.close()


def steps(database: Database, tag: int, value: str, after: int | None) -> list[str]:
    keys = (Key(tag, "UN", value), *(Key(each, "UN") for each in COUNTS))
    with database.read() as connection:
        statement = match_statement(plan(Query(Level.STUDY, keys)), connection, limit=10, after=after)
        text = str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
        return [str(row[-1]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]


@pytest.mark.parametrize(
    ("tag", "value", "first"),
    [
        (0x0020000D, "1.2.3", "SEARCH study USING INDEX sqlite_autoindex_study_1 (study_uid=?)"),
        (0x0020000D, "1.2.3\\1.2.4", "SEARCH study USING INDEX sqlite_autoindex_study_1 (study_uid=?)"),
        (0x00100020, "P1", "SEARCH patient USING"),
        (0x00100020, "P1*", "SEARCH patient USING"),
        (0x00080050, "A1", "SEARCH study USING INDEX ix_study_accession_number (accession_number=?)"),
        (0x00080020, "20240101-20240107", "SEARCH study USING INDEX ix_study_study_date (study_date>? AND study_date<?)"),
        (0x00100010, "SMI*", "MULTI-INDEX OR"),
        (0x00100010, "*MIT*", "SEARCH patient USING INTEGER PRIMARY KEY (rowid=?)"),
    ],
)
def test_a_key_is_looked_up(index: Database, tag: int, value: str, first: str) -> None:
    for after in (None, 1000):
        found = steps(index, tag, value, after)
        assert any(step.replace("COVERING ", "").startswith(first) for step in found), found
        assert not any(step.startswith(("SCAN study", "SCAN patient ", "SCAN series", "SCAN instance")) for step in found), found
        for table in ("series", "instance"):
            assert any(step.startswith(f"SEARCH {table} USING COVERING INDEX") for step in found), found
