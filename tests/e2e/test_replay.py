"""A recorded trace of writes and syncs, crashed at every prefix; and the proof that the check would notice what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.campaigns.replay import record, replay, told_before_durable
from storage.rows import Entry
from storage.writer import IndexWriter


def test_a_crash_at_every_prefix_loses_nothing_acknowledged(tmp_path: Path) -> None:
    recording = record(tmp_path)
    acknowledged = sum(event.kind == "ack" for event in recording.trace.events)
    assert acknowledged >= 16
    bad = replay(recording, seeds=2)
    assert not bad, "\n".join(f"prefix {length}, seed {seed}: {verdict}" for length, seed, verdict in bad[:5])
    assert told_before_durable(recording) == []


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
