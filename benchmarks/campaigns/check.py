"""What must hold after any crash, judged from outside: plain SQL, plain reads, tarfile and BLAKE3."""

from __future__ import annotations

import sqlite3
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from benchmarks.instances import Identity, template
from storage.database import open_database
from storage.reindex import reindex

ROWS = (
    "SELECT i.sop_uid, i.digest, i.status, i.origin, s.name, l.offset, l.length, l.meta_length FROM instance i "
    "LEFT JOIN location l ON l.instance_pk = i.pk AND l.instance_revision = i.revision LEFT JOIN segment s ON s.pk = l.segment_pk"
)


@dataclass(frozen=True)
class Row:
    """One instance as the index tells it, with what its bytes say."""

    sop: str
    digest: str
    status: str
    origin: str
    data: bytes | None = field(repr=False)

    @property
    def sound(self) -> bool:
        """Are the bytes there, and do they match the row's digest?"""
        return self.data is not None and blake3(self.data).hexdigest() == self.digest


@dataclass
class Verdict:
    """What a check found."""

    acknowledged: int = 0
    rows: int = 0
    missing: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    without_bytes: list[str] = field(default_factory=list)
    broken_segments: list[str] = field(default_factory=list)
    reindex_differs: list[str] = field(default_factory=list)
    back_again: list[str] = field(default_factory=list)  # deleted, and in the index all the same

    @property
    def good(self) -> bool:
        return not (self.missing or self.altered or self.without_bytes or self.broken_segments or self.reindex_differs or self.back_again)

    def __str__(self) -> str:
        if self.good:
            return f"{self.acknowledged} acknowledged, {self.rows} rows: all there, byte-identical"
        parts = [f"{name}: {len(found)} {found[:3]}" for name, found in vars(self).items() if isinstance(found, list) and found]
        return f"{self.acknowledged} acknowledged, {self.rows} rows; " + "; ".join(parts)


def index_rows(index: Path, root: Path) -> Iterable[Row]:
    """Yield every instance of the index with its bytes, read at the place that the index names."""
    with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True, timeout=30)) as connection:
        rows = connection.execute(ROWS).fetchall()
    for sop, digest, status, origin, name, offset, length, meta in rows:
        data: bytes | None = None
        if name is not None and (root / name).exists():
            with (root / name).open("rb") as segment:
                segment.seek(offset + meta)
                data = segment.read(length - meta)
        yield Row(sop, digest, status, origin, data)


def check(index: Path, root: Path, acknowledged: Sequence[Identity]) -> Verdict:
    """Compare index and bytes with what was acknowledged."""
    verdict = Verdict(acknowledged=len(acknowledged))
    expected = {identity.sop: identity for identity in acknowledged}
    seen = set()
    for row in index_rows(index, root):
        verdict.rows += 1
        seen.add(row.sop)
        if not row.sound or row.status != "OK":
            verdict.without_bytes.append(row.sop)
        if row.sop in expected:
            identity = expected[row.sop]
            if row.data != template(identity.kind).instance(identity):
                verdict.altered.append(row.sop)
    verdict.missing = sorted(set(expected) - seen)
    verdict.broken_segments = broken_segments(root)
    return verdict


def broken_segments(root: Path) -> list[str]:
    """Return the segments that tar would not read to the end, or that hold a member shorter than it says."""
    broken = []
    for path in sorted(root.rglob("*.tar")):
        try:
            with tarfile.open(path) as segment:
                for member in segment:
                    if member.offset_data + member.size > path.stat().st_size:
                        broken.append(f"{path.name}: {member.name}")
        except tarfile.TarError as problem:
            broken.append(f"{path.name}: {problem}")
    return broken


def facts(index: Path) -> dict[str, tuple[object, ...]]:
    """Return what a rebuilt index must tell again, by SOP Instance UID."""
    query = (
        "SELECT i.sop_uid, t.study_uid, e.series_uid, i.sop_class_uid, i.transfer_syntax_uid, i.digest, i.length, i.origin, i.calling_ae, "
        "i.called_ae, i.instance_number, i.run_key FROM instance i JOIN study t ON t.pk = i.study_pk JOIN series e ON e.pk = i.series_pk"
    )
    with closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True, timeout=30)) as connection:
        return {row[0]: tuple(row[1:]) for row in connection.execute(query)}


def differences(before: dict[str, tuple[object, ...]], after: dict[str, tuple[object, ...]]) -> list[str]:
    """Return what two indexes tell differently."""
    found = [f"lost {uid}" for uid in before.keys() - after.keys()]
    found += [f"new {uid}" for uid in after.keys() - before.keys()]
    found += [f"changed {uid}: {before[uid]} -> {after[uid]}" for uid in before.keys() & after.keys() if before[uid] != after[uid]]
    return sorted(found)


def rebuilt_differs(index: Path, root: Path) -> list[str]:
    """Rebuild an index from the bytes alone, beside the old one, and return what it tells differently. Nothing may be running."""
    with tempfile.TemporaryDirectory() as made:
        other = Path(made) / "rebuilt.sqlite"
        database = open_database(f"sqlite:///{other}", create=True)
        try:
            reindex(root, database)
        finally:
            database.close()
        return differences(facts(index), facts(other))
