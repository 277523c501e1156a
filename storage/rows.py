"""The statements of an ingest, generated from the tables, and the rows they make. The caller holds the transaction.

They are plain SQL run through one function, so the group-committing writer uses them on its raw connection and a worker that stores
results uses them inside its own transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy import Table

from storage.flags import LACKS_MEMORY
from storage.headers import Header
from storage.schema import association, association_study, instance, location, patient, segment, series, study

Execute = Callable[[str, Sequence[Any]], Sequence[Sequence[Any]]]  # SQL with "?" for its parameters > rows

MIXED_PATIENTS = "instances disagree on PatientID"
CHUNK = 200  # rows of one statement
MEMORY_SIZE = 4096
TOUCH_SECONDS = 1.0  # how exact it is known when an association last sent for a study
INSTANCE_COLUMNS = (
    "sop_uid",
    "sop_class_uid",
    "study_pk",
    "series_pk",
    "transfer_syntax_uid",
    "instance_number",
    "image_type",
    "rows",
    "columns",
    "bits_allocated",
    "number_of_frames",
    "digest",
    "length",
    "received_at",
    "association_id",
    "calling_ae",
    "called_ae",
    "origin",
    "run_key",
)
LOCATION_COLUMNS = ("instance_pk", "segment_pk", "member_offset", "offset", "length", "meta_length")


@dataclass(slots=True)
class Place:
    """Where a member's bytes are. `segment_pk` is None until the segment's row is durable."""

    segment_name: str
    segment_pk: int | None
    member_offset: int
    offset: int
    length: int
    meta_length: int


@dataclass(frozen=True)
class Known:
    """The instance that stands in the index under a UID."""

    pk: int
    digest: str
    origin: str
    transfer_syntax_uid: str
    status: str
    study_uid: str


@dataclass(frozen=True, slots=True)
class Opening:
    """The row of an association, made with its first instance: no commit of its own."""

    id: str
    process: str
    calling_ae: str
    called_ae: str
    address: str
    opened_at: float
    lease_until: float


@dataclass(slots=True)
class Entry:
    """One instance on its way into the index, and what became of it.

    Attributes
    ----------
    opening : the association whose first instance it is
    pk : the row it got; None where `known` or `own` says why not
    known : the instance that bears its UID already
    own : the UID is one that this node made
    """

    header: Header
    sop_class_uid: str
    transfer_syntax_uid: str
    digest: str
    data_length: int
    received_at: float
    place: Place
    origin: str
    association_id: str | None = None
    calling_ae: str = ""
    called_ae: str = ""
    run_key: str | None = None
    may_be_own: bool = False
    opening: Opening | None = None
    pk: int | None = None
    known: Known | None = None
    own: bool = False
    segment_pk: int | None = field(default=None)
    error: BaseException | None = field(default=None)
    done: bool = field(default=False)


class StaleMemory(Exception):
    """A remembered study or series is no longer what it was: nothing of the transaction may stay."""


@dataclass(slots=True)
class Memory:
    """What a writer remembers between its transactions, to ask less.

    It may be wrong at any time (another process deletes a study, and its keys are given out again): the transaction that raises the
    study's revision checks what it used. Changed only by `keep`, after a commit.
    """

    parents: dict[tuple[str, str], Parents] = field(default_factory=dict)
    touched: dict[tuple[str, str], float] = field(default_factory=dict)
    learned: dict[tuple[str, str], Parents] = field(default_factory=dict)
    touching: dict[tuple[str, str], float] = field(default_factory=dict)

    def keep(self) -> None:
        """The transaction is durable."""
        if len(self.parents) > MEMORY_SIZE or len(self.touched) > MEMORY_SIZE:
            self.forget()
        self.parents |= self.learned
        self.touched |= self.touching
        self.drop()

    def drop(self) -> None:
        """The transaction is rolled back."""
        self.learned, self.touching = {}, {}

    def forget(self) -> None:
        self.parents, self.touched = {}, {}


def insert_group(execute: Execute, entries: Sequence[Entry], memory: Memory | None = None, *, lock: str = "") -> None:
    """Insert the rows of `entries`, whose UIDs all differ; sets `pk`, `known` or `own` of each. `lock` ends a SELECT of studies.

    With a `memory` every entry must come from outside (received, imported), and StaleMemory says that it was wrong.
    """
    memory = memory if memory is not None else Memory()
    taken = _without_own(execute, entries)
    parents = {
        key: memory.parents.get(key) or _learn(execute, key, group, memory, lock) for key, group in sorted(_by(taken, series_key).items())
    }
    for chunk in _chunks(taken):
        _insert_instances(execute, chunk, parents)
    stored = [entry for entry in taken if entry.pk is not None]
    for entry in taken:
        if entry.pk is None:
            entry.known = known_instance(execute, entry.header.sop_uid)
    _insert_locations(execute, stored)
    for group in _by([entry for entry in stored if entry.origin != "emitted"], lambda entry: entry.header.study_uid).values():
        _raise_revision(execute, group, parents)
    _touch_associations(execute, stored, memory)


def known_instance(execute: Execute, sop_uid: str) -> Known | None:
    """The instance of a UID, if there is one."""
    rows = execute(
        "SELECT instance.pk, instance.digest, instance.origin, instance.transfer_syntax_uid, instance.status, study.study_uid "
        "FROM instance JOIN study ON study.pk = instance.study_pk WHERE instance.sop_uid = ?",
        (sop_uid,),
    )
    return Known(*rows[0]) if rows else None


# -- instances and their places -----------------------------------------------------------------------------------------------------------


def _without_own(execute: Execute, entries: Sequence[Entry]) -> list[Entry]:
    suspects = [entry for entry in entries if entry.may_be_own]
    for chunk in _chunks(suspects):
        marks = ", ".join("?" * len(chunk))
        rows = execute(f"SELECT sop_uid FROM emitted WHERE sop_uid IN ({marks})", [entry.header.sop_uid for entry in chunk])
        made = {row[0] for row in rows}
        for entry in chunk:
            entry.own = entry.header.sop_uid in made
    return [entry for entry in entries if not entry.own]


def _insert_instances(execute: Execute, entries: Sequence[Entry], parents: dict[tuple[str, str], Parents]) -> None:
    values: list[Any] = []
    for entry in entries:
        values += instance_values(entry, parents[series_key(entry)])
    rows = execute(_insert(instance, INSTANCE_COLUMNS, len(entries), "ON CONFLICT DO NOTHING RETURNING sop_uid, pk"), values)
    inserted = {row[0]: row[1] for row in rows}
    for entry in entries:
        entry.pk = inserted.get(entry.header.sop_uid)


def instance_values(entry: Entry, parents: Parents) -> tuple[Any, ...]:
    """The values of `INSTANCE_COLUMNS`."""
    return (
        *(entry.header.sop_uid, entry.sop_class_uid, parents.study_pk, parents.series_pk, entry.transfer_syntax_uid),
        *entry.header.instance(),
        *(entry.digest, entry.data_length, entry.received_at, entry.association_id, entry.calling_ae, entry.called_ae),
        *(entry.origin, entry.run_key),
    )


def location_values(entry: Entry, segment_pk: int | None) -> tuple[Any, ...]:
    """The values of `LOCATION_COLUMNS` but the first."""
    place = entry.place
    return segment_pk, place.member_offset, place.offset, place.length, place.meta_length


def _insert_locations(execute: Execute, entries: Sequence[Entry]) -> None:
    for chunk in _chunks(entries):
        values: list[Any] = []
        for entry in chunk:
            place = entry.place
            entry.segment_pk = place.segment_pk if place.segment_pk is not None else _segment(execute, entry)
            values += (entry.pk, *location_values(entry, entry.segment_pk))
        execute(_insert(location, LOCATION_COLUMNS, len(chunk), ""), values)


def _segment(execute: Execute, entry: Entry) -> int:
    execute(
        _insert(segment, ("name", "study_uid", "created_at"), 1, "ON CONFLICT DO NOTHING"),
        (entry.place.segment_name, entry.header.study_uid, entry.received_at),
    )
    return int(execute("SELECT pk FROM segment WHERE name = ?", (entry.place.segment_name,))[0][0])


# -- patient, study, series -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parents:
    study_pk: int
    series_pk: int
    patient_id: str


def _learn(execute: Execute, key: tuple[str, str], entries: Sequence[Entry], memory: Memory, lock: str) -> Parents:
    found = memory.learned[key] = _parents(execute, entries, lock)
    return found


def _parents(execute: Execute, entries: Sequence[Entry], lock: str) -> Parents:
    header = entries[0].header
    found = _find_parents(execute, header, lock)
    if found is None:
        _insert_parents(execute, entries)
        found = _find_parents(execute, header, lock)
        assert found is not None
    return found


def _find_parents(execute: Execute, header: Header, lock: str) -> Parents | None:
    rows = execute(
        "SELECT study.pk, series.pk, patient.patient_id FROM study JOIN patient ON patient.pk = study.patient_pk "
        f"JOIN series ON series.study_pk = study.pk WHERE study.study_uid = ? AND series.series_uid = ?{lock}",
        (header.study_uid, header.series_uid),
    )
    return Parents(*rows[0]) if rows else None


def _insert_parents(execute: Execute, entries: Sequence[Entry]) -> None:
    header, at = entries[0].header, entries[0].received_at
    rows = execute("SELECT pk FROM study WHERE study_uid = ?", (header.study_uid,))
    if not rows:
        values = {"study_uid": header.study_uid, **header.study(), "patient_pk": _patient(execute, header)}
        # A study that only holds our own result objects has nothing to wait for.
        values |= {"first_received_at": at, "last_received_at": at}
        _insert_row(execute, study, values)
        rows = execute("SELECT pk FROM study WHERE study_uid = ?", (header.study_uid,))
    _insert_row(execute, series, {"series_uid": header.series_uid, "study_pk": rows[0][0], **header.series()})


def _patient(execute: Execute, header: Header) -> int:
    values = header.patient()
    values["anonymous_study"] = "" if values["patient_id"] else header.study_uid
    _insert_row(execute, patient, values)
    key = (values["patient_id"], values["issuer"], values["anonymous_study"])
    return int(execute("SELECT pk FROM patient WHERE patient_id = ? AND issuer = ? AND anonymous_study = ?", key)[0][0])


def _raise_revision(execute: Execute, entries: Sequence[Entry], parents: dict[tuple[str, str], Parents]) -> None:
    parent = parents[series_key(entries[0])]
    mixed = any(entry.header.patient_id != parent.patient_id for entry in entries)
    newest = max(entry.received_at for entry in entries)
    state, values = _imported(len(entries), newest) if all(entry.origin == "imported" for entry in entries) else ("state = 'RECEIVING'", ())
    children = {(parents[series_key(entry)].series_pk, entry.header.series_uid) for entry in entries}
    rows = execute(
        f"UPDATE study SET revision = revision + ?, {state}, "
        "last_received_at = CASE WHEN last_received_at < ? THEN ? ELSE last_received_at END"
        f"{_MIXED if mixed else ''} WHERE pk = ? AND study_uid = ?{_HAS_SERIES * len(children)} RETURNING pk",
        (
            *(len(entries), *values, newest, newest),
            *([MIXED_PATIENTS] if mixed else []),
            *(parent.study_pk, entries[0].header.study_uid),
            *(value for child in sorted(children) for value in child),
        ),
    )
    if not rows:
        raise StaleMemory


def _imported(count: int, at: float) -> tuple[str, tuple[Any, ...]]:
    """An import completes nothing: a study that nobody is sending stands as complete at its new revision, without a route job."""
    quiet = "state = 'COMPLETE' OR revision = 0"
    return (
        f"state = CASE WHEN {quiet} THEN 'COMPLETE' ELSE state END, "
        f"completed_revision = CASE WHEN {quiet} THEN revision + ? ELSE completed_revision END, "
        f"completed_at = CASE WHEN {quiet} THEN ? ELSE completed_at END, "
        f"complete_reason = CASE WHEN {quiet} THEN 'imported' ELSE complete_reason END"
    ), (count, at)


# A flag that is there stays, unless it is the one that gives way.
_MIXED = f", flag = COALESCE(CASE WHEN substr(flag, 1, {len(LACKS_MEMORY)}) <> '{LACKS_MEMORY}' THEN flag END, ?)"
_HAS_SERIES = " AND EXISTS (SELECT 1 FROM series WHERE series.pk = ? AND series.series_uid = ? AND series.study_pk = study.pk)"


def _touch_associations(execute: Execute, entries: Sequence[Entry], memory: Memory) -> None:
    for entry in entries:
        if entry.opening is not None:
            _insert_row(execute, association, asdict(entry.opening))
    sending = {(entry.association_id, entry.header.study_uid): entry.received_at for entry in entries if entry.association_id}
    for (association_id, study_uid), at in sorted(sending.items()):
        if 0 <= at - memory.touched.get((association_id, study_uid), 0.0) < TOUCH_SECONDS:
            continue
        memory.touching[association_id, study_uid] = at
        execute(
            f"INSERT INTO {association_study.name} (association_id, study_uid, last_at) SELECT id, ?, ? FROM association WHERE id = ? "
            "ON CONFLICT (association_id, study_uid) DO UPDATE SET last_at = excluded.last_at",
            (study_uid, at, association_id),
        )


# -- statements -------------------------------------------------------------------------------------------------------------------------


def _insert_row(execute: Execute, table: Table, values: dict[str, Any]) -> None:
    execute(_insert(table, tuple(values), 1, "ON CONFLICT DO NOTHING"), list(values.values()))


@lru_cache(maxsize=512)
def _insert(table: Table, columns: tuple[str, ...], rows: int, ending: str) -> str:
    names = ", ".join(f'"{table.c[column].name}"' for column in columns)
    marks = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table.name} ({names}) VALUES {', '.join([marks] * rows)} {ending}"


def series_key(entry: Entry) -> tuple[str, str]:
    return entry.header.study_uid, entry.header.series_uid


def _by(entries: Iterable[Entry], key: Callable[[Entry], Any]) -> dict[Any, list[Entry]]:
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return groups


def _chunks(entries: Sequence[Entry]) -> Iterable[Sequence[Entry]]:
    return (entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK))
