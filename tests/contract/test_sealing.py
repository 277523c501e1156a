"""A complete study's segments are cut to what they hold, durably, and stay ordinary tar files."""

from __future__ import annotations

from sqlalchemy import select

from storage.archive import Archive
from storage.database import Database
from storage.schema import segment
from tests.contract.test_archive import TracingDisk, archive, disk, image, put  # noqa: F401 - fixtures
from tests.segments import listed


def test_sealing_cuts_the_zeros_ahead_and_syncs(archive: Archive, disk: TracingDisk, database: Database) -> None:  # noqa: F811
    data, uid = image(1)
    put(archive, data, uid)
    study_uid = "1.2"
    (path,) = (archive.root / "segments").rglob("*.tar")
    open_size = path.stat().st_size
    disk.trace.clear()
    assert archive.seal_study(study_uid) == 1
    assert disk.trace[-1] == "sync"
    with database.read() as connection:
        (row,) = connection.execute(select(segment)).all()
    assert (row.state, row.size) == ("SEALED", path.stat().st_size)
    assert row.size < open_size
    assert len(listed(path)) == 1
