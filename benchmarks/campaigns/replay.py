"""Trace replay: the archive's writes and syncs are recorded, then a crash is tried at every prefix of the trace.

What was synced before the crash stands. Of what was not, each write is kept, lost or torn, in any order, by a seeded choice. The index is
taken as the database was after the last commit that returned. Recovery then runs on the result, and what was acknowledged must be there.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.campaigns.check import Verdict, check, facts, rebuilt_differs
from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, Identity, template
from benchmarks.load import Plan
from storage.archive import Archive, Outcome, Source
from storage.database import Database, open_database
from storage.disk import Buffer, Disk

SECTOR = 512
HELD = 8  # instances that one thread of the workload stores


@dataclass(frozen=True)
class Event:
    """One step of the trace: create, directory, write, allocate, zero, truncate, rename, unlink, sync, sync-directory,
    commit, ack, doom (its deletion begins: from here on it may be there or not) or gone (it must not be there any more)."""

    kind: str
    path: str = ""
    offset: int = 0
    length: int = 0
    data: bytes = field(default=b"", repr=False)
    covers: int = 0  # a sync: how many events stood before it began
    identity: Identity | None = None
    source: str = ""  # a rename: the name that goes


class Trace:
    """The events, in the order in which they took effect."""

    def __init__(self, root: Path, index: Path) -> None:
        self.root = root
        self.events: list[Event] = []
        self._lock = threading.RLock()
        self._watch = sqlite3.connect(index, check_same_thread=False)
        self._version = self._watch.execute("PRAGMA data_version").fetchone()[0]
        self.first_index = self._watch.serialize()

    def add(self, event: Event, action: Callable[[], Any] = lambda: None) -> Any:
        """Note a commit that happened since, then the event, then let it happen."""
        with self._lock:
            self._commits()
            self.events.append(event)
            return action()

    def mark(self) -> int:
        """Return how many events there are: what a sync that begins now covers."""
        with self._lock:
            self._commits()
            return len(self.events)

    def _commits(self) -> None:
        version = self._watch.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._version = version
            self.events.append(Event("commit", data=self._watch.serialize()))

    def note(self, kind: str, identity: Identity) -> None:
        """Note what a person was told, or asked for: an ack, doom or gone."""
        self.add(Event(kind, identity=identity))

    def relative(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def close(self) -> None:
        self._watch.close()


class RecordingDisk(Disk):
    """The real disk, with a trace. `syncing` false leaves every fdatasync out: the mutation that the replay must notice."""

    def __init__(self, trace: Trace, *, syncing: bool = True) -> None:
        self._trace = trace
        self._syncing = syncing
        self._paths: dict[int, str] = {}

    def create(self, path: Path) -> int:
        descriptor = int(self._trace.add(Event("create", self._trace.relative(path)), lambda: Disk.create(self, path)))
        self._paths[descriptor] = self._trace.relative(path)
        return descriptor

    def open(self, path: Path) -> int:
        descriptor = super().open(path)
        self._paths[descriptor] = self._trace.relative(path)
        return descriptor

    def make_directory(self, path: Path) -> bool:
        return bool(self._trace.add(Event("directory", self._trace.relative(path)), lambda: Disk.make_directory(self, path)))

    def write(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        data = b"".join(bytes(buffer) for buffer in buffers)
        event = Event("write", self._paths[descriptor], offset, len(data), data)
        return int(self._trace.add(event, lambda: Disk.write(self, descriptor, buffers, offset)))

    def allocate(self, descriptor: int, start: int, length: int, *, written: bool) -> None:
        event = Event("allocate", self._paths[descriptor], start, length)
        self._trace.add(event, lambda: Disk.allocate(self, descriptor, start, length, written=written))

    def zero(self, descriptor: int, start: int, length: int) -> None:
        self._trace.add(Event("zero", self._paths[descriptor], start, length), lambda: Disk.zero(self, descriptor, start, length))

    def punch(self, descriptor: int, start: int, length: int) -> None:
        self._trace.add(Event("zero", self._paths[descriptor], start, length), lambda: Disk.punch(self, descriptor, start, length))

    def truncate(self, descriptor: int, size: int) -> None:
        self._trace.add(Event("truncate", self._paths[descriptor], size), lambda: Disk.truncate(self, descriptor, size))

    def rename(self, source: Path, target: Path) -> None:
        event = Event("rename", self._trace.relative(target), source=self._trace.relative(source))
        self._trace.add(event, lambda: Disk.rename(self, source, target))

    def unlink(self, path: Path) -> None:
        self._trace.add(Event("unlink", self._trace.relative(path)), lambda: Disk.unlink(self, path))

    def sync(self, descriptor: int) -> None:
        if not self._syncing:
            return
        covers = self._trace.mark()
        super().sync(descriptor)
        self._trace.add(Event("sync", self._paths[descriptor], covers=covers))

    def sync_directory(self, path: Path) -> None:
        covers = self._trace.mark()
        super().sync_directory(path)
        self._trace.add(Event("sync-directory", self._trace.relative(path), covers=covers))


ASKED = ("ack", "doom", "gone")
CONTENT = {"write", "allocate", "zero", "truncate"}
NAMES = {"create", "directory", "rename", "unlink"}


def durable(events: Sequence[Event]) -> set[int]:
    """Return the indexes of the events that some sync among them made durable."""
    found: set[int] = set()
    for event in events:
        if event.kind not in {"sync", "sync-directory"}:
            continue
        for number, earlier in enumerate(events[: event.covers]):
            if event.kind == "sync" and earlier.kind in CONTENT and earlier.path == event.path:
                found.add(number)
            if event.kind == "sync-directory" and earlier.kind in NAMES and str(Path(earlier.path).parent) == event.path:
                found.add(number)
    return found


def crash(base: Path, target: Path, events: Sequence[Event], source: random.Random) -> None:
    """Make in `target` what a crash after `events` may leave of an archive that was `base` before them."""
    shutil.copytree(base, target)
    stands = durable(events)
    happened: list[Event] = []
    loose: list[Event] = []
    fate = source.choice(("lost", "kept", "mixed"))  # nothing, everything or something of what was not synced
    for number, event in enumerate(events):
        if event.kind not in CONTENT | NAMES:
            continue
        if number in stands:
            happened.append(event)
        elif fate == "kept" or (fate == "mixed" and source.random() < 0.5):
            loose.append(event)
    # Loose writes reach the disk in any order, but never over what was written later and synced.
    if fate == "mixed":
        source.shuffle(loose)
    order = {id(event): number for number, event in enumerate(events)}
    apply(target, sorted([*happened, *[event for event in loose if event.kind in NAMES]], key=lambda event: order[id(event)]))
    for event in loose:
        if event.kind in CONTENT:
            apply(target, [event])
            if fate == "mixed":
                tear(target / event.path, event, source)
            apply(target, [one for one in happened if one.path == event.path and order[id(one)] > order[id(event)]])


def apply(target: Path, events: Iterable[Event]) -> None:
    """Let events take effect on real files; one whose file has no name any more goes with it."""
    for event in events:
        path = target / event.path
        with suppress(FileNotFoundError):
            if event.kind == "directory":
                path.mkdir(exist_ok=True)
            elif event.kind == "create":
                path.touch(exist_ok=True)
            elif event.kind == "rename":
                (target / event.source).replace(path)
            elif event.kind == "unlink":
                path.unlink(missing_ok=True)
            else:
                change(path, event)


def change(path: Path, event: Event) -> None:
    """Let one change of a file's content take effect."""
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if event.kind == "truncate":
            file.truncate(event.offset)
        elif event.kind == "allocate":
            file.truncate(max(size, event.offset + event.length))
        else:
            file.seek(event.offset)
            file.write(event.data if event.kind == "write" else bytes(event.length))


