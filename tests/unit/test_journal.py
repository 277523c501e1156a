"""The deletion journal keeps every whole line whatever a kill left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import journal
from storage.disk import Disk
from storage.journal import Deletion, MemberSpan


def deletion(number: int) -> Deletion:
    return Deletion(number, f"1.2.{number}", "1.2", "d" * 64, "somebody", "asked for", 5.25, (MemberSpan("segments/a.tar", 0, 1536, 700),))


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    journal.append(Disk(), tmp_path, [deletion(1)])
    journal.append(Disk(), tmp_path, [deletion(2), deletion(3)])
    assert journal.read(tmp_path) == [deletion(1), deletion(2), deletion(3)]


def test_no_journal_is_no_deletion(tmp_path: Path) -> None:
    journal.append(Disk(), tmp_path, [])
    assert journal.read(tmp_path) == []


@pytest.mark.parametrize("kept", range(0, 200, 7))
def test_a_torn_line_costs_only_itself(tmp_path: Path, kept: int) -> None:
    (tmp_path / "other").mkdir()
    journal.append(Disk(), tmp_path, [deletion(1)])
    journal.append(Disk(), tmp_path / "other", [deletion(2)])
    torn = (tmp_path / "other" / journal.JOURNAL).read_bytes().rstrip(b"\n")[:kept]
    with (tmp_path / journal.JOURNAL).open("ab") as file:
        file.write(torn)
    journal.append(Disk(), tmp_path, [deletion(3)])
    assert [entry.tombstone for entry in journal.read(tmp_path)] in ([1, 3], [1, 2, 3])
