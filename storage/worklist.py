"""The worklist as people ask for it: search, filters, order, a page at a time; and who reads what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, column, func, select, table, tuple_, update

from storage import audit
from storage.errors import NotFound
from storage.schema import study, worklist, worklist_event
from storage.statements import plan_each_time
from storage.visibility import NO_LIMITS, Limits, seen, visible
from storage.worklist_upkeep import DELIVERY_STATES, RUN_STATES, folded, note

OPEN, READING, REVIEWED = "open", "reading", "reviewed"
MOST_COUNTED: Final = 999
MOST_TERMS: Final = 6
FEW: Final = 400  # matches of a search that are looked up one by one
_SEARCH = table("worklist_search", column("rowid"), column("worklist_search"))

ORDERS: Final[dict[str, tuple[str, ...]]] = {
    "urgency": ("rank", "arrived_at", "study_pk"),
    "patient": ("name_key", "study_pk"),
    "study": ("study_date", "study_pk"),
    "models": ("run_state", "arrived_at", "study_pk"),
    "findings": ("finding_count", "arrived_at", "study_pk"),
    "deliveries": ("delivery_state", "arrived_at", "study_pk"),
    "age": ("arrived_at", "study_pk"),
}

_running = [RUN_STATES.index(state) for state in ("SCHEDULED", "IN_PROGRESS")]
QUICK: Final[dict[str, ColumnElement[bool]]] = {
    "critical": and_(worklist.c.urgency > 0, worklist.c.urgency == 2, worklist.c.reading != REVIEWED),
    "urgent": and_(worklist.c.urgency > 0, worklist.c.reading != REVIEWED),
    "running": worklist.c.run_state.in_(_running),
    "failed": worklist.c.run_state == RUN_STATES.index("FAILED"),
    "undelivered": worklist.c.delivery_state == DELIVERY_STATES.index("FAILED"),
    "unread": worklist.c.reading == OPEN,
}


@dataclass(frozen=True)
class Seen:
    """What somebody saw of a study before deciding: who was reading it, and when its urgent finding was raised (None: it had none)."""

    reading: str
    raised_at: float | None


class FoundMeanwhile(Exception):
    """Something urgent was found since the page was made, which nobody has seen yet."""


class ReadByOther(Exception):
    """Somebody else reads the study, or has read it, since the page was made. ``who`` is their name."""

    def __init__(self, who: str, state: str) -> None:
        super().__init__(f"{who}: {state}")
        self.who = who
        self.state = state


@dataclass(frozen=True)
class Entry:
    """A row of the worklist; see :data:`storage.schema.worklist`."""

    study_pk: int
    study_uid: str
    urgency: int
    raised_at: float | None
    alerts: list[dict[str, str]]
    arrived_at: float
    changed_at: float
    name: str
    patient_id: str
    birth_date: str
    sex: str
    study_date: str
    study_time: str
    description: str
    accession_number: str
    modalities: str
    series: int
    instances: int
    state: str
    flag: str | None
    models: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    deliveries: list[dict[str, str]]
    reading: str
    reader: str | None
    read_at: float | None

    @property
    def kinds(self) -> list[str]:
        """The modalities of what was received."""
        return [each for each in self.modalities.split("\\") if each]


@dataclass(frozen=True)
class Search:
    """What somebody wants to see.

    Attributes
    ----------
    text : words that all have to stand in name, patient ID, accession number or description
    quick : one of `QUICK`
    since : the earliest time of arrival
    sort, descending : one of `ORDERS`, and its direction
    after, before : the key of a row behind, or before, which the page begins
    limits : of the account
    """

    text: str = ""
    quick: str = ""
    modality: str = ""
    since: float | None = None
    sort: str = "urgency"
    descending: bool = True
    after: int | None = None
    before: int | None = None
    size: int = 50
    limits: Limits = NO_LIMITS


@dataclass(frozen=True)
class Page:
    """Rows, and whether there are others before and behind them."""

    entries: tuple[Entry, ...]
    earlier: bool
    later: bool


_ENTRY = [worklist.c[field.name] for field in fields(Entry)]


def find(connection: Connection, search: Search) -> Page:
    """One page of what is wanted."""
    plan_each_time(connection)
    key = search.before if search.before is not None else search.after
    order = [worklist.c[name] for name in ORDERS[search.sort]]
    mark = None if key is None else connection.execute(select(*order).where(worklist.c.study_pk == key)).one_or_none()
    backwards = search.before is not None and mark is not None
    falling = search.descending != backwards
    query = select(*_ENTRY).where(*_conditions(connection, search))
    if mark is not None:
        here, there = tuple_(*order), tuple_(*mark)
        query = query.where(here < there if falling else here > there)
    query = query.order_by(*(each.desc() if falling else each.asc() for each in order)).limit(search.size + 1)
    rows = [Entry(*row) for row in connection.execute(query)]
    more, rows = len(rows) > search.size, rows[: search.size]
    if backwards:
        return Page(tuple(reversed(rows)), more, True)
    return Page(tuple(rows), mark is not None, more)


def get(connection: Connection, study_uid: str, limits: Limits = NO_LIMITS) -> Entry | None:
    """A study's row; None where it has none, or it is not for the account to see."""
    query = select(*_ENTRY).where(worklist.c.study_uid == study_uid, *seen(connection, limits, worklist.c.study_pk))
    row = connection.execute(query).one_or_none()
    return None if row is None else Entry(*row)


