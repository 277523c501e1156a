"""What limited accounts see: by whoever sent a study and by its modalities, the same by each way of asking, on each kind of database."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from storage import visibility, worklist, worklist_upkeep
from storage.database import Database
from storage.schema import instance, study, study_source
from storage.schema import worklist as rows
from storage.visibility import Limits, seen, visible
from storage.worklist import Search
from tests.contract.fill import add_instance, add_study

CASES = [
    (Limits(), {"1.1", "1.2", "1.3", "1.4"}),
    (Limits(("CT1",)), {"1.1", "1.3"}),
    (Limits(("CT*",)), {"1.1", "1.2", "1.3"}),
    (Limits(("ct1",)), set()),
    (Limits(("C",)), set()),
    (Limits(("C_1",)), set()),
    (Limits(("CT2", "MR*")), {"1.2", "1.3"}),
    (Limits((), ("CT",)), {"1.1", "1.2"}),
    (Limits((), ("CT", "US")), {"1.1", "1.2", "1.4"}),
    (Limits(("CT1",), ("MR",)), {"1.3"}),
    (Limits(("NOBODY",), ("MR",)), set()),
]


@pytest.fixture
def filled(database: Database) -> Database:
    sent = (("1.1", ("CT1", "CT1"), "CT"), ("1.2", ("CT2",), "CT"), ("1.3", ("MR_1", "CT1"), "MR"), ("1.4", ("",), "US"))
    for uid, sources, modality in sent:
        add_study(database, uid)
        for number, source in enumerate(sources):
            add_instance(database, uid, f"{uid}.1.{number}", calling_ae=source, modality=modality)
    worklist_upkeep.catch_up(database, now=1.0)
    return database


@pytest.mark.parametrize("few", [0, 2000])
@pytest.mark.parametrize(("limits", "uids"), CASES)
def test_every_way_of_asking_shows_the_same(
    filled: Database, limits: Limits, uids: set[str], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visibility, "FEW", few)
    with filled.read() as connection:
        condition = visible(limits)
        query = select(study.c.study_uid)
        assert set(connection.scalars(query if condition is None else query.where(condition))) == uids
        assert set(connection.scalars(select(rows.c.study_uid).where(*seen(connection, limits, rows.c.study_pk)))) == uids
        assert {each.study_uid for each in worklist.find(connection, Search(limits=limits)).entries} == uids
        assert worklist.counts(connection, Search(limits=limits))["unread"] == len(uids)
        assert worklist.seen_by(connection, ["1.1", "1.2", "1.3", "1.4", "1.5"], limits) == uids | ({"1.5"} if not limits else set())


def test_the_senders_of_a_study_follow_its_instances(filled: Database) -> None:
    def senders() -> set[tuple[str, str]]:
        query = select(study.c.study_uid, study_source.c.calling_ae).join(study, study.c.pk == study_source.c.study_pk)
        with filled.read() as connection:
            return {(row.study_uid, row.calling_ae) for row in connection.execute(query)}

    known = {("1.1", "CT1"), ("1.2", "CT2"), ("1.3", "MR_1"), ("1.3", "CT1")}
    assert senders() == known
    with filled.begin() as connection:
        connection.execute(update(instance).where(instance.c.sop_uid == "1.4.1.0").values(calling_ae="US1"))
    assert senders() == known | {("1.4", "US1")}
