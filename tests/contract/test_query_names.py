"""Person names are matched the same by SQL and by the predicate, whatever their case, accents and component groups."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select

from storage.attributes import Level
from storage.database import Database
from storage.names import fold_name, key_columns, name_clause, name_keys, name_matches
from storage.query import Key, Query, plan, stream
from storage.schema import patient, study

GROUP = st.text(alphabet="abÄ'é^ ß山が-.%_!\"", max_size=8)
NAMES = st.lists(GROUP, min_size=1, max_size=3).map("=".join)
WANTED = st.lists(st.text(alphabet="abAÉ^ 山がs*?'%", max_size=6), min_size=1, max_size=3).map("=".join)
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@given(wanted=WANTED | st.lists(WANTED, max_size=2).map("\\".join), names=st.lists(NAMES, min_size=1, max_size=6), fuzzy=st.booleans())
@example(wanted="*abab*", names=["x=abab=y", "ab^ab", "zababz"], fuzzy=False)
@example(wanted="sab^*", names=["SAB", "sab^b", "sabs"], fuzzy=False)
@example(wanted="b'a", names=["ab^B A", "b a^a", "ab"], fuzzy=True)
@settings(max_examples=120, deadline=None, suppress_health_check=SLOW)
def test_sql_and_predicate_agree(database: Database, wanted: str, names: list[str], fuzzy: bool) -> None:
    fill(database, names)
    expected = sorted(name for name in names if name_matches(wanted, name, fuzzy=fuzzy))
    with database.read() as connection:
        found = connection.scalars(select(patient.c.name).where(name_clause(key_columns(patient, "name"), wanted, fuzzy=fuzzy)))
        assert sorted(found) == expected
    planned = plan(Query(Level.PATIENT, (Key(0x00100010, "PN", wanted),), fuzzy=fuzzy))
    assert sorted(str(row[0]) for row in stream(database, planned)) == expected, "with the search for three characters"


def fill(database: Database, names: list[str]) -> None:
    with database.begin() as connection:
        connection.execute(delete(study))
        connection.execute(delete(patient))
        rows = [{"patient_id": f"P{at}", "name": name, **name_keys("name", name)} for at, name in enumerate(names)]
        connection.execute(insert(patient), rows)


@pytest.mark.parametrize(
    ("wanted", "name", "expected"),
    [
        ("muller^*", "MÜLLER^JÖRG", True),
        ("Mueller", "Müller", False),
        ("SMITH", "Smith^John", False),
        ("SMITH^*", "Smith", True),
        ("SMITH^^^", "smith", True),
        ("山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("Yamada*=山田*", "Yamada^Tarou=山田^太郎", True),
        ("Yamada*=鈴木*", "Yamada^Tarou=山田^太郎", False),
        ("=山田*", "Yamada^Tarou=山田^太郎", True),
        ("ＹＡＭＡＤＡ*", "Yamada^Tarou", True),
        ("洪?吉洞", "Hong=洪^吉洞", True),
        ("김희중", "Kim=김희중", True),
        ("김?중", "Kim=김희중", True),
        ("*", "", True),
        ("a*", "", False),
        ("DOE^*\\ROE^*", "Roe^Jane", True),
    ],
)
def test_what_names_match(wanted: str, name: str, expected: bool) -> None:
    assert name_matches(wanted, name) is expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("john smith", True),
        ("smi jo", True),
        ("smith,john", True),
        ("oconnor", False),
        ("brien", True),
        ("smith jane", False),
        ("ohn", False),
    ],
)
def test_fuzzy_matching_is_by_the_beginnings_of_words(wanted: str, expected: bool) -> None:
    assert name_matches(wanted, "Smith-O'Brien^John", fuzzy=True) is expected


def test_folding_is_stable() -> None:
    for name in ("Müller^Jörg^^^", "Straße^İrem", "ﬁ^Ａ", "が^ガ", "a=b==", "  A^B  "):
        assert fold_name(fold_name(name)) == fold_name(name)
