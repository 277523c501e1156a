"""What binds us to keep a study binds after the index was lost or replaced by an older one."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from storage import promises, retention
from storage.archive import Archive
from storage.backup import backup, restore
from storage.database import Database, open_database
from storage.deletion import delete_study
from storage.errors import NotFound
from storage.promises import PROMISES
from storage.reindex import reindex
from storage.retention_rules import DAY, Need, RetentionRule
from storage.schema import audit, retention_hold
from tests.contract.test_deletion import STUDY, archive  # noqa: F401 - a fixture

ANY = RetentionRule("any", after=0.0, needs=Need.NOTHING, results_need=Need.NOTHING)
OTHER = "1.2.2"


def why(database: Database, uid: str = STUDY) -> str:
    with database.read() as connection:
        decision = retention.decide(connection, uid, (ANY,), now=1e10 * DAY, low=False)
    return "goes" if decision.goes else decision.why


def rebuilt(archive: Archive, tmp_path: Path) -> Database:  # noqa: F811
    database = open_database(f"sqlite:///{tmp_path / 'rebuilt.sqlite'}", create=True)
    reindex(archive.root, database)
    return database


def events(database: Database) -> list[str]:
    with database.read() as connection:
        return [row.event for row in connection.execute(select(audit.c.event).where(audit.c.study_uid == STUDY).order_by(audit.c.pk))]


def test_a_hold_is_released_and_both_are_audited(archive: Archive) -> None:  # noqa: F811
    promises.hold(archive, STUDY, who="me", reason="one")
    promises.hold(archive, STUDY, who="you", reason="two")
    assert why(archive.database) == "a person holds it: two"
    promises.release(archive, STUDY, who="you", reason="done")
    assert why(archive.database) == "goes"
    with pytest.raises(NotFound):
        promises.release(archive, STUDY, who="you", reason="done")
    with pytest.raises(NotFound):
        promises.hold(archive, "9.9", who="you", reason="done")
    assert events(archive.database) == ["retention.held", "retention.held", "retention.released"]


def test_a_rebuilt_index_knows_what_is_held_and_what_is_not_any_more(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    promises.hold(archive, STUDY, who="me", reason="research")
    promises.hold(archive, OTHER, who="me", reason="research")
    promises.release(archive, OTHER, who="me", reason="published")
    with closing(rebuilt(archive, tmp_path)) as database:
        assert why(database) == "a person holds it: research"
        assert why(database, OTHER) == "goes"


def test_a_rebuilt_index_knows_that_we_gave_our_word(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    promises.commit(archive, {STUDY: 6, "9.9": 1}, peer="PACS", transaction_uid="2.25.1")
    with closing(rebuilt(archive, tmp_path)) as database:
        assert why(database).endswith("not delivered; we have committed to keep them")
        assert why(database, OTHER) == "goes"
        assert events(database) == ["storage.committed"]


def test_a_backup_made_before_a_hold_that_ended_up_beside_it_obeys_it(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    promises.hold(archive, OTHER, who="me", reason="research")
    promises.commit(archive, {STUDY: 6}, peer="PACS", transaction_uid="2.25.1")
    with archive.database.begin() as connection:
        promises.record_commitment(connection, STUDY, 6, peer="PACS", transaction_uid="2.25.1", at=1.0)
        connection.execute(retention_hold.delete())  # the index of the backup does not know it
    backup(archive, tmp_path / "backup")
    url = f"sqlite:///{tmp_path / 'restored.sqlite'}"
    restore(tmp_path / "backup", tmp_path / "restored", url)
    with closing(open_database(url)) as database:
        assert why(database, OTHER) == "a person holds it: research"
        assert events(database) == ["storage.committed"]  # known already: not written down twice


def test_lines_that_a_crash_tore_and_studies_that_are_gone_are_passed_over(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    promises.hold(archive, OTHER, who="me", reason="research")
    with (archive.root / PROMISES).open("ab") as file:
        file.write(
            b'{"kind":"hold","study_uid":"1.2.1"}\n{"kind":"sing","study_uid":"1.2.1","who":"","reason":"","at":0,"instances":0}\n[1]\n{"kind":"ho'
        )
    promises.hold(archive, STUDY, who="me", reason="research")
    delete_study(archive, OTHER, who="me", reason="asked for")
    with closing(rebuilt(archive, tmp_path)) as database, database.read() as connection:
        assert connection.scalars(select(retention_hold.c.study_uid)).all() == [STUDY]