def counts(connection: Connection, search: Search, most: int = MOST_COUNTED) -> dict[str, int]:
    """How many each quick filter would show, of what else is wanted; ``most + 1``: more than are counted."""
    plan_each_time(connection)
    which = _conditions(connection, replace(search, quick=""))
    found = {}
    for name, condition in QUICK.items():
        few = select(worklist.c.study_pk).where(condition, *which).limit(most + 1).subquery()
        found[name] = connection.scalar(select(func.count()).select_from(few)) or 0
    return found


def modalities(connection: Connection, limits: Limits = NO_LIMITS) -> list[str]:
    """The modalities that there are, among the newest studies that an account may see."""
    newest = select(worklist.c.modalities).where(*seen(connection, limits, worklist.c.study_pk))
    newest = newest.order_by(worklist.c.arrived_at.desc(), worklist.c.study_pk.desc()).limit(2000)
    rows = connection.scalars(select(newest.subquery().c.modalities).distinct())
    return sorted({each for row in rows for each in row.split("\\") if each})


def _conditions(connection: Connection, search: Search) -> list[ColumnElement[bool]]:
    found = [*seen(connection, search.limits, worklist.c.study_pk), *_text(connection, search)]
    if search.quick:
        found.append(QUICK[search.quick])
    if search.modality:
        found.append(worklist.c.modalities.contains(f"\\{search.modality}\\", autoescape=True))
    if search.since is not None:
        found.append(worklist.c.arrived_at >= search.since)
    return found


def _text(connection: Connection, search: Search) -> list[ColumnElement[bool]]:
    terms = [folded(term) for term in search.text.replace("^", " ").split()[:MOST_TERMS]]
    terms = [term for term in terms if term]
    if not terms:
        return []
    plain = and_(*(worklist.c.search.contains(term, autoescape=True) for term in terms))
    if connection.dialect.name != "sqlite":
        return [plain]
    long = [term for term in terms if len(term) >= 3]
    if not long or not _searchable(connection):
        return [plain]
    wanted = " AND ".join('"' + term[at : at + 3].replace('"', '""') + '"' for term in long for at in range(min(len(term) - 2, 16)))
    matches = select(_SEARCH.c.rowid).where(_SEARCH.c.worklist_search.op("MATCH", is_comparison=True)(wanted)).limit(FEW + 1)
    pks = list(connection.scalars(matches))
    # Few are looked up; of many, the first page is soon full when one goes along the order.
    return [plain, worklist.c.study_pk.in_(pks)] if len(pks) <= FEW else [plain]


def _searchable(connection: Connection) -> bool:
    return connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'worklist_search'").first() is not None


# --- who reads what


def read(connection: Connection, study_uid: str, to: str, *, by: str, now: float, force: bool = False, seen: Seen | None = None) -> None:
    """Take a study to read, put it back, or say that it was read.

    Parameters
    ----------
    to : OPEN, READING or REVIEWED
    force : take it from who reads it
    seen : what the page showed; None: whatever it is now, that is meant

    Raises
    ------
    NotFound
        There is no such study.
    ReadByOther
        Somebody else is reading it, or has said something else of it than was ``seen``.
    FoundMeanwhile
        It was to be marked as read, and its urgent finding is newer than what was ``seen``.
    """
    columns = worklist.c.reading, worklist.c.reader, worklist.c.urgency, worklist.c.raised_at
    query = select(*columns).where(worklist.c.study_uid == study_uid)
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        raise NotFound(f"no study {study_uid}")
    if row.reading == READING and row.reader != by and not force:
        raise ReadByOther(row.reader or "", row.reading)
    if (row.reading, row.reader) == (to, by):
        return
    if seen is not None and not force and row.reading not in (seen.reading, to) and row.reader != by:
        raise ReadByOther(row.reader or "", row.reading)
    if seen is not None and to == REVIEWED and row.urgency and (row.raised_at or 0.0) > (seen.raised_at or 0.0):
        raise FoundMeanwhile
    values = {"reading": to, "reader": None if to == OPEN else by, "read_at": None if to == OPEN else now}
    values["rank"] = 0 if to == REVIEWED else row.urgency
    connection.execute(update(worklist).where(worklist.c.study_uid == study_uid).values(**values))
    audit.record(connection, f"study.{to}", actor=by, study_uid=study_uid, detail={"before": row.reading, "reader": row.reader}, at=now)
    note(connection, study_uid, "reading")


# --- what those who watch are told


@dataclass(frozen=True)
class Event:
    """Something changed: its number, the study (empty: none), and what of it."""

    pk: int
    study_uid: str
    kinds: str
    at: float


def newest_event(connection: Connection) -> int:
    """The number of the last event."""
    return connection.scalar(select(func.max(worklist_event.c.pk))) or 0


def events_after(connection: Connection, pk: int, limit: int = 500) -> Sequence[Event]:
    """The events after one, in their order."""
    query: Select[Any] = select(worklist_event).where(worklist_event.c.pk > pk).order_by(worklist_event.c.pk).limit(limit)
    return [Event(*row) for row in connection.execute(query)]


def can_resume(connection: Connection, pk: int) -> bool:
    """Whether all that came after an event is still kept."""
    oldest = connection.scalar(select(func.min(worklist_event.c.pk)))
    return pk <= newest_event(connection) and (oldest is None or pk >= oldest - 1)


def seen_by(connection: Connection, uids: Sequence[str], limits: Limits) -> set[str]:
    """Of some studies, those that an account may see."""
    condition = visible(limits)
    if condition is None:
        return set(uids)
    return set(connection.scalars(select(study.c.study_uid).where(study.c.study_uid.in_(list(uids)), condition)))
