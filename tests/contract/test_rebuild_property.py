"""Whatever happens to an archive, killed at any step or not: its index rebuilt from bytes alone is the index it has.

Seeded random operations; a bomb counts every write, sync, lock, transaction and journal line, and kills the process at one of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from storage import journal, quarantine, quarantine_file, schema
from storage.archive import Archive, EmittedObject, Outcome, Source
from storage.database import Database, open_database
from storage.disk import Buffer, Disk
from storage.integrity import verify
from storage.reindex import reindex
from storage.writer import IndexWriter
from tests.datasets import CT, EXPLICIT, SEG, dataset
from tests.segments import listed

STUDIES = ("1.2.1", "1.2.2", "1.2.3")


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Bomb:
    """Counts steps; at the one it is set to, and at every later one, the process is dead."""

    fuse: int | None = None
    dead: bool = False

    def tick(self) -> None:
        if self.dead:
            raise Killed
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.dead = True
                raise Killed


class MortalDisk(Disk):
    """The real disk until the bomb goes off; remembers what is open, because a dead process's locks are gone."""

    def __init__(self, bomb: Bomb) -> None:
        self.bomb = bomb
        self.descriptors: set[int] = set()

    def create(self, path: Path) -> int:
        self.bomb.tick()
        descriptor = super().create(path)
        self.descriptors.add(descriptor)
        return descriptor

    def open(self, path: Path) -> int:
        self.bomb.tick()
        descriptor = super().open(path)
        self.descriptors.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        if not self.bomb.dead:
            self.descriptors.discard(descriptor)
            super().close(descriptor)

    def write(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        self.bomb.tick()
        return super().write(descriptor, buffers, offset)

    def zero(self, descriptor: int, start: int, length: int) -> None:
        self.bomb.tick()
        super().zero(descriptor, start, length)

    def punch(self, descriptor: int, start: int, length: int) -> None:
        self.bomb.tick()
        super().punch(descriptor, start, length)
        self.bomb.tick()

    def truncate(self, descriptor: int, size: int) -> None:
        self.bomb.tick()
        super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self.bomb.tick()
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self.bomb.tick()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self.bomb.tick()
        super().unlink(path)

    def die(self) -> None:
        for descriptor in self.descriptors:
            with suppress(OSError):
                os.close(descriptor)


@dataclass
class World:
    """An archive, what it acknowledged, and the operations on it."""

    root: Path
    url: str
    random: random.Random
    bomb: Bomb = field(default_factory=Bomb)
    held: dict[str, int] = field(default_factory=dict)  # sop uid > fill, of what was acknowledged and not deleted
    touched: set[str] = field(default_factory=set)  # by the operation that runs
    clock: float = 1_760_000_000.0

    def now(self) -> float:
        self.clock += 0.25
        return self.clock

    def open(self) -> None:
        self.bomb.fuse, self.bomb.dead = None, False
        self.database = open_database(self.url)
        self.disk = MortalDisk(self.bomb)
        self.archive = Archive.open(self.root, self.database, process="test", clock=self.now, disk=self.disk)
        self.archive.recover()

    def close(self) -> None:
        self.archive.close()
        self.database.close()

    def crash(self) -> None:
        self.disk.die()
        self.archive.writer.close()
        self.database.close()

    # -- operations -----------------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        actions: list[Callable[[], None]] = [self.store] * 6 + [self.again, self.conflict, self.conflict, self.accept, self.discard]
        actions += [self.delete, self.delete, self.delete_study, self.seal, self.emit, self.abandoned]
        self.random.choice(actions)()

    def store(self) -> None:
        study = self.random.choice(STUDIES)
        self.send(f"{study}.1.{self.random.randrange(40)}", 1)

    def again(self) -> None:
        for sop_uid in self.some():
            self.send(sop_uid, self.held[sop_uid])

    def conflict(self) -> None:
        for sop_uid in self.some():
            self.send(sop_uid, self.random.randrange(2, 9))

    def accept(self) -> None:
        for entry in self.entries():
            self.touched = {entry.sop_uid}
            quarantine.accept(self.archive, entry.pk, who="me", reason="better")
            self.held[entry.sop_uid] = self.fill_of(entry.sop_uid)

    def discard(self) -> None:
        for entry in self.entries():
            quarantine.discard(self.archive, entry.pk, who="me", reason="worse")

    def delete(self) -> None:
        for sop_uid in self.some():
            self.touched = {sop_uid}
            self.archive.delete_instance(sop_uid, who="me", reason="asked")
            del self.held[sop_uid]

    def delete_study(self) -> None:
        study = self.random.choice(STUDIES)
        if self.random.random() < 0.5 and any(uid.startswith(study) for uid in self.held):
            self.touched = {uid for uid in self.held if uid.startswith(study)}
            self.archive.delete_study(study, who="me", reason="asked")
            self.held = {uid: fill for uid, fill in self.held.items() if uid not in self.touched}

    def seal(self) -> None:
        self.archive.seal_study(self.random.choice(STUDIES))

    def emit(self) -> None:
        study, number = self.random.choice(STUDIES), self.random.randrange(10**6)
        sop_uid = f"{study}.9.{number}"
        self.touched = {sop_uid}
        data = dataset(study, f"{study}.9", sop_uid, sop_class=SEG, modality="SEG", pixels=b"\5" * 800)
        made = EmittedObject(SEG, sop_uid, study, f"{study}.9", EXPLICIT, data, run_key=f"run{number}")
        self.archive.store_emitted([made], in_transaction=lambda connection: None)
        self.held[sop_uid] = 5

    def abandoned(self) -> None:
        session = self.archive.session(Source(None, "SCANNER", "NODE", "127.0.0.1", "received"))
        study = self.random.choice(STUDIES)
        writer = session.begin(sop_class_uid=CT, sop_instance_uid=f"{study}.1.999", transfer_syntax_uid=EXPLICIT)
        writer.write([self.data(f"{study}.1.999", 1)[: self.random.randrange(100, 9000)]])
        writer.abandon()
        session.close()

    # -- what they need -------------------------------------------------------------------------------------------------------------

    def data(self, sop_uid: str, fill: int) -> bytes:
        study = sop_uid.rsplit(".", 2)[0]
        size = 500 + 7919 * (len(sop_uid) * 31 + fill) % 9001
        return dataset(study, f"{study}.1", sop_uid, pixels=bytes([fill]) * (size // 2 * 2))

    def send(self, sop_uid: str, fill: int) -> None:
        if sop_uid.split(".")[-2] == "9":
            return
        self.touched = {sop_uid}
        source = Source(None, f"SCANNER{fill}", "NODE", "127.0.0.1", self.random.choice(["received", "imported"]))
        session = self.archive.session(source)
        writer = session.begin(sop_class_uid=CT, sop_instance_uid=sop_uid, transfer_syntax_uid=EXPLICIT)
        data = self.data(sop_uid, fill)
        cut = self.random.randrange(len(data))
        writer.write([data[:cut]])
        writer.write([memoryview(data)[cut:]])
        outcome = writer.commit().outcome
        session.close()
        if outcome is Outcome.STORED:
            assert sop_uid not in self.held
            self.held[sop_uid] = fill
        else:
            assert outcome is (Outcome.DUPLICATE if self.held[sop_uid] == fill else Outcome.CONFLICT)

    def some(self) -> list[str]:
        return self.random.sample(sorted(self.held), 1) if self.held else []

    def entries(self) -> list[quarantine.Quarantined]:
        found = quarantine.list_held(self.archive)
        return self.random.sample(found, 1) if found else []

    def fill_of(self, sop_uid: str) -> int:
        return self.archive.open_instance(sop_uid).read()[-1]

    # -- what must hold -------------------------------------------------------------------------------------------------------------

    def check(self, tmp_path: Path) -> None:
        live = rows(self.database)
        present = {row[0] for row in live}
        expected = set(self.held)
        assert present - self.touched == expected - self.touched
        self.held = {sop_uid: self.fill_of(sop_uid) for sop_uid in present}
        report = verify(self.archive)
        assert report.ok, report
        for path in (self.root / "segments").rglob("*.tar"):
            listed(path)
        self.archive.pool.close()
        path = tmp_path / f"rebuilt{self.clock}.sqlite"
        with closing(open_database(f"sqlite:///{path}", create=True)) as rebuilt:
            result = reindex(self.root, rebuilt)
            assert result.passed_over == []
            assert result.damaged == []
            assert rows(rebuilt) == live
            assert emitted(rebuilt) >= {row[0] for row in live if row[3] == "emitted"}
            assert held_entries(rebuilt) == held_entries(self.database)
        path.unlink()


def rows(database: Database) -> list[tuple[Any, ...]]:
    names = ("sop_uid", "digest", "revision", "origin", "received_at", "calling_ae", "called_ae", "run_key")
    query = select(*(schema.instance.c[name] for name in names)).order_by(schema.instance.c.sop_uid)
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


def emitted(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(select(schema.emitted.c.sop_uid)).scalars())


def held_entries(database: Database) -> list[tuple[Any, ...]]:
    columns = schema.quarantine.c
    query = select(columns.sop_uid, columns.digest, columns.kind, columns.calling_ae).where(columns.state == "HELD")
    with database.read() as connection:
        return sorted(tuple(row) for row in connection.execute(query))


@contextmanager
def armed(bomb: Bomb) -> Iterator[None]:
    """The bomb ticks at what does not pass through the disk, too."""
    with pytest.MonkeyPatch.context() as patch:

        def ticking(real: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                bomb.tick()
                result = real(*arguments, **named)
                if after:
                    bomb.tick()
                return result

            return call

        @contextmanager
        def begin(database: Database, **how: bool) -> Iterator[Connection]:
            bomb.tick()
            with real_begin(database, **how) as connection:
                yield connection
                bomb.tick()
            bomb.tick()

        real_begin = Database.begin
        patch.setattr(Database, "begin", begin)
        patch.setattr(IndexWriter, "_transact", ticking(IndexWriter._transact, after=True))
        patch.setattr(journal, "append", ticking(journal.append, after=True))
        patch.setattr(quarantine_file, "write", ticking(quarantine_file.write, after=True))
        yield


@pytest.mark.parametrize("seed", range(6))
def test_a_rebuild_gives_the_index(tmp_path: Path, database_url: str, seed: int) -> None:
    with closing(open_database(database_url)) as database:
        Archive.create(tmp_path / "archive", database).close()
    world = World(tmp_path / "archive", database_url, random.Random(seed))
    world.open()
    with armed(world.bomb):
        for _ in range(8):
            for _ in range(world.random.randrange(12)):
                world.step()
            world.bomb.fuse = world.random.randrange(60)
            try:
                while True:
                    world.step()
            except Killed:
                world.crash()
            world.open()
            world.check(tmp_path)
            world.touched = set()
    world.close()
