"""Attributes that only the header JSON holds, sequences, and dates in another time zone."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from storage.attributes import Level
from storage.database import Database
from storage.query import Key, Query, QueryError, count, plan, stream
from storage.schema import instance, instance_header, series, study
from tests.contract.fill import add_instance, add_study

LATERALITY, SEGMENTS, SEGMENT_TYPE, MEANING, LABEL = 0x00200062, 0x00620002, 0x0062000F, 0x00080104, 0x00620005
AGE, OPERATORS, DESCRIPTION_CODE, CODE, SCHEME = 0x00101010, 0x00081070, 0x0008103F, 0x00080100, 0x00080102
STUDY_UID, SERIES_UID, SOP_UID = 0x0020000D, 0x0020000E, 0x00080018


def code(value: str, scheme: str = "SCT") -> dict[str, Any]:
    return {"00080100": {"vr": "SH", "Value": [value]}, "00080102": {"vr": "SH", "Value": [scheme]}}


def segment(label: str, kind: str) -> dict[str, Any]:
    return {"00620005": {"vr": "LO", "Value": [label]}, "0062000F": {"vr": "SQ", "Value": [code(kind)]}}


def add(database: Database, study_uid: str, sop_uid: str, **header: Any) -> None:
    add_instance(database, study_uid, sop_uid)
    packed = zlib.compress(json.dumps(header).encode())
    with database.begin() as connection:
        pk = connection.scalar(select(instance.c.pk).where(instance.c.sop_uid == sop_uid))
        connection.execute(insert(instance_header).values(instance_pk=pk, json_zlib=packed))


@pytest.fixture
def index(database: Database) -> Database:
    for number, side in enumerate("LRB"):
        add_study(database, f"1.{number}", patient_id=f"P{number}", study_date=f"2024010{number + 1}", study_time="233000")
        header: dict[str, Any] = {
            "0008103F": {"vr": "SQ", "Value": [code(f"C{number}")]},
            "00081070": {"vr": "PN", "Value": [{"Alphabetic": "Jones^Éva", "Ideographic": "洪^吉洞"}]},
            "00101010": {"vr": "AS", "Value": [f"03{number}Y"]},
            "00180050": {"vr": "DS", "Value": [1.5 + number]},
            "00200062": {"vr": "CS", "Value": [side]},
            "00620002": {"vr": "SQ", "Value": [segment("Brain", "12738006"), segment(f"Lung {side}", "39607008")]},
        }
        add(database, f"1.{number}", f"1.{number}.1.1", **header)
    add_study(database, "1.9", patient_id="P9")
    add_instance(database, "1.9", "1.9.1.1")  # its header is not made yet
    return database


def uids(database: Database, level: Level, *keys: Key, **options: Any) -> list[str]:
    tag = {Level.STUDY: STUDY_UID, Level.SERIES: SERIES_UID, Level.IMAGE: SOP_UID}[level]
    planned = plan(Query(level, (Key(tag, "UI"), *keys), **options))
    at = [column.tag for column in planned.columns].index(tag)
    rows = sorted(str(row[at]) for row in stream(database, planned))
    assert options or count(database, planned) == len(rows)
    return rows


def test_an_attribute_of_the_image_is_matched_and_returned(index: Database) -> None:
    assert uids(index, Level.IMAGE, Key(LATERALITY, "CS", "R\\B")) == ["1.1.1.1", "1.2.1.1"]
    planned = plan(Query(Level.IMAGE, (Key(LATERALITY, "CS"), Key(SOP_UID, "UI", "1.0.1.1"), Key(0x00180050, "DS", "1.50"))))
    assert list(stream(index, planned)) == [("1.0.1.1", "1.5", "L")]


def test_study_and_series_answer_from_one_of_their_instances(index: Database) -> None:
    assert uids(index, Level.STUDY, Key(AGE, "AS", "031Y")) == ["1.1"]
    assert uids(index, Level.SERIES, Key(OPERATORS, "PN", "jones^eva")) == ["1.0.1", "1.1.1", "1.2.1"]
    assert uids(index, Level.SERIES, Key(OPERATORS, "PN", "洪*")) == ["1.0.1", "1.1.1", "1.2.1"]
    planned = plan(Query(Level.STUDY, (Key(STUDY_UID, "UI", "1.9"), Key(AGE, "AS"))))
    assert list(stream(index, planned)) == [(None, "1.9")]
    assert plan(Query(Level.STUDY, (Key(LATERALITY, "CS", "R"),))).unsupported == (LATERALITY,)


def test_a_sequence_matches_by_one_of_its_items(index: Database) -> None:
    of_type = Key(SEGMENT_TYPE, "SQ", items=((Key(CODE, "SH", "39607008"), Key(SCHEME, "SH", "SCT")),))
    right = Key(SEGMENTS, "SQ", items=((Key(LABEL, "LO", "*R"), of_type),))
    assert uids(index, Level.IMAGE, right) == ["1.1.1.1"]
    across = Key(SEGMENTS, "SQ", items=((Key(LABEL, "LO", "Brain"), of_type),))
    assert uids(index, Level.IMAGE, across) == [], "no item has both"
    assert len(uids(index, Level.IMAGE, Key(SEGMENTS, "SQ", items=((Key(LABEL, "LO"),),)))) == 4, "it asks for nothing"
    described = Key(DESCRIPTION_CODE, "SQ", items=((Key(CODE, "SH", "C2"), Key(MEANING, "LO")),))
    planned = plan(Query(Level.SERIES, (described,)))
    (row,) = stream(index, planned)
    assert json.loads(str(row[0])) == [{"00080100": {"vr": "SH", "Value": ["C2"]}, "00080104": {"vr": "LO"}}]


def test_a_page_counts_matches_and_not_candidates(index: Database) -> None:
    wanted = Key(AGE, "AS", "031Y\\032Y\\030Y")
    assert uids(index, Level.STUDY, wanted, limit=2) == ["1.1", "1.2"]
    assert uids(index, Level.STUDY, wanted, limit=2, offset=2) == ["1.0"]


def test_too_many_headers_to_look_into_are_refused(index: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.query.MAX_EXAMINED", 2)
    with pytest.raises(QueryError, match="ask for a date"):
        uids(index, Level.STUDY, Key(AGE, "AS", "031Y"))
    assert uids(index, Level.STUDY, Key(AGE, "AS", "031Y"), Key(0x00080020, "DA", "20240102")) == ["1.1"]


def test_a_date_and_a_time_are_one_range_or_two(index: Database) -> None:
    with index.begin() as connection:
        connection.execute(update(study).where(study.c.study_uid == "1.1").values(study_time="0100"))
    keys = (Key(0x00080020, "DA", "20240101-20240103"), Key(0x00080030, "TM", "2200-2330"))
    assert uids(index, Level.STUDY, *keys) == ["1.0", "1.1", "1.2"]
    assert uids(index, Level.STUDY, *keys, combined=False) == ["1.0", "1.2"]
    keys = (Key(0x00080020, "DA", "20240101-20240103"), Key(0x00080030, "TM", "2345-2329"))
    assert uids(index, Level.STUDY, *keys) == ["1.1"]


def test_dates_and_times_in_the_zone_of_the_one_who_asks(index: Database) -> None:
    with index.begin() as connection:
        connection.execute(update(study).where(study.c.study_uid == "1.0").values(timezone_offset="-0100"))
        connection.execute(update(study).where(study.c.study_uid == "1.1").values(timezone_offset="+0100"))
        connection.execute(update(series).values(series_date="20240101", series_time="0030"))
    asked = (Key(0x00080020, "DA", "20240102"), Key(0x00080030, "TM"), Key(0x00080201, "SH", "+0100"), Key(STUDY_UID, "UI"))
    found = sorted(map(str, stream(index, plan(Query(Level.STUDY, asked, timezone="+0100")))))
    assert found == ["('20240102', '013000', '+0100', '1.0')", "('20240102', '233000', '+0100', '1.1')"]
    evening = (Key(STUDY_UID, "UI", "1.0"), Key(0x00080021, "DA"), Key(0x00080031, "TM", "0200-0300"))
    assert list(stream(index, plan(Query(Level.SERIES, evening, timezone="+0100")))) == [("20240101", "0230", "1.0")]
    with pytest.raises(QueryError, match="TimezoneOffsetFromUTC"):
        plan(Query(Level.STUDY, asked, timezone="Z"))


def test_everything_the_index_knows(index: Database) -> None:
    for level in Level:
        planned = plan(Query(level, (Key(0x00100020, "LO", "P1"),), all_attributes=True))
        (row,) = stream(index, planned)
        values = {column.tag: value for column, value in zip(planned.columns, row, strict=True)}
        assert values[0x00080056] == "ONLINE"
        assert values[0x00100020] == "P1"
        assert (LATERALITY in values) is (level is Level.IMAGE)
