"""Two receivers on one PostgreSQL that wait for each other's rows: one gives way and tries again; no sender is refused."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from storage.archive import Archive, Outcome, Receipt, Source
from storage.database import open_database
from tests.contract.test_archive import image
from tests.datasets import CT, EXPLICIT
from tests.dimse import until

WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_a_deadlock_is_tried_again(database_url: str, tmp_path: Path) -> None:
    # The writer finds the deadlock first and is the one that is rolled back: the other session looks for one much later.
    with closing(open_database(f"{database_url}&options=-c%20deadlock_timeout%3D3s", busy_seconds=60)) as database:
        Archive.create(tmp_path / "archive", database).close()
        archive = Archive.open(tmp_path / "archive", database, process="receiver")
        answers: list[Receipt] = []

        def store(number: int, association: str | None) -> None:
            data, uid = image(number)
            session = archive.session(Source(association, "SCANNER", "NODE", "127.0.0.1"))
            writer = session.begin(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT)
            writer.write([data])
            answers.append(writer.commit())
            session.close()

        store(1, None)
        with closing(open_database(database_url)) as elsewhere, elsewhere.begin() as other, elsewhere.engine.connect() as watch:
            other.execute(text("SET LOCAL deadlock_timeout = '60s'"))
            with database.begin() as connection:
                columns = "id, process, calling_ae, called_ae, address, opened_at, lease_until"
                connection.execute(text(f"INSERT INTO association ({columns}) VALUES ('a', 'p', 'S', 'N', '', 1, 1)"))
            other.execute(text("SELECT 1 FROM association WHERE id = 'a' FOR UPDATE"))
            receiver = threading.Thread(target=store, args=(2, "a"))
            receiver.start()
            until(lambda: watch.scalar(WAITING) == 1)  # the receiver has the study's row, and wants the association's
            other.execute(text("UPDATE study SET flag = flag"))  # the other has the association's, and wants the study's
        receiver.join()
        assert [answer.outcome for answer in answers] == [Outcome.STORED, Outcome.STORED]
        archive.close()
