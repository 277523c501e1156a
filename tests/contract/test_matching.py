"""Attribute matching in SQL and as a predicate are the same relation."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import literal, select, union_all
from sqlalchemy.types import Text

from storage.database import Database
from storage.matching import Wanted, clause, matches, mismatch, value_matches

TEXTS = st.text(alphabet="abAB*?%_!\\é1 ", max_size=6).map(lambda text: text.strip(" "))
DATES = st.text(alphabet="0129-.", max_size=9)
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def in_sql(database: Database, wanted: Wanted, stored: list[str], vr: str, **options: bool) -> list[bool]:
    rows = [select(literal(str(at), Text).label("position"), literal(value, Text).label("value")) for at, value in enumerate(stored)]
    table = union_all(*rows).subquery()
    with database.read() as connection:
        found = set(connection.scalars(select(table.c.position).where(clause(table.c.value, wanted, vr, **options))))
    return [str(at) in found for at in range(len(stored))]


@given(wanted=TEXTS | st.lists(TEXTS, max_size=3), stored=st.lists(TEXTS, min_size=1, max_size=8), multi=st.booleans())
@example(wanted="A*B", stored=["x\\A1\\2B\\y", "A1\\2B"], multi=True)
@example(wanted="a%", stored=["a%", "ab", "A%"], multi=False)
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_text_matches_the_same_in_both(database: Database, wanted: Wanted, stored: list[str], multi: bool) -> None:
    expected = [value_matches(wanted, value, multi=multi) for value in stored]
    assert in_sql(database, wanted, stored, "LO", multi=multi) == expected


@given(wanted=st.text(alphabet="abAB*?_1", max_size=6), stored=st.lists(st.text(alphabet="abAB_1", max_size=6), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
def test_case_is_ignored_the_same_in_both(database: Database, wanted: str, stored: list[str]) -> None:
    expected = [value_matches(wanted, value, ignore_case=True, multi=False) for value in stored]
    assert in_sql(database, wanted, stored, "LO", ignore_case=True) == expected


@given(wanted=DATES, stored=st.lists(DATES, min_size=1, max_size=8), vr=st.sampled_from(["DA", "TM", "DT"]))
@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
def test_ranges_match_the_same_in_both(database: Database, wanted: str, stored: list[str], vr: str) -> None:
    expected = [value_matches(wanted, value, vr, multi=False) for value in stored]
    assert in_sql(database, wanted, stored, vr) == expected


@pytest.mark.parametrize(
    ("wanted", "value", "vr", "expected"),
    [
        ("", "anything", "LO", True),
        ("*", "", "LO", True),
        ("CT", "CT", "CS", True),
        ("CT", "ct", "CS", False),
        ("CT\\MR", "MR", "CS", True),
        (["1.2", "1.3"], "1.3", "UI", True),
        ("1.2*", "1.23", "UI", False),
        ("*T1*", "ax T1 mprage", "LO", True),
        ("*T1*", "T2", "LO", False),
        ("T?", "T1", "LO", True),
        ("T?", "T", "LO", False),
        ("PRIMARY", "ORIGINAL\\PRIMARY\\M", "CS", True),
        ("PRIM", "ORIGINAL\\PRIMARY\\M", "CS", False),
        ("20240101-20240131", "20240131", "DA", True),
        ("20240101-20240131", "20240201", "DA", False),
        ("20240101-", "20990101", "DA", True),
        ("-20240101", "20240101", "DA", True),
        ("-20240101", "", "DA", False),
        ("10-12", "125959.99", "TM", True),
        ("1030-12", "103000", "TM", True),
        ("1030-12", "1029", "TM", False),
        ("20240101120000-0500", "20240101120000-0500", "DT", True),
        ("2024-2025", "20251231235959", "DT", True),
        (5, "5", "IS", True),
    ],
)  # fmt: skip
def test_what_the_standard_says(wanted: Wanted, value: str, vr: str, expected: bool) -> None:
    assert value_matches(wanted, value, vr) is expected


def test_a_rule_matches_all_of_its_attributes_and_says_what_does_not() -> None:
    rule = {"Modality": "MR", "SeriesDescription": "*t1*"}
    assert matches(rule, {"Modality": "MR", "SeriesDescription": "Ax T1"}, ignore_case=True)
    assert not matches(rule, {"Modality": "MR", "SeriesDescription": "Ax T1"})
    assert mismatch(rule, {"Modality": "CT"}) == "Modality is 'CT', not 'MR'"
    assert mismatch(rule, {"Modality": "MR"}) == "SeriesDescription is absent, not '*t1*'"


def test_a_hostile_pattern_takes_no_time(database: Database) -> None:
    pattern = "*a" * 30 + "*b"
    assert not value_matches(pattern, "a" * 5000)
    assert in_sql(database, "%' OR 1=1 --", ["x"], "LO") == [False]


def test_a_list_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        clause(literal("x"), [f"1.2.{number}" for number in range(20_000)], "UI")
