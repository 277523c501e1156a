"""A recorded trace of writes and syncs, crashed at every prefix; and the proof that the check would notice what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.campaigns.replay import record, replay, told_before_durable
from storage import journal
from storage.rows import Entry
from storage.writer import IndexWriter


def test_a_crash_at_every_prefix_loses_nothing_acknowledged(tmp_path: Path) -> None:
    recording = record(tmp_path)
    acknowledged = sum(event.kind == "ack" for event in recording.trace.events)
    assert acknowledged >= 16
    bad = replay(recording, seeds=2)
    assert not bad, "\n".join(f"prefix {length}, seed {seed}: {verdict}" for length, seed, verdict in bad[:5])
    assert told_before_durable(recording) == []


def test_the_deletion_journal_is_part_of_the_trace_and_durable_before_bytes_go(tmp_path: Path) -> None:
    events = record(tmp_path, threads=1).trace.events
    doomed = next(number for number, event in enumerate(events) if event.kind == "doom")
    after = [(event.kind, event.path) for event in events[doomed:]]
    written, synced = after.index(("write", journal.JOURNAL)), after.index(("sync", journal.JOURNAL))
    punched = next(number for number, (kind, path) in enumerate(after) if kind == "zero" and path.endswith(".tar"))
    assert written < synced < after.index(("sync-directory", ".")) < punched


def test_without_the_fdatasync_the_replay_is_red(tmp_path: Path) -> None:
    recording = record(tmp_path, threads=1, syncing=False)
    assert replay(recording, seeds=2, every=4), "nothing was synced, and the replay saw no loss"


def test_without_awaiting_the_commit_the_order_check_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, waiting = IndexWriter.submit, list[Entry]()

    def later(writer: IndexWriter, entry: Entry) -> None:
        for earlier in waiting:
            real(writer, earlier)
        waiting[:] = [entry]

    monkeypatch.setattr(IndexWriter, "submit", later)
    recording = record(tmp_path, threads=1)
    assert told_before_durable(recording), "Success was told before the row was committed, and nobody noticed"


def test_an_answer_before_the_commit_is_noticed(tmp_path: Path) -> None:
    assert told_before_durable(record(tmp_path, threads=1, early=True))
