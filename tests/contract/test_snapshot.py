"""A snapshot of the index is the same rows, from either database, back into either."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, Table, func, insert, select

from storage import schema, snapshot
from storage.database import Database, open_database
from storage.errors import StorageError


def fill(connection: Connection) -> None:
    now = 1_700_000_000.25
    connection.execute(insert(schema.archive_info).values(key="archive_id", value="a"))
    connection.execute(insert(schema.patient).values(patient_id="1", name="Ä^Ö"))
    connection.execute(insert(schema.study).values(study_uid="1.2", patient_pk=1, first_received_at=now, last_received_at=now))
    common = {
        "study_uid": "1.2",
        "study_revision": 1,
        "series_uids": ["1.2.3"],
        "input_set": [],
        "rule": "r",
        "bundle": "b",
        "bundle_version": "1",
        "release_digest": "d",
        "parameters": {},
        "deliver_to": ["pacs"],
        "created_at": now,
    }
    connection.execute(insert(schema.run).values(run_key="k1", **common))
    connection.execute(insert(schema.run).values(run_key="k2", predecessor_pk=1, timings={"forward": 1.5}, **common))
    connection.execute(insert(schema.audit), [{"at": now, "event": f"e{n}", "actor": "x", "detail": {"n": n}} for n in range(2500)])


def rows(database: Database, table: Table) -> list[tuple[object, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]


def test_snapshot_and_load_give_the_same_rows(database: Database, tmp_path: Path) -> None:
    with database.begin() as connection:
        fill(connection)
    snapshot.snapshot(database, tmp_path / "copy.sqlite")
    with closing(open_database(f"sqlite:///{tmp_path / 'back.sqlite'}", create=True)) as back:
        snapshot.load(tmp_path / "copy.sqlite", back)
        for table in schema.metadata.sorted_tables:
            assert rows(back, table) == rows(database, table), table.name
        with back.read() as connection:
            assert connection.execute(select(func.count()).select_from(schema.run).where(schema.run.c.timings.is_(None))).scalar_one() == 1
    assert sorted(path.name for path in tmp_path.glob("copy.sqlite*")) == ["copy.sqlite"]


def test_load_goes_on_counting_where_the_snapshot_ended(database: Database, tmp_path: Path) -> None:
    with closing(open_database(f"sqlite:///{tmp_path / 'other.sqlite'}", create=True)) as other:
        with other.begin() as connection:
            fill(connection)
        snapshot.snapshot(other, tmp_path / "copy.sqlite")
    snapshot.load(tmp_path / "copy.sqlite", database)
    with database.begin() as connection:
        added = connection.execute(insert(schema.audit).values(at=1.0, event="e", actor="x", detail={})).inserted_primary_key
        assert added is not None
        assert added[0] == 2501


def test_a_database_in_use_is_not_overwritten(database: Database, tmp_path: Path) -> None:
    with database.begin() as connection:
        fill(connection)
    snapshot.snapshot(database, tmp_path / "copy.sqlite")
    with pytest.raises(StorageError, match="not empty"):
        snapshot.load(tmp_path / "copy.sqlite", database)


def test_writers_are_not_held_up_and_the_snapshot_is_one_moment(database: Database, tmp_path: Path) -> None:
    with database.begin() as connection:
        fill(connection)
    with database.begin() as connection:
        connection.execute(schema.audit.delete())
        snapshot.snapshot(database, tmp_path / "copy.sqlite")
    with snapshot.reading(tmp_path / "copy.sqlite") as connection:
        assert connection.execute(select(func.count()).select_from(schema.audit)).scalar_one() == 2500
