"""An archive in memory, and hooks that only remember: for tests and benchmarks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from dicom_node.dimse.association import AssociationContext
from storage.errors import StorageError


class Outcome(Enum):
    """The archive's outcomes."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    OWN_RESULT = "own result"
    CONFLICT = "conflict"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class MemoryReceipt:
    outcome: Outcome
    sop_uid: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StoredBytes:
    sop_class_uid: str
    transfer_syntax_uid: str
    data: bytes


@dataclass
class MemoryArchive:
    """Keeps instances in a dict; ``fail`` may raise, at ``begin``, ``write`` or ``commit``."""

    instances: dict[str, StoredBytes] = field(default_factory=dict)
    abandoned: list[str] = field(default_factory=list)
    sessions: int = 0
    fail: Callable[[str, str], None] = lambda step, uid: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def session(self, context: AssociationContext) -> MemorySession:
        with self.lock:
            self.sessions += 1
        return MemorySession(self)


@dataclass
class MemorySession:
    archive: MemoryArchive

    def begin(self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> MemoryWriter:
        self.archive.fail("begin", sop_instance_uid)
        return MemoryWriter(self.archive, sop_class_uid, sop_instance_uid, transfer_syntax_uid)

    def close(self) -> None:
        with self.archive.lock:
            self.archive.sessions -= 1


@dataclass
class MemoryWriter:
    archive: MemoryArchive
    sop_class_uid: str
    sop_uid: str
    transfer_syntax_uid: str
    parts: list[bytes] = field(default_factory=list)

    def write(self, fragments: Sequence[memoryview | bytes], /) -> None:
        self.archive.fail("write", self.sop_uid)
        self.parts.extend(bytes(fragment) for fragment in fragments)

    def commit(self) -> MemoryReceipt:
        self.archive.fail("commit", self.sop_uid)
        new = StoredBytes(self.sop_class_uid, self.transfer_syntax_uid, b"".join(self.parts))
        with self.archive.lock:
            old = self.archive.instances.setdefault(self.sop_uid, new)
        if old is new:
            return MemoryReceipt(Outcome.STORED, self.sop_uid)
        if old.data == new.data:
            return MemoryReceipt(Outcome.DUPLICATE, self.sop_uid)
        return MemoryReceipt(Outcome.CONFLICT, self.sop_uid, "other content is stored under this UID")

    def abandon(self) -> None:
        with self.archive.lock:
            self.archive.abandoned.append(self.sop_uid)


class DiscardingWriter:
    """Counts, and keeps nothing."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.size = 0

    def write(self, fragments: Sequence[memoryview | bytes], /) -> None:
        for fragment in fragments:
            self.size += len(fragment)

    def commit(self) -> MemoryReceipt:
        return MemoryReceipt(Outcome.STORED, self.uid)

    def abandon(self) -> None:
        self.size = 0


class DiscardingSession:
    """A session that keeps nothing."""

    def __init__(self, context: AssociationContext) -> None:
        self.context = context

    def begin(self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> DiscardingWriter:
        return DiscardingWriter(sop_instance_uid)

    def close(self) -> None:
        return None


@dataclass
class RememberingHooks:
    """Association hooks that note their calls; ``error`` is raised by ``opened``."""

    events: list[tuple[str, str]] = field(default_factory=list)
    error: StorageError | None = None

    def opened(self, context: AssociationContext) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(("opened", context.calling_ae))

    def closed(self, context: AssociationContext, ended: str) -> None:
        self.events.append(("closed", ended))
