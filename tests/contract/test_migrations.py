"""Every revision of the index leads to the next with its rows intact, and the newest is what schema.py says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import Connection, Float, Integer, Numeric, Table, inspect, select, text

from storage import migrations
from storage.database import Database, open_database
from storage.schema import metadata

PREVIOUS = "0002"
SEARCH = ("patient_name_search", "worklist_search")
TRIGRAMS = {"ix_patient_name_trigrams", "ix_worklist_trigrams"}


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    opened = open_database(empty_database_url)
    yield opened
    opened.close()


def condition(options: Mapping[str, Any]) -> str:
    """The WHERE of a partial index."""
    return " ".join(f"{key}={value}" for key, value in options.items() if key.endswith("_where"))


def described(connection: Connection) -> dict[str, Any]:
    """What a database knows of its tables, without the order in which it lists things."""
    inspector = inspect(connection)
    # What serves to search names is made where the database can, by a migration only.
    tables = sorted(name for name in inspector.get_table_names() if name != "alembic_version" and not name.startswith(SEARCH))
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], str(column["default"]).replace("::text", ""))
                for column in inspector.get_columns(name)
            },
            "indexes": sorted(
                (str(index["name"]), str(index["column_names"]), bool(index["unique"]), condition(index.get("dialect_options", {})))
                for index in inspector.get_indexes(name)
                if index["name"] not in TRIGRAMS
            ),
            "unique": sorted((str(each["name"]), str(each["column_names"])) for each in inspector.get_unique_constraints(name)),
            "foreign": sorted(
                (str(each["name"]), str(each["constrained_columns"]), each["referred_table"], str(each["options"]))
                for each in inspector.get_foreign_keys(name)
            ),
            "key": inspector.get_pk_constraint(name)["constrained_columns"],
        }
        for name in tables
    }


def test_migrations_and_schema_say_the_same(empty: Database) -> None:
    with empty.begin() as connection:
        metadata.create_all(connection)
        expected = described(connection)
        metadata.drop_all(connection)
    empty.upgrade()
    assert empty.current() == migrations.head()
    with empty.begin() as connection:
        assert described(connection) == expected


def sample(table: Table, columns: dict[str, Any]) -> dict[str, Any]:
    """One row: a value of its type for each column; every foreign key points to row 1 of its table."""
    row: dict[str, Any] = {}
    for name, column in columns.items():
        kind = column["type"]
        if name == "pk" or name.endswith("_pk") or isinstance(kind, Integer | Numeric | Float):
            row[name] = 1
        elif "BOOL" in str(kind).upper():
            row[name] = True
        elif "JSON" in str(kind).upper():
            row[name] = '{"a": [1, "é"]}'
        elif "BLOB" in str(kind).upper() or "BYTEA" in str(kind).upper():
            row[name] = b"\x00\x01"
        else:
            row[name] = {"state": "SCHEDULED", "name_key": "name e", "association_id": "id é", "id": "id é"}.get(name, f"{name} é"[:16])
    if table.name == "run":
        row["predecessor_pk"] = None
    return row


def rows(connection: Connection, name: str, columns: list[str]) -> list[tuple[Any, ...]]:
    listed = ", ".join(f'"{column}"' for column in columns)
    return [tuple(str(value) for value in row) for row in connection.execute(text(f'SELECT {listed} FROM "{name}"'))]


def test_a_filled_database_of_the_previous_revision_keeps_its_rows(empty: Database) -> None:
    empty.upgrade(PREVIOUS)
    before: dict[str, list[tuple[Any, ...]]] = {}
    known: dict[str, list[str]] = {}
    with empty.begin() as connection:
        inspector = inspect(connection)
        present = set(inspector.get_table_names())
        for table in (each for each in metadata.sorted_tables if each.name in present):
            columns = {column["name"]: column for column in inspector.get_columns(table.name)}
            row = sample(table, {name: dict(column) for name, column in columns.items()})
            names, places = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
            connection.execute(text(f'INSERT INTO "{table.name}" ({names}) VALUES ({places})'), row)
            known[table.name] = list(row)
            before[table.name] = rows(connection, table.name, known[table.name])
    empty.upgrade()
    assert empty.current() == migrations.head()
    with empty.begin() as connection:
        assert {name: rows(connection, name, columns) for name, columns in known.items()} == before
        for table in metadata.sorted_tables:
            connection.execute(select(table)).all()


def test_the_migrations_are_packaged() -> None:
    from importlib.resources import files

    names = {entry.name for entry in files("storage.migrations").iterdir()}
    assert {"env.py", "script.py.mako", "versions"} <= names
    assert any(entry.name.startswith("0001") for entry in files("storage.migrations.versions").iterdir())
