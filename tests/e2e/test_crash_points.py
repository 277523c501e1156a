"""kill -9 at every step of an ingest, a duplicate, a conflict, a seal and a deletion: before it, after it, and half-way in a write."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.campaigns.check import check, rebuilt_differs
from storage.archive import Archive
from storage.database import open_database
from tests.e2e import crashing

LONGEST = 200


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with one study."""
    folder = tmp_path_factory.mktemp("prepared")
    database = open_database(f"sqlite:///{folder / 'index.sqlite'}", create=True)
    Archive.create(folder / "archive", database)
    archive = Archive.open(folder / "archive", database, process="prepare")
    crashing.store(archive, crashing.standing())
    archive.close()
    database.close()
    return folder


def crashes(prepared: Path, folder: Path, operation: str, when: str) -> Iterator[Path]:
    """Yield a folder for every step at which the operation could be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.e2e.crashing"])
    for last in range(1, LONGEST):
        place = folder / f"{when}-{last}"
        shutil.copytree(prepared, place)
        process = context.Process(target=crashing.run, args=(place, operation, last, when))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            return
        assert process.exitcode == -signal.SIGKILL
        yield place
        shutil.rmtree(place)
    pytest.fail("the operation never ended")


@pytest.mark.parametrize("when", ["before", "after", "half"])
@pytest.mark.parametrize("operation", list(crashing.OPERATIONS))
def test_killed_at_any_step(prepared: Path, tmp_path: Path, operation: str, when: str) -> None:
    for place in crashes(prepared, tmp_path, operation, when):
        archive = crashing.open_archive(place)
        archive.recover()
        archive.close()
        told = (place / "told").read_text(encoding="ascii").split()
        expected = [one for one in crashing.standing() if not gone(place, operation, one.sop, told)]
        expected += [one for one in crashing.arriving() if one.sop in told]
        verdict = check(place / "index.sqlite", place / "archive", expected)
        verdict.reindex_differs = rebuilt_differs(place / "index.sqlite", place / "archive")
        assert verdict.good, f"{place.name}: {verdict}"


def gone(place: Path, operation: str, sop: str, told: list[str]) -> bool:
    """May (or must) this instance be gone? A deletion that was not confirmed may have happened or not."""
    doomed = operation == "delete study" or (operation == "delete instance" and sop == crashing.standing()[1].sop)
    if not doomed:
        return False
    rows = crashing.open_archive(place)
    try:
        present = any(one.sop_uid == sop for one in rows.instances(crashing.standing()[0].study))
    finally:
        rows.close()
    assert not (present and "deleted" in told), "a confirmed deletion came back"
    return not present