def tear(path: Path, event: Event, source: random.Random) -> None:
    """Lose some sectors of a write that was on its way."""
    if event.kind != "write" or not path.exists():
        return
    with path.open("r+b") as file:
        for sector in range(event.offset // SECTOR + 1, (event.offset + event.length) // SECTOR):
            if source.random() < 0.2:
                file.seek(sector * SECTOR)
                file.write(bytes(SECTOR))


@dataclass
class Recording:
    """A workload's trace, and the archive as it was before."""

    base: Path
    trace: Trace


def open_index(path: Path) -> Database:
    return open_database(f"sqlite:///{path}")


def record(folder: Path, *, threads: int = 2, seed: int = 1, syncing: bool = True, early: bool = False) -> Recording:
    """Record a workload: instances from several associations, each with a duplicate, a conflict, an abandoned write and a deletion.

    `early` acknowledges before the commit: the mutation that the check must notice.
    """
    root, index = folder / "archive", folder / "index.sqlite"
    folder.mkdir(parents=True, exist_ok=True)
    database = open_database(f"sqlite:///{index}", create=True)
    Archive.create(root, database)
    base = folder / "base"
    shutil.copytree(root, base)
    trace = Trace(root, index)
    archive = Archive.open(root, database, process="replay", disk=RecordingDisk(trace, syncing=syncing))
    workers = [threading.Thread(target=store, args=(archive, trace, seed + number, early)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    archive.close()
    database.close()
    trace.close()
    return Recording(base, trace)


def store(archive: Archive, trace: Trace, seed: int, early: bool) -> None:
    """One association's part of the workload; one of its instances is deleted at once."""
    session = archive.session(Source(association_id=None, calling_ae="LOAD", called_ae="NODE", address="127.0.0.1", origin="received"))
    before: Identity | None = None
    for number, identity in enumerate(Plan("small", studies=2, per_study=HELD // 2, seed=seed).identities()):
        data = template("small").instance(identity)
        attempts = [data, data] if number == 2 else [data]  # the second is a duplicate
        if number == 3:
            attempts.append(data[:-1] + bytes([data[-1] ^ 1]))  # a conflict
        for attempt in attempts:
            writer = begin(session, identity)
            writer.write([memoryview(attempt)[:4000], memoryview(attempt)[4000:]])
            if early:
                trace.note("ack", identity)
            receipt = writer.commit()
            if receipt.outcome in (Outcome.STORED, Outcome.DUPLICATE) and not early:
                trace.note("ack", identity)
        if number == 4:
            torn = begin(session, identity)
            torn.write([data[:6000]])
            torn.abandon()
        if number == 5 and before is not None:
            trace.note("doom", before)
            archive.delete_instance(before.sop, who="replay", reason="a part of the workload")
            trace.note("gone", before)
        before = identity
    session.close()


def begin(session: Any, identity: Identity) -> Any:
    return session.begin(
        sop_class_uid=CT_IMAGE_STORAGE, sop_instance_uid=identity.sop, transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN
    )


def told_before_durable(recording: Recording) -> list[str]:
    """Return the instances that were acknowledged before their row was committed."""
    index, found = recording.trace.first_index, []
    for event in recording.trace.events:
        if event.kind == "commit":
            index = event.data
        elif event.kind == "ack" and event.identity is not None:
            with closing(sqlite3.connect(":memory:")) as connection:
                connection.deserialize(rollback_mode(index))
                row = connection.execute("SELECT 1 FROM instance WHERE sop_uid = ?", (event.identity.sop,)).fetchone()
            if row is None:
                found.append(event.identity.sop)
    return found


def rollback_mode(index: bytes) -> bytes:
    """Return a serialised database without its WAL flag, which a database in memory cannot have."""
    return index[:18] + b"\x01\x01" + index[20:]


def replay_prefix(recording: Recording, length: int, seed: int, folder: Path) -> Verdict:
    """Crash after `length` events, recover, judge."""
    events = recording.trace.events[:length]
    root, index = folder / "archive", folder / "index.sqlite"
    crash(recording.base, root, events, random.Random(f"{seed}/{length}"))
    commits = [event.data for event in events if event.kind == "commit"]
    index.write_bytes(rollback_mode(commits[-1] if commits else recording.trace.first_index))
    database = open_index(index)
    archive = Archive.open(root, database, process="recovery")
    archive.recover()
    archive.close()
    database.close()
    named = {kind: {event.identity.sop: event.identity for event in events if event.kind == kind and event.identity} for kind in ASKED}
    verdict = check(index, root, [identity for sop, identity in named["ack"].items() if sop not in named["doom"]])
    verdict.back_again = sorted(uid for uid in facts(index).keys() & named["gone"].keys())
    if named["doom"]:
        verdict.reindex_differs = rebuilt_differs(index, root)
    return verdict


def replay(recording: Recording, *, seeds: int = 1, every: int = 1) -> list[tuple[int, int, Verdict]]:
    """Try every prefix with `seeds` choices each; return those that lost something as (prefix, seed, verdict)."""
    bad = []
    for length in range(0, len(recording.trace.events) + 1, every):
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(dir=recording.base.parent) as made:
                verdict = replay_prefix(recording, length, seed, Path(made))
            if not verdict.good:
                bad.append((length, seed, verdict))
    return bad


def main() -> None:
    """Record and replay, and print what was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        recording = record(Path(made), threads=arguments.threads, seed=arguments.seed)
        bad = replay(recording, seeds=arguments.seeds)
        early = told_before_durable(recording)
        prefixes = len(recording.trace.events) + 1
    print(f"{prefixes} prefixes, {arguments.seeds} seeds each: {len(bad)} lost something; {len(early)} acknowledged before their row")
    for length, seed, verdict in bad[:10]:
        print(f"  prefix {length}, seed {seed}: {verdict}")
    if bad or early:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
