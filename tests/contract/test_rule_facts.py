"""What rules judge by, what is still to be sent on, and what was done, read for many studies at once."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from storage import audit, copies, deliveries, index, runs
from storage.database import Database
from storage.jobs import JobQueue
from storage.rule_facts import HELD_EVENT, IMPORTED, Done, completed_since, done_with, facts_of, to_forward
from storage.runs import RunSpec
from storage.schema import instance, study
from storage.tags import TAGGED_EVENT, tags_of
from tests.contract.fill import add_instance, add_study


@pytest.fixture
def filled(database: Database) -> Database:
    for number, completed in (("1", 100.0), ("2", 200.0), ("3", 300.0), ("4", None)):
        add_study(database, f"1.{number}", at=50.0, completed_at=completed, complete_reason="quiet")
        for image in range(3):
            add_instance(database, f"1.{number}", f"1.{number}.1.{image}", series_uid=f"1.{number}.1", at=60.0)
    add_instance(database, "1.1", "1.1.2.1", series_uid="1.1.2", modality="SEG", origin="emitted")
    with database.begin() as connection:
        connection.execute(update(study).where(study.c.study_uid != "1.4").values(state="COMPLETE"))
        connection.execute(update(study).where(study.c.study_uid == "1.3").values(complete_reason=IMPORTED))
        connection.execute(update(instance).where(instance.c.sop_uid == "1.1.1.0").values(calling_ae="PACS", rows=512))
        connection.execute(update(instance).where(instance.c.sop_uid == "1.1.1.1").values(called_ae="NODE", rows=256))
    return database


def test_facts_of_many_studies(filled: Database) -> None:
    with filled.read() as connection:
        facts = facts_of(connection, ["1.1", "1.2", "1.9"])
        assert facts_of(connection, []) == {}
    assert set(facts) == {"1.1", "1.2"}
    assert (facts["1.1"].at, facts["1.1"].instances, set(facts["1.1"].series)) == (100.0, 3, {"1.1.1"})
    series = facts["1.1"].series["1.1.1"]
    assert (dict(series.sources), dict(series.called)) == ({"PACS": 1, "SCANNER": 2}, {"": 2, "NODE": 1})
    assert (series.attributes["Rows"], series.attributes["Modality"], series.attributes["PatientID"]) == (["256", "512"], "MR", "P1")


def test_what_a_peer_sent_or_was_sent_is_not_sent_to_it(filled: Database) -> None:
    queue = JobQueue(filled, clock=lambda: 400.0)
    with filled.begin() as connection:
        assert to_forward(connection, "1.1", ["1.1.1", "1.1.2"], "pacs", "PACS") == ["1.1.1.1", "1.1.1.2"]
        assert len(to_forward(connection, "1.1", ["1.1.1"], "other", "OTHER")) == 3
        pk = deliveries.create_delivery(connection, None, "1.1", "pacs", ["1.1.1.1"], queue, priority=3, more={"transfer_syntax": "rle"})
        assert to_forward(connection, "1.1", ["1.1.1"], "pacs", "PACS") == ["1.1.1.2"]
    (job,) = queue.list(kind="deliver")
    assert (job.payload, job.priority) == ({"delivery_pk": pk, "transfer_syntax": "rle"}, 3)


def test_copies_that_came_back_are_counted(filled: Database) -> None:
    with filled.begin() as connection:
        for _ in range(2):  # as every attempt does
            copies.remember(connection, ["1.2.1.0", "1.2.1.1", *(f"9.{number}" for number in range(500))], "pacs", now=1.0)
        facts = facts_of(connection, ["1.1", "1.2"])
    assert (facts["1.1"].series["1.1.1"].copies, facts["1.2"].series["1.2.1"].copies) == (0, 2)


def test_studies_are_found_by_their_tags(filled: Database) -> None:
    with filled.begin() as connection:
        for uid, tag in (("1.1", "odd"), ("1.1", "trauma"), ("1.2", "trauma"), ("1.1", "odd")):
            audit.record(connection, TAGGED_EVENT, actor="routing", study_uid=uid, detail={"reason": f"{tag} (rule r)", "tag": tag})
        audit.record(connection, "route.priority", actor="routing", study_uid="1.3", detail={"reason": "odd", "tag": "odd"})
        assert tags_of(connection, ["1.1", "1.2", "1.3"]) == {"1.1": ["odd", "trauma"], "1.2": ["trauma"]}
        assert {each.study_uid for each in index.studies(connection, tag="trauma")} == {"1.1", "1.2"}
        assert [each.study_uid for each in index.studies(connection, tag="odd")] == ["1.1"]
        assert index.studies(connection, tag="od%") == []


def test_what_was_done_and_since_when(filled: Database) -> None:
    queue = JobQueue(filled, clock=lambda: 400.0)
    with filled.begin() as connection:
        for bundle, shadow in (("brain", False), ("onlooker", True)):
            spec = RunSpec("1.1", 3, ["1.1.1"], [("1.1.1.0", "d")], "r", bundle, "1", bundle, shadow=shadow)
            assert runs.create_run(connection, spec, queue=queue) is not None
        deliveries.create_delivery(connection, None, "1.1", "pacs", ["1.1.1.1", "1.1.1.2", "1.1.2.1"], queue)
        runs.flag_study(connection, "1.2", "held")
        audit.record(connection, HELD_EVENT, actor="routing", study_uid="1.2", detail={"reason": "r"}, at=1.0)
        done = done_with(connection, ["1.1", "1.2", "1.9"])
        assert completed_since(connection, 100.0) == ["1.1", "1.2"]
        assert completed_since(connection, 101.0) == ["1.2"]
    assert done == {"1.1": Done(frozenset({("brain", ("1.1.1",))}), {"pacs": 2}), "1.2": Done(flag="held", held=True)}
