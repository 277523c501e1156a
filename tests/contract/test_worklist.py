"""The worklist: rows that follow what happens to their studies, found by what is asked for, in every order; who reads what; events."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from storage import feedback, runs, worklist, worklist_upkeep
from storage.database import Database
from storage.deliveries import create_delivery, finish
from storage.jobs import JobQueue
from storage.names import name_keys
from storage.runs import RunSpec
from storage.schema import instance, patient, run, series, study, worklist_event
from storage.visibility import Limits
from storage.worklist import OPEN, READING, REVIEWED, Entry, FoundMeanwhile, ReadByOther, Search, Seen
from tests.contract.fill import add_instance, add_study

ALERT = {"urgency": "critical", "finding": "Pneumothorax", "reason": "Pneumothorax: Present (0.97)"}
FOUND: dict[str, Any] = {
    "classifications": [
        {"label": "Pneumothorax", "value": "Present", "positive": True, "probability": 0.97},
        {"label": "Effusion", "value": "Present", "positive": True, "probability": 0.8},
        {"label": "Nodule", "value": "Absent", "positive": False, "probability": 0.1},
    ],
    "measurements": [{"name": "Volume", "of": "lung", "value": 3.5, "unit": "L"}],
    "alerts": [ALERT],
}


def add(database: Database, uid: str, name: str = "Doe^Jane", *, modality: str = "CT", at: float = 1000.0, **columns: Any) -> None:
    with database.begin() as connection:
        values = {"patient_id": f"ID{uid}", "name": name, **name_keys("name", name)}
        connection.execute(insert(patient).values(**values))
    add_study(database, uid, at=at, patient_id=f"ID{uid}", **columns)
    add_instance(database, uid, f"{uid}.1.1", at=at, modality=modality)


def start(database: Database, uid: str, bundle: str = "chest") -> int:
    with database.begin() as connection:
        spec = RunSpec(uid, 1, [f"{uid}.1"], [(f"{uid}.1.1", "d")], "r", bundle, "1", f"{bundle}{uid}", deliver_to=["PACS"])
        pk = runs.create_run(connection, spec, queue=JobQueue(database), now=1.0)
    assert pk is not None
    return pk


def end(database: Database, pk: int, findings: dict[str, Any] | None = None, now: float = 2000.0) -> None:
    with database.begin() as connection:
        runs.start_run(connection, pk, "cpu", now=1.0)
        runs.complete_run(connection, pk, device="cpu", timings={}, findings=findings or {}, now=now)


def follow(database: Database, now: float = 3000.0) -> int:
    return worklist_upkeep.catch_up(database, now=now)


def entry(database: Database, uid: str) -> Entry:
    follow(database)
    with database.read() as connection:
        found = worklist.get(connection, uid)
    assert found is not None
    return found


def listed(database: Database, **wanted: Any) -> list[str]:
    follow(database)
    with database.read() as connection:
        return [each.study_uid for each in worklist.find(connection, Search(**wanted)).entries]


def kinds(database: Database, after: int = 0) -> list[tuple[str, set[str]]]:
    follow(database)
    with database.read() as connection:
        return [(event.study_uid, set(event.kinds.split(","))) for event in worklist.events_after(connection, after)]


def last(database: Database) -> int:
    follow(database)
    with database.read() as connection:
        return worklist.newest_event(connection)


def test_a_study_its_run_and_its_delivery_are_in_its_row(database: Database) -> None:
    add(database, "1.1", "Doe^Jane", study_description="Chest", accession_number="A1", study_date="20240102")
    row = entry(database, "1.1")
    assert (row.name, row.patient_id, row.kinds, row.series, row.instances, row.state) == ("Doe^Jane", "ID1.1", ["CT"], 1, 1, "RECEIVING")
    assert (row.urgency, row.models, row.deliveries, row.reading) == (0, [], [], OPEN)
    pk = start(database, "1.1")
    assert [model["state"] for model in entry(database, "1.1").models] == ["SCHEDULED"]
    end(database, pk, FOUND, now=2000.0)
    row = entry(database, "1.1")
    assert (row.urgency, row.raised_at, row.alerts) == (2, 2000.0, [{**ALERT, "model": "chest"}])
    assert row.findings == [{"label": "Effusion", "probability": 0.8}, {"name": "Volume", "of": "lung", "value": 3.5, "unit": "L"}]
    with database.begin() as connection:
        delivery = create_delivery(connection, pk, "1.1", "PACS", ["1.1.9"], JobQueue(database), now=5.0)
    assert entry(database, "1.1").deliveries == [{"peer": "PACS", "state": "SCHEDULED"}]
    with database.begin() as connection:
        finish(connection, delivery or 0, "FAILED", "refused")
    assert entry(database, "1.1").deliveries == [{"peer": "PACS", "state": "FAILED"}]
    assert listed(database, quick="undelivered") == listed(database, quick="critical") == ["1.1"]


def test_a_finding_of_a_recalled_release_or_of_a_run_that_looks_on_is_not_urgent(database: Database) -> None:
    add(database, "1.1")
    pk = start(database, "1.1")
    end(database, pk, FOUND)
    assert entry(database, "1.1").urgency == 2
    with database.begin() as connection:
        connection.execute(update(run).values(recalled_at=1.0))
    row = entry(database, "1.1")
    assert (row.urgency, row.findings, row.models[0]["recalled"]) == (0, [], True)
    with database.begin() as connection:
        connection.execute(update(run).values(recalled_at=None, shadow=True))
        worklist_upkeep.note(connection, "1.1", "run")
    assert (entry(database, "1.1").models, entry(database, "1.1").urgency) == ([], 0)


def again(database: Database, of: int, key: str, **columns: Any) -> int:
    """A run of the same model and series that is to replace another."""
    with database.begin() as connection:
        spec = RunSpec("1.1", 1, ["1.1.1"], [("1.1.1.1", "d")], "r", "chest", key, f"release {key}", salt=key, predecessor_pk=of)
        pk = runs.create_run(connection, spec, queue=JobQueue(database), now=5.0)
        assert pk is not None
        if columns:
            connection.execute(update(run).where(run.c.pk == pk).values(**columns))
    return pk


def test_the_newest_run_of_a_model_counts_and_a_canceled_one_only_without_another(database: Database) -> None:
    add(database, "1.1")
    first = start(database, "1.1")
    end(database, first, FOUND)
    newer = again(database, first, "2", state="CANCELED")
    assert [(model["version"], model["state"]) for model in entry(database, "1.1").models] == [("1", "COMPLETED")]
    with database.begin() as connection:
        connection.execute(update(run).where(run.c.pk == newer).values(state="COMPLETED", findings={}))
    row = entry(database, "1.1")
    assert ([model["version"] for model in row.models], row.urgency) == (["2"], 0)


@pytest.mark.parametrize("state", ["SCHEDULED", "IN_PROGRESS", "FAILED", "CANCELED", "NOT_APPLICABLE"])
def test_what_was_found_stays_urgent_while_its_model_is_tried_again_and_where_that_fails(database: Database, state: str) -> None:
    add(database, "1.1")
    first = start(database, "1.1")
    end(database, first, FOUND, now=2000.0)
    before = entry(database, "1.1")
    again(database, first, "2", state=state)
    row = entry(database, "1.1")
    assert (row.urgency, row.raised_at, row.alerts, row.findings) == (2, 2000.0, before.alerts, before.findings)
    assert [model["state"] for model in row.models] == ["COMPLETED" if state == "CANCELED" else state]
    assert listed(database, quick="critical") == ["1.1"]


def test_a_result_stands_again_when_the_one_that_replaced_it_is_recalled(database: Database) -> None:
    add(database, "1.1")
    first = start(database, "1.1")
    end(database, first, FOUND)
    second = again(database, first, "2")
    end(database, second, {"classifications": []}, now=2500.0)
    assert entry(database, "1.1").urgency == 0
    with database.begin() as connection:
        connection.execute(update(run).where(run.c.pk == second).values(recalled_at=2600.0, recall_reason="wrong weights"))
    row = entry(database, "1.1")
    assert (row.urgency, row.raised_at, row.models[0]["recalled"]) == (2, 2000.0, True)


def test_a_finding_in_one_series_is_not_hidden_by_the_run_on_another(database: Database) -> None:
    add(database, "1.1")
    end(database, start(database, "1.1"), FOUND)
    with database.begin() as connection:
        spec = RunSpec("1.1", 1, ["1.1.2"], [("1.1.2.1", "d")], "r", "chest", "1", "of the second series")
        other = runs.create_run(connection, spec, queue=JobQueue(database), now=1.0) or 0
    end(database, other, {"classifications": []})
    assert entry(database, "1.1").urgency == 2
    with database.begin() as connection:
        connection.execute(update(run).where(run.c.pk != other).values(state="FAILED"))
    assert entry(database, "1.1").models[0]["state"] == "FAILED"


def test_what_a_newer_revision_overtook_counts_until_that_one_is_done(database: Database) -> None:
    add(database, "1.1")
    overtaken = start(database, "1.1")
    with database.begin() as connection:
        runs.start_run(connection, overtaken, "cpu", now=1.0)
        queue = JobQueue(database)
        spec = RunSpec("1.1", 2, ["1.1.1"], [("1.1.1.1", "d"), ("1.1.1.2", "e")], "r", "chest", "1", "second revision")
        newer = runs.create_run(connection, spec, queue=queue, now=5.0) or 0
        connection.execute(update(run).where(run.c.pk == overtaken).values(delivered=False))
    end(database, overtaken, FOUND)
    assert entry(database, "1.1").urgency == 2
    end(database, newer, {"classifications": []})
    assert entry(database, "1.1").urgency == 0


def test_the_urgent_come_first_then_the_newest_and_what_was_read_sinks(database: Database) -> None:
    for number in range(4):
        add(database, f"1.{number}", at=1000.0 + number)
    end(database, start(database, "1.1"), FOUND)
    end(database, start(database, "1.0"), {"alerts": [{**ALERT, "urgency": "urgent"}]})
    assert listed(database) == ["1.1", "1.0", "1.3", "1.2"]
    with database.begin() as connection:
        worklist.read(connection, "1.1", REVIEWED, by="ann", now=2500.0)
    assert listed(database) == ["1.0", "1.3", "1.2", "1.1"]
    assert entry(database, "1.1").urgency == 2
    assert listed(database, quick="urgent") == ["1.0"]
    end(database, start(database, "1.1", "second"), FOUND, now=2600.0)  # found after it was read: to be read again
    assert listed(database)[0] == "1.1"


def test_pages_go_on_where_the_one_before_ended_in_every_order(database: Database) -> None:
    for number in range(7):
        add(database, f"1.{number}", f"Name{number % 3}^X", at=1000.0 + number // 2, study_date=f"2024010{number % 4 + 1}")
    for sort in worklist.ORDERS:
        for descending in (True, False):
            check_pages(database, sort, descending)


def check_pages(database: Database, sort: str, descending: bool) -> None:
    whole = listed(database, sort=sort, descending=descending)
    assert len(whole) == 7
    search = Search(sort=sort, descending=descending, size=3)
    with database.read() as connection:
        first = worklist.find(connection, search)
        second = worklist.find(connection, Search(**{**vars(search), "after": first.entries[-1].study_pk}))
        third = worklist.find(connection, Search(**{**vars(search), "after": second.entries[-1].study_pk}))
        back = worklist.find(connection, Search(**{**vars(search), "before": third.entries[0].study_pk}))
    assert [each.study_uid for page in (first, second, third) for each in page.entries] == whole
    assert [(page.earlier, page.later) for page in (first, second, third)] == [(False, True), (True, True), (True, False)]
    assert back.entries == second.entries


WORDS: tuple[tuple[str, list[str]], ...] = (
    ("müll", ["1.1"]), ("jorg muller", ["1.1"]), ("山", ["1.2"]), ("太郎", ["1.2"]), ("tarou", ["1.2"]), ("محمد", ["1.3"]),
    ("acc-77", ["1.1"]), ("THORAX", ["1.1", "1.2"]), ("thorax acc", ["1.1"]), ("%", []), ("_", []), ("\"'*", []), ("id1.3", ["1.3"]),
    ("<script>", ["1.4"]), ("nobody", []), ("   ", ["1.1", "1.2", "1.3", "1.4"]),
)  # fmt: skip


def test_words_are_found_wherever_they_stand(database: Database) -> None:
    add(database, "1.1", "Müller^Jörg", study_description="CT Thorax", accession_number="ACC-77")
    add(database, "1.2", "Yamada^Tarou=山田^太郎=やまだ^たろう", study_description="Thorax")
    add(database, "1.3", "محمد^علي")
    add(database, "1.4", "<script>alert(1)</script>")
    assert [(text, sorted(listed(database, text=text))) for text, _ in WORDS] == list(WORDS)


def test_many_matches_are_found_as_few_are(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        add(database, f"1.{number}", f"Common^{number}")
    few = listed(database, text="common")
    monkeypatch.setattr(worklist, "FEW", 2)
    assert listed(database, text="common") == few
    assert len(few) == 5


def test_filters_and_their_counts(database: Database) -> None:
    add(database, "1.1", modality="CT", at=1000.0)
    add(database, "1.2", modality="MR", at=2000.0)
    add_instance(database, "1.2", "1.2.2.1", series_uid="1.2.2", modality="SR", origin="emitted")
    add_instance(database, "1.2", "1.2.3.1", series_uid="1.2.3", modality="OT", origin="emitted")
    start(database, "1.2")
    assert listed(database, modality="MR") == listed(database, quick="running") == listed(database, since=1500.0) == ["1.2"]
    assert entry(database, "1.2").kinds == ["MR"]  # a secondary capture of this node's own makes it no other
    assert listed(database, modality="SR") == listed(database, modality="M") == []
    with database.read() as connection:
        assert worklist.modalities(connection) == ["CT", "MR"]
        assert worklist.modalities(connection, Limits(modalities=("MR",))) == ["MR"]
        counts = worklist.counts(connection, Search())
        assert counts == {"critical": 0, "urgent": 0, "running": 1, "failed": 0, "undelivered": 0, "unread": 2}
        assert worklist.counts(connection, Search(modality="CT"), most=0)["unread"] == 1
        assert worklist.counts(connection, Search(), most=1)["unread"] == 2


def test_an_account_sees_what_its_limits_allow(database: Database) -> None:
    add(database, "1.1", modality="CT")
    add(database, "1.2", modality="MR")
    mr = Limits(modalities=("MR",))
    assert listed(database, limits=mr) == ["1.2"]
    assert listed(database, limits=Limits(sources=("NOBODY",))) == []
    with database.read() as connection:
        assert worklist.counts(connection, Search(limits=mr))["unread"] == 1
        assert worklist.get(connection, "1.1", mr) is None
        assert worklist.seen_by(connection, ["1.1", "1.2", "1.9"], mr) == {"1.2"}


def test_what_changes_of_study_series_and_patient_is_followed(database: Database) -> None:
    add(database, "1.1")
    add_instance(database, "1.1", "1.1.2.1", series_uid="1.1.2", modality="PT")
    assert entry(database, "1.1").kinds == ["CT", "PT"]
    with database.begin() as connection:
        connection.execute(update(patient).values(name="New^Name", **name_keys("name", "New^Name")))
        connection.execute(update(study).values(flag="instances disagree on PatientID", state="COMPLETE"))
    row = entry(database, "1.1")
    assert (row.name, row.flag, row.state) == ("New^Name", "instances disagree on PatientID", "COMPLETE")
    assert (listed(database, text="new name"), listed(database, text="doe jane")) == (["1.1"], [])


def test_a_deleted_study_leaves_the_list_and_its_search(database: Database) -> None:
    add(database, "1.1")
    seen = last(database)
    with database.begin() as connection:
        worklist.read(connection, "1.1", READING, by="ann", now=1.0)
    with database.begin() as connection:
        connection.execute(delete(instance))
        connection.execute(delete(series))
        connection.execute(delete(study))
    assert listed(database) == listed(database, text="doe") == []
    told = kinds(database, seen)
    assert [uid for uid, _ in told] == ["1.1"]
    assert {"reading", "deleted"} <= told[0][1]


def test_two_who_read_one_study_learn_of_each_other(database: Database) -> None:
    add(database, "1.1")
    follow(database)
    with database.begin() as connection:
        worklist.read(connection, "1.1", READING, by="ann", now=1.0)
    with pytest.raises(ReadByOther, match="ann") as raised, database.begin() as connection:
        worklist.read(connection, "1.1", READING, by="bob", now=2.0)
    assert raised.value.who == "ann"
    assert entry(database, "1.1").reader == "ann"
    with database.begin() as connection:
        worklist.read(connection, "1.1", READING, by="bob", now=3.0, force=True)
    assert (entry(database, "1.1").reading, entry(database, "1.1").reader) == (READING, "bob")
    with database.begin() as connection:
        worklist.read(connection, "1.1", OPEN, by="bob", now=4.0)
    assert (entry(database, "1.1").reading, entry(database, "1.1").reader) == (OPEN, None)
    assert kinds(database)[-1] == ("1.1", {"reading"})


def test_events_say_what_changed_in_order_and_a_finding_by_its_name(database: Database) -> None:
    add(database, "1.1")
    first = last(database)
    pk = start(database, "1.1")
    assert kinds(database, first) == [("1.1", {"run"})]
    middle = last(database)
    end(database, pk, FOUND)
    assert kinds(database, middle) == [("1.1", {"run", "finding"})]
    with database.read() as connection:
        assert worklist.can_resume(connection, first)
        assert not worklist.can_resume(connection, last(database) + 1)


def test_events_are_kept_for_a_while_and_their_numbers_never_come_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worklist_upkeep, "KEPT", 1)
    add(database, "1.1")
    for kind in ("a", "b", "c"):
        with database.begin() as connection:
            worklist_upkeep.note(connection, "1.1", kind)
        follow(database)
    with database.read() as connection:
        pks = connection.scalars(select(worklist_event.c.pk)).all()
        assert (len(pks), worklist.can_resume(connection, 0)) == (1, False)
    with database.begin() as connection:
        worklist_upkeep.note(connection, "1.1", "d")
    assert last(database) > pks[0]


def test_several_who_follow_make_each_event_once(database: Database) -> None:
    for number in range(12):
        add(database, f"1.{number}")
    followers = [threading.Thread(target=follow, args=(database,)) for _ in range(4)]
    for thread in followers:
        thread.start()
    for thread in followers:
        thread.join()
    assert sorted(uid for uid, _ in kinds(database)) == sorted(f"1.{number}" for number in range(12))
    assert len(listed(database)) == 12


def test_a_change_that_is_rolled_back_is_none(database: Database) -> None:
    add(database, "1.1")
    seen = last(database)
    with suppress(RuntimeError), database.begin() as connection:
        connection.execute(update(study).values(flag="x"))
        raise RuntimeError
    assert not worklist_upkeep.behind(database)
    assert kinds(database, seen) == []


def test_who_acts_on_an_old_page_learns_what_happened_since(database: Database) -> None:
    add(database, "1.1")
    follow(database)
    saw = Seen(OPEN, None)
    with database.begin() as connection:
        worklist.read(connection, "1.1", REVIEWED, by="ann", now=1.0, seen=saw)
    with pytest.raises(ReadByOther) as raised, database.begin() as connection:
        worklist.read(connection, "1.1", READING, by="bob", now=2.0, seen=saw)
    assert (raised.value.who, raised.value.state) == ("ann", REVIEWED)
    assert entry(database, "1.1").reading == REVIEWED
    with database.begin() as connection:  # who knows may
        worklist.read(connection, "1.1", OPEN, by="bob", now=3.0, seen=Seen(REVIEWED, None))
        worklist.read(connection, "1.1", READING, by="bob", now=4.0, seen=saw)
    end(database, start(database, "1.1"), FOUND, now=5.0)
    follow(database)
    with pytest.raises(FoundMeanwhile), database.begin() as connection:
        worklist.read(connection, "1.1", REVIEWED, by="bob", now=6.0, seen=Seen(READING, None))
    assert entry(database, "1.1").reading == READING
    with database.begin() as connection:
        worklist.read(connection, "1.1", REVIEWED, by="bob", now=7.0, seen=Seen(READING, 5.0))
    assert (entry(database, "1.1").reading, entry(database, "1.1").reader) == (REVIEWED, "bob")


def test_what_was_rejected_is_not_nothing_found(database: Database) -> None:
    add(database, "1.1")
    pk = start(database, "1.1")
    end(database, pk, FOUND)
    assert not entry(database, "1.1").models[0]["rejected"]
    with database.begin() as connection:
        word = feedback.Word(feedback.REJECT, code="other", reason="x")
        feedback.give(connection, "1.1", pk, feedback.RESULT, word, seen=None, actor="ann", now=9.0)
        worklist_upkeep.note(connection, "1.1", "finding")
    row = entry(database, "1.1")
    assert (row.alerts, row.findings, row.urgency, row.models[0]["rejected"]) == ([], [], 0, True)
