"""A filled index gets what queries match on when it is brought to revision 0003."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text

from storage.database import Database, open_database

NAMES = {1: "Müller^Jörg", 2: "Yamada^Tarou=山田^太郎=やまだ^たろう", 3: "", 4: "PLAIN^NAME", 5: "Hong^Gildong=洪^吉洞"}


@pytest.fixture
def old(empty_database_url: str) -> Iterator[Database]:
    database = open_database(empty_database_url)
    database.upgrade("0002")
    with database.begin() as connection:
        for pk, name in NAMES.items():
            values = {"pk": pk, "id": f"P{pk}", "name": name, "key": name.lower(), "uid": f"1.2.{pk}"}
            connection.execute(text("INSERT INTO patient (pk, patient_id, name, name_key) VALUES (:pk, :id, :name, :key)"), values)
            connection.execute(
                text(
                    "INSERT INTO study (pk, study_uid, patient_pk, referring_physician, first_received_at, last_received_at) "
                    "VALUES (:pk, :uid, :pk, :name, 0, 0)"
                ),
                values,
            )
    yield database
    database.close()


def keys(connection: Connection, table: str, prefix: str) -> list[tuple[str, ...]]:
    columns = ", ".join(f"{prefix}_{group}" for group in ("key", "ideographic_key", "phonetic_key"))
    return [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM {table} ORDER BY pk"))]


def test_names_are_folded_by_group_and_can_be_searched(old: Database) -> None:
    old.upgrade("0003")
    expected = [
        ("muller^jorg", "", ""),
        ("yamada^tarou", "山田^太郎", "やまた^たろう"),
        ("", "", ""),
        ("plain^name", "", ""),
        ("hong^gildong", "洪^吉洞", ""),
    ]
    with old.begin() as connection:
        assert keys(connection, "patient", "name") == expected
        assert keys(connection, "study", "referring") == expected
        if old.dialect == "sqlite":
            connection.execute(text("DELETE FROM study WHERE pk = 1"))
            connection.execute(text("DELETE FROM patient WHERE pk = 1"))
            connection.execute(text("UPDATE patient SET name_key = 'doe^jorgina' WHERE pk = 4"))
            assert found(connection, "jor") == [4]
            assert found(connection, "ain") == []
            assert found(connection, "田^太") == [2]
        else:
            indexes = connection.scalars(text("SELECT indexname FROM pg_indexes WHERE tablename = 'patient'")).all()
            assert "ix_patient_name_trigrams" in indexes


def found(connection: Connection, trigram: str) -> list[int]:
    query = text("SELECT rowid FROM patient_name_search WHERE patient_name_search MATCH :wanted ORDER BY rowid")
    return list(connection.scalars(query, {"wanted": f'"{trigram}"'}))
