"""What SQL finds is what the predicates of matching say, of any archive and any query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert

from storage.attributes import ATTRIBUTES, UNIQUE_KEYS, Level
from storage.database import Database
from storage.matching import parse, value_matches
from storage.names import name_keys, name_matches
from storage.query import Key, Query, count, plan, stream
from storage.query_dates import combined, combined_matches
from storage.schema import instance, patient, series, study

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
LEVELS = list(Level)
TEXT = st.text(alphabet="aB%_!\\ é", max_size=3).map(lambda text: text.strip(" \\"))
NAME = st.text(alphabet="aÉ^=", max_size=5)
DATE = st.sampled_from(["", "20240101", "20240102", "20240103"])
TIME = st.sampled_from(["", "10", "1030", "103000", "235959.5"])
MODALITY = st.sampled_from(["", "CT", "MR", "SR"])
# Each level's columns and what they hold.
HELD: dict[Level, dict[str, st.SearchStrategy[Any]]] = {
    Level.PATIENT: {"name": NAME, "birth_date": DATE, "sex": st.sampled_from(["", "M", "F"])},
    Level.STUDY: {"study_date": DATE, "study_time": TIME, "study_description": TEXT, "referring_physician": NAME},
    Level.SERIES: {"modality": MODALITY, "series_description": TEXT, "series_date": DATE, "series_time": TIME},
    Level.IMAGE: {"sop_class_uid": st.sampled_from(["1.2", "1.3"]), "image_type": TEXT, "rows": st.sampled_from([None, 1, 512])},
}
SPAN = st.builds("{}-{}".format, DATE, DATE).filter(lambda text: len(text) > 1)
WANTED: dict[int, st.SearchStrategy[str]] = {
    0x00100010: st.text(alphabet="aé^=*?", max_size=5),
    0x00100030: SPAN | DATE,
    0x00100040: st.sampled_from(["M", "F\\M", "O", '""', "*"]),
    0x00080020: SPAN | DATE,
    0x00080030: st.sampled_from(["10-12", "103000-", "-1030", "1030", ""]),
    0x00081030: st.text(alphabet="aB*?%_!é", max_size=3),
    0x00080090: st.text(alphabet="aé^=*?", max_size=4),
    0x00080060: MODALITY | st.sampled_from(["CT\\MR", "?R"]),
    0x0008103E: st.text(alphabet="aB*?%_!", max_size=3),
    0x00080021: SPAN,
    0x00080031: st.sampled_from(["10-12", "103000-"]),
    0x00080061: st.sampled_from(["CT", "CT\\SR", "*R", ""]),
    0x00080016: st.sampled_from(["1.2", "1.3\\1.4"]),
    0x00080062: st.sampled_from(["1.2", "1.3\\1.4"]),
    0x00080008: st.text(alphabet="aB*?\\", max_size=4),
    0x00280010: st.sampled_from(["1", "512\\513", ""]),
    0x00201206: st.sampled_from(["0", "1", "2"]),
    0x00201208: st.sampled_from(["1", "3"]),
    0x00201209: st.sampled_from(["1", "2"]),
    0x0020000D: st.sampled_from(["9.1", "9.0\\9.2"]),
    0x00100020: st.sampled_from(["P0", "P*", "P?"]),
    0x00080056: st.sampled_from(["ONLINE", "OFFLINE"]),
}


def entity(level: Level, children: st.SearchStrategy[Any] | None) -> st.SearchStrategy[dict[str, Any]]:
    held = {**HELD[level], "children": st.lists(children, min_size=1, max_size=2) if children is not None else st.just([])}
    return st.fixed_dictionaries(held)


IMAGES = entity(Level.IMAGE, None)
ARCHIVES = st.lists(entity(Level.PATIENT, entity(Level.STUDY, entity(Level.SERIES, IMAGES))), max_size=3)


@given(archive=ARCHIVES, level=st.sampled_from(LEVELS), data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_sql_finds_what_the_predicates_say(database: Database, archive: list[dict[str, Any]], level: Level, data: st.DataObject) -> None:
    tags = data.draw(st.lists(st.sampled_from(sorted(WANTED)), max_size=3, unique=True), label="tags")
    keys = {tag: data.draw(WANTED[tag], label=f"{tag:08X}") for tag in tags}
    keys.setdefault(UNIQUE_KEYS[level], "")
    fill(database, archive)
    query = Query(level, tuple(Key(tag, "UN", value) for tag, value in keys.items()))
    planned = plan(query)
    at = [column.tag for column in planned.columns].index(UNIQUE_KEYS[level])
    found = sorted(str(row[at]) for row in stream(database, planned))
    expected = sorted(path[-1][1]["uid"] for path in paths(archive, level) if holds(path, keys))
    assert found == expected
    assert count(database, planned) == len(expected)
    paged = plan(Query(level, query.keys, limit=2, offset=1))
    assert len(list(stream(database, paged))) == len(expected[1:3])


Path = list[tuple[Level, dict[str, Any]]]


def paths(archive: list[dict[str, Any]], level: Level, above: tuple[tuple[Level, dict[str, Any]], ...] = ()) -> Iterator[Path]:
    """Each entity of a level below `above`, with those it stands under."""
    own = LEVELS[len(above)]
    for each in archive:
        path = (*above, (own, each))
        if own is level:
            yield list(path)
        else:
            yield from paths(each["children"], level, path)


def holds(path: Path, keys: dict[int, str]) -> bool:
    """Whether an entity matches; where a key stands below its level, together with some entity down there."""
    own = path[-1][0]
    below = [ATTRIBUTES[tag].level for tag, value in keys.items() if asks(tag, value) and ATTRIBUTES[tag].level.depth > own.depth]
    if not below:
        return all_match(path, keys)
    deepest = max(below, key=lambda each: each.depth)
    return any(all_match(whole, keys) for whole in paths(path[-1][1]["children"], deepest, tuple(path)))


def asks(tag: int, value: str) -> bool:
    return tag in ATTRIBUTES and bool(parse(value, ATTRIBUTES[tag].vr))


def all_match(path: Path, keys: dict[int, str]) -> bool:
    values = dict(path)
    for date, time, at in ((0x00080020, 0x00080030, Level.STUDY), (0x00080021, 0x00080031, Level.SERIES)):
        span = combined(keys[date], keys[time]) if date in keys and time in keys else None
        if span is not None:
            stored = values[at][ATTRIBUTES[date].column.name], values[at][ATTRIBUTES[time].column.name]  # type: ignore[union-attr]
            if not combined_matches(*stored, *span):
                return False
            keys = {tag: value for tag, value in keys.items() if tag not in (date, time)}
    return all(matches(values, path[-1][0], tag, value) for tag, value in keys.items())


def matches(values: dict[Level, dict[str, Any]], level: Level, tag: int, wanted: str) -> bool:
    if tag == 0x00080056:
        return value_matches(wanted, "ONLINE", "CS")
    attribute = ATTRIBUTES[tag]
    if not parse(wanted, attribute.vr):
        return True
    stored = values[attribute.level]
    if attribute.vr == "PN":
        return name_matches(wanted, stored["name" if tag == 0x00100010 else "referring_physician"])
    if attribute.column is not None:
        name = attribute.column.name
        own = stored["uid"] if name in ("patient_id", "study_uid", "series_uid", "sop_uid") else stored[name]
        return value_matches(wanted, own, attribute.vr, multi=attribute.multi)
    children = stored["children"]
    images = [image for each in children for image in each.get("children", [])]
    if tag == 0x00080061:
        return any(value_matches(wanted, each["modality"], "CS", multi=False) for each in children)
    if tag == 0x00080062:
        return any(value_matches(wanted, image["sop_class_uid"], "UI") for image in images)
    counted = images if tag == 0x00201208 else children
    return str(len(counted)) in wanted.split("\\")


def fill(database: Database, archive: list[dict[str, Any]]) -> None:
    with database.begin() as connection:
        for table in (instance, series, study, patient):
            connection.execute(delete(table))
        for at, person in enumerate(archive):
            person["uid"] = f"P{at}"
            values = {name: person[name] for name in HELD[Level.PATIENT]} | name_keys("name", person["name"])
            patient_pk = connection.scalar(insert(patient).values(patient_id=person["uid"], **values).returning(patient.c.pk))
            for number, exam in enumerate(person["children"]):
                exam["uid"] = f"9.{at}" if number == 0 else f"9.{at}.{number}"
                values = {name: exam[name] for name in HELD[Level.STUDY]} | name_keys("referring", exam["referring_physician"])
                row = insert(study).values(study_uid=exam["uid"], patient_pk=patient_pk, first_received_at=0, last_received_at=0, **values)
                study_pk = connection.scalar(row.returning(study.c.pk))
                for each, part in enumerate(exam["children"]):
                    part["uid"] = f"{exam['uid']}.7.{each}"
                    values = {name: part[name] for name in HELD[Level.SERIES]}
                    row = insert(series).values(series_uid=part["uid"], study_pk=study_pk, **values)
                    series_pk = connection.scalar(row.returning(series.c.pk))
                    for last, image in enumerate(part["children"]):
                        image["uid"] = f"{part['uid']}.{last}"
                        values = {name: image[name] for name in HELD[Level.IMAGE]} | {"study_pk": study_pk, "series_pk": series_pk}
                        values |= {"sop_uid": image["uid"], "transfer_syntax_uid": "1.2", "digest": "d", "length": 1, "received_at": 0}
                        connection.execute(insert(instance).values(origin="received", **values))
