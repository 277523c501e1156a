"""Hostile and oversized queries, and what a long read means to the writer."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select

from storage import query_pages
from storage.attributes import UNIQUE_KEYS, Level
from storage.database import Database, open_database
from storage.matching import MAX_INEXACT, MAX_TERMS, parse
from storage.names import name_keys
from storage.query import Key, Query, QueryError, count, plan, stream
from storage.query_pages import FIRST_PAGE
from storage.schema import instance, patient, series, study
from tests.contract.fill import add_study

NAME, STUDY_UID, DESCRIPTION = 0x00100010, 0x0020000D, 0x00081030
HOSTILE = [
    "%' OR 1=1 --",
    "a\\%",
    '"',
    "'; DROP TABLE study; --",
    "*a" * 100 + "*b",
    "?" * 200,
    "!_%",
    "NEAR(a b)",
    "a OR b",
    "\U0010ffff*",
]
STUDIES = 3 * FIRST_PAGE


@pytest.fixture
def index(database: Database) -> Database:
    with database.begin() as connection:
        names = ["a" * 600, 'O"Neil^%_!', "a OR b^c"]
        people = [{"patient_id": f"P{at}", "name": name, **name_keys("name", name)} for at, name in enumerate(names)]
        pks = list(connection.scalars(insert(patient).returning(patient.c.pk), people))
        same = {"first_received_at": 0, "last_received_at": 0, "study_description": "a" * 600}
        rows = [{"study_uid": f"1.2.{at}", "patient_pk": pks[at % 3], **same} for at in range(STUDIES)]
        connection.execute(insert(study), rows)
    return database


def ask(database: Database, *keys: Key, **options: Any) -> list[tuple[Any, ...]]:
    return list(stream(database, plan(Query(Level.STUDY, keys, **options))))


@pytest.mark.parametrize("wanted", HOSTILE)
@pytest.mark.parametrize("fuzzy", [False, True])
def test_a_hostile_value_is_a_value(index: Database, wanted: str, fuzzy: bool) -> None:
    started = time.process_time()
    for tag in (NAME, DESCRIPTION, 0x00080060, 0x00080061, 0x00100020):
        ask(index, Key(STUDY_UID, "UI"), Key(tag, "UN", wanted), fuzzy=fuzzy)
    assert time.process_time() - started < 5
    assert len(ask(index, Key(STUDY_UID, "UI"))) == STUDIES


def test_characters_of_like_and_of_the_search_stand_for_themselves(index: Database) -> None:
    assert count(index, plan(Query(Level.PATIENT, (Key(NAME, "PN", '*o"neil^%_!'),)))) == 1
    assert count(index, plan(Query(Level.PATIENT, (Key(NAME, "PN", "*A or b*"),)))) == 1
    assert count(index, plan(Query(Level.PATIENT, (Key(NAME, "PN", "*neil^___"),)))) == 0


def test_a_long_list_of_uids_is_answered_and_a_longer_one_refused(index: Database) -> None:
    wanted = [f"1.2.{number}" for number in range(MAX_TERMS)]
    assert len(ask(index, Key(STUDY_UID, "UI", wanted))) == STUDIES
    with pytest.raises(QueryError, match="StudyInstanceUID: a list of 1000000 values"):
        plan(Query(Level.STUDY, (Key(STUDY_UID, "UI", "\\".join(["1.2"] * 1_000_000)),)))


@pytest.mark.parametrize(
    ("tag", "value", "why"),
    [
        (NAME, "secret" * 1000, "PatientName: a value to match of more than"),
        (0x00280010, "secret", "Rows: a whole number is meant"),
        (0x00280010, "9" * 30, "Rows: the number is out of range"),
        (0x00201208, "1-2", "NumberOfStudyRelatedInstances: a whole number"),
    ],
)
def test_what_cannot_be_matched_is_refused_by_name_and_without_its_value(tag: int, value: str, why: str) -> None:
    with pytest.raises(QueryError, match=why) as refused:
        plan(Query(Level.IMAGE, (Key(tag, "UN", value),)))
    assert "secret" not in str(refused.value)


def test_keys_of_the_message_and_of_nowhere_are_no_columns(index: Database) -> None:
    keys = (Key(0x00080005, "CS", "ISO_IR 192"), Key(0x00080052, "CS", "STUDY"), Key(0x00090010, "LO", "X"), Key(0x00020010, "UI"))
    planned = plan(Query(Level.STUDY, (*keys, Key(STUDY_UID, "UI", "1.2.1"))))
    assert [column.tag for column in planned.columns] == [STUDY_UID]
    assert planned.unsupported == (0x00090010, 0x00020010)


def test_a_read_under_way_holds_nothing_and_blocks_no_writer(index: Database) -> None:
    planned = plan(Query(Level.STUDY, (Key(STUDY_UID, "UI"),)))
    with closing(stream(index, planned)) as rows:
        newest = next(rows)
        assert index._reader.pool.checkedout() == 0  # type: ignore[attr-defined]
        add_study(index, "1.3")
        found = [newest, *rows]
    assert sorted(found) == sorted((f"1.2.{at}",) for at in range(STUDIES))
    assert count(index, planned) == STUDIES + 1


def test_what_is_removed_while_an_answer_is_out_shifts_no_page(index: Database) -> None:
    with closing(stream(index, plan(Query(Level.STUDY, (Key(STUDY_UID, "UI"),))))) as rows:
        first = [next(rows) for _ in range(FIRST_PAGE)]
        with index.begin() as connection:
            connection.execute(delete(study).where(study.c.study_uid.in_([uid for (uid,) in first[:100]])))
        rest = list(rows)
    assert len(rest) == STUDIES - FIRST_PAGE
    assert not set(first) & set(rest)


@pytest.mark.parametrize("level", list(Level))
def test_pages_follow_one_another(level: Level, database: Database) -> None:
    with database.begin() as connection:
        connection.execute(insert(patient), [{"patient_id": f"P{at:05}", "name": "A"} for at in range(FIRST_PAGE + 10)])
        first = connection.scalar(select(func.min(patient.c.pk))) or 0
        same = {"first_received_at": 0, "last_received_at": 0}
        connection.execute(insert(study), [{"study_uid": f"1.{at:05}", "patient_pk": first + at, **same} for at in range(FIRST_PAGE + 10)])
        base = connection.scalar(select(func.min(study.c.pk))) or 0
        parts = [{"series_uid": f"2.{at:05}", "study_pk": base + at, "modality": "CT"} for at in range(FIRST_PAGE + 10)]
        connection.execute(insert(series), parts)
        part = connection.scalar(select(func.min(series.c.pk))) or 0
        image = {"sop_class_uid": "1.2", "transfer_syntax_uid": "1.2", "digest": "d", "length": 1, "received_at": 0, "origin": "received"}
        images = [{"sop_uid": f"3.{at:05}", "study_pk": base + at, "series_pk": part + at, **image} for at in range(FIRST_PAGE + 10)]
        connection.execute(insert(instance), images)
    key = Key(UNIQUE_KEYS[level], "UI")
    found = [str(row[0]) for row in stream(database, plan(Query(level, (key,))))]
    expected = sorted(found, reverse=level in (Level.PATIENT, Level.STUDY))
    assert found == expected
    assert len(set(found)) == FIRST_PAGE + 10
    some = [str(row[0]) for row in stream(database, plan(Query(level, (key,), offset=5, limit=FIRST_PAGE + 2)))]
    assert some == expected[5 : FIRST_PAGE + 7]


def test_a_slow_client_keeps_no_log_from_its_checkpoint(sqlite_template: bytes, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(sqlite_template)
    with closing(open_database(f"sqlite:///{path}")) as database:
        with database.begin() as connection:
            person = connection.scalar(insert(patient).values(patient_id="P", name="A").returning(patient.c.pk))
            same = {"first_received_at": 0, "last_received_at": 0, "patient_pk": person}
            connection.execute(insert(study), [{"study_uid": f"1.2.{at}", **same} for at in range(2 * FIRST_PAGE)])
        with closing(stream(database, plan(Query(Level.STUDY, (Key(STUDY_UID, "UI"),))))) as rows, closing(database.raw()) as raw:
            next(rows)
            add_study(database, "1.3")
            busy, _, _ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert not busy
            assert sum(1 for _ in rows) == 2 * FIRST_PAGE - 1


def test_a_search_that_finds_nothing_for_long_is_stopped_while_sqlite_looks(
    sqlite_template: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception): ...

    asked: list[float] = []
    monkeypatch.setattr(query_pages, "LOOK_SECONDS", 0.0)

    def stop() -> None:
        asked.append(time.monotonic())
        if len(asked) > 3:
            raise StoppedError

    path = tmp_path / "index.sqlite"
    path.write_bytes(sqlite_template)
    with closing(open_database(f"sqlite:///{path}")) as database:
        with database.begin() as connection:
            person = connection.scalar(insert(patient).values(patient_id="P", name="A").returning(patient.c.pk))
            same = {"first_received_at": 0, "last_received_at": 0, "patient_pk": person, "study_description": "a" * 900}
            connection.execute(insert(study), [{"study_uid": f"1.2.{at}", **same} for at in range(2000)])
        slow = plan(Query(Level.STUDY, (Key(DESCRIPTION, "LO", "*a" * 100 + "*b"),)))
        with pytest.raises(StoppedError):
            list(stream(database, slow, check=stop))
        assert len(asked) == 4
        assert len(list(stream(database, plan(Query(Level.STUDY, (Key(STUDY_UID, "UI"),)))))) == 2000


def test_a_read_can_be_stopped_from_outside(index: Database) -> None:
    class StoppedError(Exception): ...

    def stop() -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        list(stream(index, plan(Query(Level.STUDY, (Key(STUDY_UID, "UI"),))), check=stop))
    assert len(ask(index, Key(STUDY_UID, "UI"))) == STUDIES


def test_a_list_of_wildcards_is_bounded_more_narrowly_than_one_of_values() -> None:
    assert len(parse([f"A{number}*" for number in range(MAX_INEXACT)])) == MAX_INEXACT
    with pytest.raises(ValueError, match="wildcards"):
        parse([f"A{number}*" for number in range(MAX_INEXACT + 1)])
    assert len(parse([f"A{number}" for number in range(MAX_INEXACT + 1)])) == MAX_INEXACT + 1
