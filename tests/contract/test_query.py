"""What a query of the index answers, on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from storage.attributes import Level
from storage.database import Database
from storage.query import Key, Query, count, plan, stream
from tests.contract.fill import add_instance, add_study


@pytest.fixture
def index(database: Database) -> Database:
    for number in range(6):
        study_uid = f"1.2.{number}"
        add_study(database, study_uid, patient_id=f"P{number % 3}", study_date=f"2024010{number + 1}")
        add_instance(database, study_uid, f"{study_uid}.1.1", modality="CT")
        if number % 2:
            add_instance(database, study_uid, f"{study_uid}.2.1", series_uid=f"{study_uid}.2", modality="MR")
    return database


def ask(database: Database, level: Level, *keys: tuple[int, str], **options: Any) -> list[tuple[Any, ...]]:
    """Rows whose values stand in the order of the keys asked for."""
    planned = plan(Query(level, tuple(Key(tag, "UN", value) for tag, value in keys), **options))
    at = {column.tag: position for position, column in enumerate(planned.columns)}
    return [tuple(row[at[tag]] for tag, _ in keys if tag in at) for row in stream(database, planned)]


def test_studies_with_what_is_computed_for_them(index: Database) -> None:
    keys = ((0x0020000D, "1.2.3"), (0x00100020, ""), (0x00080061, ""), (0x00201206, ""), (0x00201208, ""), (0x00080056, ""))
    assert ask(index, Level.STUDY, *keys) == [("1.2.3", "P0", "CT\\MR", 2, 2, "ONLINE")]


def test_a_page_is_newest_first(index: Database) -> None:
    assert ask(index, Level.STUDY, (0x0020000D, ""), limit=2, offset=1) == [("1.2.4",), ("1.2.3",)]


def test_levels(index: Database) -> None:
    assert sorted(ask(index, Level.PATIENT, (0x00100020, ""), (0x00201200, ""))) == [("P0", 2), ("P1", 2), ("P2", 2)]
    assert sorted(ask(index, Level.SERIES, (0x0020000D, "1.2.1"), (0x0020000E, ""))) == [("1.2.1", "1.2.1.1"), ("1.2.1", "1.2.1.2")]
    assert ask(index, Level.IMAGE, (0x0020000E, "1.2.1.2"), (0x00080018, ""), (0x00100020, "")) == [("1.2.1.2", "1.2.1.2.1", "P1")]


def test_a_key_below_the_level_narrows(index: Database) -> None:
    assert len(ask(index, Level.STUDY, (0x0020000D, ""), (0x00080060, "MR"))) == 3
    assert count(index, plan(Query(Level.PATIENT, (Key(0x0020000D, "UI", "1.2.1\\1.2.4"),)))) == 1
