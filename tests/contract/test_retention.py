"""Retention: a study goes only when its rule says so, what it needs is elsewhere, and nobody and nothing still needs it here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from storage import associations, audit, promises, retention
from storage.archive import Archive, ArchiveSettings
from storage.database import Database
from storage.deletion import delete_study
from storage.errors import NoSpace
from storage.integrity import verify
from storage.jobs import JobQueue, JobSpec
from storage.promises import COMMITTED
from storage.purging import Kept, Purger
from storage.reindex import reindex
from storage.retention import Decision
from storage.retention_rules import DAY, DiskState, Need, RetentionRule, disk_state
from storage.schema import association_study, delivery, delivery_instance, instance, quarantine, retention_hold, study
from storage.schema import audit as audit_rows
from tests.contract.fill import add_instance, add_study
from tests.datasets import dataset
from tests.segments import info_of, member_bytes, write_segment

NOW = 1000.0 + 100 * DAY
RULE = RetentionRule("old", sources=("SCAN*",), after=30 * DAY)


@pytest.fixture
def two(database: Database) -> Database:
    """A complete study 1.1, a hundred days old, with two received instances and one result."""
    add_study(database, "1.1")
    for sop_uid in ("1.1.1", "1.1.2"):
        add_instance(database, "1.1", sop_uid)
    add_instance(database, "1.1", "1.1.9", origin="emitted", series_uid="1.1.8")
    complete(database, "1.1")
    return database


def complete(database: Database, study_uid: str) -> None:
    with database.begin() as connection:
        connection.execute(update(study).where(study.c.study_uid == study_uid).values(state="COMPLETE"))


def sent(database: Database, sop_uid: str, peer: str = "pacs", *, commitment: str | None = "COMMITTED", at: float = 2000.0) -> None:
    with database.begin() as connection:
        values = {"study_uid": "1.1", "peer": peer, "state": "DELIVERED", "created_at": at}
        pk = connection.scalar(insert(delivery).values(**values).returning(delivery.c.pk))
        row = {"delivery_pk": pk, "sop_uid": sop_uid, "state": "ACCEPTED", "answered_at": at, "commitment": commitment}
        connection.execute(insert(delivery_instance).values(**row))


def decide(database: Database, *rules: RetentionRule, now: float = NOW, low: bool = False, uid: str = "1.1") -> Decision:
    with database.read() as connection:
        return retention.decide(connection, uid, rules or (RULE,), now=now, low=low)


def all_sent(database: Database, commitment: str | None = "COMMITTED") -> None:
    for sop_uid in ("1.1.1", "1.1.2", "1.1.9"):
        sent(database, sop_uid, commitment=commitment)


def test_a_study_whose_instances_and_results_are_committed_elsewhere_goes(two: Database) -> None:
    all_sent(two)
    decision = decide(two)
    assert decision.goes
    assert (decision.rule, decision.instances) == ("old", 3)
    assert decision.why == "old enough: 100.0 days; received committed, results committed"


@pytest.mark.parametrize("missing", ["1.1.1", "1.1.9"])
def test_one_that_is_only_here_keeps_the_study(two: Database, missing: str) -> None:
    for sop_uid in {"1.1.1", "1.1.2", "1.1.9"} - {missing}:
        sent(two, sop_uid)
    decision = decide(two)
    assert not decision.goes
    what = "1 of 1 results" if missing == "1.1.9" else "1 of 2 received instances"
    assert decision.why == f"{what} are not committed"


def test_accepted_is_enough_only_where_the_rule_says_so(two: Database) -> None:
    all_sent(two, commitment=None)
    assert not decide(two).goes
    assert decide(two, replace(RULE, needs=Need.DELIVERED, results_need=Need.DELIVERED)).goes


def test_only_the_peers_of_the_rule_count(two: Database) -> None:
    all_sent(two)
    assert decide(two, replace(RULE, peers=("pacs",))).goes
    assert decide(two, replace(RULE, peers=("other",))).why == "2 of 2 received instances are not committed by other"


def test_nothing_needed_still_asks_for_the_results(two: Database) -> None:
    rule = replace(RULE, needs=Need.NOTHING, results_need=Need.DELIVERED)
    assert decide(two, rule).why == "1 of 1 results are not delivered"
    sent(two, "1.1.9", commitment=None)
    assert decide(two, rule).goes


def test_what_we_have_committed_to_keep_is_not_deleted_without_another_keeper(two: Database) -> None:
    rule = replace(RULE, needs=Need.NOTHING, results_need=Need.NOTHING)
    assert decide(two, rule).goes
    with two.begin() as connection:
        audit.record(connection, COMMITTED, actor="scanner", study_uid="1.1", detail={})
    assert decide(two, rule).why == "2 of 2 received instances are not delivered; we have committed to keep them"


def test_an_instance_that_was_replaced_after_it_was_sent_is_not_elsewhere(two: Database) -> None:
    all_sent(two)
    with two.begin() as connection:
        connection.execute(update(instance).where(instance.c.sop_uid == "1.1.1").values(revision=2))
        held = {"kind": "conflict", "state": "ACCEPTED", "sop_uid": "1.1.1", "study_uid": "1.1", "digest": "d", "reason": "r", "name": "n"}
        connection.execute(insert(quarantine).values(**held, received_at=1.0, resolved_at=3000.0))
    assert decide(two).why == "1 of 2 received instances are not committed"
    sent(two, "1.1.1", at=4000.0)
    assert decide(two).goes


def test_age_and_a_low_disk(two: Database) -> None:
    all_sent(two)
    rule = replace(RULE, when_low=2 * DAY)
    young = 1000.0 + 5 * DAY
    assert decide(two, rule, now=young).why == "not old enough: 5.0 days, it goes after 30.0 days or 2.0 days when the disk is low"
    assert decide(two, rule, now=young, low=True).why.startswith("disk is low: 5.0 days")
    assert decide(two, replace(rule, after=None), now=NOW).goes is False
    assert decide(two, rule, now=1000.0 + DAY, low=True).goes is False


def test_the_first_rule_that_fits_all_sources_governs(two: Database) -> None:
    all_sent(two)
    assert decide(two, replace(RULE, sources=("CT*",))).why == "no rule fits its sources"
    never = RetentionRule("never", sources=("SCANNER",), when_low=0.0)
    assert decide(two, never, RULE).rule == "never"
    with two.begin() as connection:
        connection.execute(update(instance).where(instance.c.sop_uid == "1.1.2").values(calling_ae="ELSEWHERE"))
    assert decide(two).rule is None
    assert decide(two, replace(RULE, sources=("SCANNER", "ELSE*"))).goes
    with two.begin() as connection:
        connection.execute(update(instance).where(instance.c.origin == "received").values(origin="imported"))
    assert decide(two).rule is None
    assert decide(two, replace(RULE, sources=("imported",))).goes


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("receiving", "it is still being received"),
        ("flag", "it is flagged for a person: mixed"),
        ("hold", "a person holds it: research"),
        ("association", "an association is sending it"),
        ("job", "a job of kind route is waiting or running"),
        ("delivery", "a delivery to pacs is not finished"),
        ("quarantine", "an instance of it is in quarantine (conflict)"),
        ("damage", "1 instances are damaged: look at them first"),
    ],
)
def test_what_is_still_needed_stays(two: Database, what: str, why: str) -> None:
    all_sent(two)
    occupy(two, what)
    decision = decide(two)
    assert (decision.goes, decision.why) == (False, why)


def occupy(database: Database, what: str) -> None:
    if what == "association":
        associations.open_association(database, "a", "p", "SCANNER", "NODE", "127.0.0.1", now=NOW)
    with database.begin() as connection:
        if what == "receiving":
            connection.execute(update(study).values(state="RECEIVING"))
        elif what == "flag":
            connection.execute(update(study).values(flag="mixed"))
        elif what == "hold":
            connection.execute(insert(retention_hold).values(study_uid="1.1", held_by="me", reason="research", held_at=NOW))
        elif what == "association":
            connection.execute(insert(association_study).values(association_id="a", study_uid="1.1", last_at=NOW))
        elif what == "job":
            JobQueue(database).enqueue(connection, JobSpec(kind="route", queue="route", dedupe_key="r", study_uid="1.1"))
        elif what == "delivery":
            connection.execute(insert(delivery).values(study_uid="1.1", peer="pacs", created_at=NOW))
        elif what == "quarantine":
            held = {"kind": "conflict", "sop_uid": "1.1.1", "study_uid": "1.1", "digest": "d", "reason": "r", "name": "n"}
            connection.execute(insert(quarantine).values(**held, received_at=1.0))
        elif what == "damage":
            connection.execute(update(instance).where(instance.c.sop_uid == "1.1.1").values(status="DAMAGED"))


def test_the_plan_names_every_study_once_oldest_first(database: Database) -> None:
    for number in range(120):  # more than are looked at in one snapshot; many of the same second
        add_study(database, f"1.{number}", at=1000.0 + number // 40)
        add_instance(database, f"1.{number}", f"1.{number}.1", at=1000.0 + number // 40)
    decisions = list(retention.plan(database, [RULE], now=NOW, low=False))
    assert len({each.study_uid for each in decisions}) == 120
    ages = [each.last_received_at for each in decisions]
    assert ages == sorted(ages)


# --- with bytes


@pytest.fixture
def archive(tmp_path: Path, database: Database) -> Iterator[Archive]:
    """Five studies of one instance each, complete, whose rule asks for nothing."""
    root = tmp_path / "archive"
    (root / "segments").mkdir(parents=True)
    (root / "archive-id").write_text("the-archive\n")
    for number in range(5):
        uid = f"1.2.{number}"
        data = dataset(uid, f"{uid}.1", f"{uid}.1.1")
        write_segment(root, uid, "a", [member_bytes(info_of(uid, f"{uid}.1", f"{uid}.1.1", data), data)])
    reindex(root, database)
    with database.begin() as connection:
        connection.execute(update(study).values(state="COMPLETE"))
        for number in range(5):
            connection.execute(update(study).where(study.c.study_uid == f"1.2.{number}").values(last_received_at=1000.0 + number))
    opened = Archive.open(root, database, process="test", clock=lambda: NOW)
    yield opened
    opened.close()


FREE = RetentionRule("free", after=30 * DAY, needs=Need.NOTHING, results_need=Need.NOTHING)


def left(archive: Archive) -> list[str]:
    with archive.database.read() as connection:
        return list(connection.scalars(select(study.c.study_uid).order_by(study.c.study_uid)))


def test_batches_are_bounded_and_go_on_where_they_left_off(archive: Archive) -> None:
    promises.hold(archive, "1.2.0", who="me", reason="keep")
    purger = Purger(archive, [FREE])
    assert [each.study_uid for each in purger.batch(most=2).gone] == ["1.2.1", "1.2.2"]
    assert [each.study_uid for each in purger.batch(most=2).gone] == ["1.2.3", "1.2.4"]
    assert purger.batch(most=2).gone == []
    assert left(archive) == ["1.2.0"]
    assert verify(archive).ok
    with archive.database.read() as connection:
        gone = connection.execute(select(audit_rows.c.actor, audit_rows.c.detail).where(audit_rows.c.event == "study.deleted")).all()
    assert {row.actor for row in gone} == {"retention"}
    assert gone[0].detail["reason"].startswith("rule free: old enough: 100.0 days")


def test_a_low_disk_purges_only_until_it_is_low_no_more(archive: Archive) -> None:
    rule = replace(FREE, after=None, when_low=DAY)

    def state() -> DiskState:
        return DiskState.LOW if len(left(archive)) > 3 else DiskState.OK

    assert [each.study_uid for each in Purger(archive, [rule], state=state).batch().gone] == ["1.2.0", "1.2.1"]
    assert len(left(archive)) == 3


def test_without_rules_nothing_goes(archive: Archive) -> None:
    assert Purger(archive, [], state=lambda: DiskState.FULL).batch().examined == 0
    assert len(left(archive)) == 5


def test_what_became_needed_since_the_plan_stays(archive: Archive) -> None:
    def refuse(connection: object) -> None:
        raise Kept("an image came")

    with pytest.raises(Kept):
        delete_study(archive, "1.2.0", who="retention", reason="old", check=refuse)
    assert len(left(archive)) == 5
    assert verify(archive).ok

    # Between the decision and its transaction a route job is queued for the study that was to go.
    class Late(Purger):
        def _purge(self, decision: Decision, report: retention.PurgeReport) -> None:
            with archive.database.begin() as connection:
                spec = JobSpec(kind="route", queue="route", dedupe_key=decision.study_uid, study_uid=decision.study_uid)
                JobQueue(archive.database).enqueue(connection, spec)
            super()._purge(decision, report)

    assert Late(archive, [FREE]).batch().gone == []
    assert len(left(archive)) == 5


def test_two_watermarks(tmp_path: Path, archive: Archive) -> None:
    free = archive.free_bytes()
    assert disk_state(archive, 0) is DiskState.OK
    assert disk_state(archive, 2 * free) is DiskState.LOW
    full = Archive.open(archive.root, archive.database, process="full", settings=ArchiveSettings(min_free=4 * free))
    assert disk_state(full, 8 * free) is DiskState.FULL
    with pytest.raises(NoSpace):
        full.check_space()
    full.close()
