"""Workitems: Unified Procedure Steps (PS3.4 annex CC) and the states that they go through.

    SCHEDULED --claim--> IN PROGRESS --complete--> COMPLETED
        \\--cancel--------------\\----cancel-----> CANCELED

Final states never change. The Transaction UID that a performer claims a workitem with is its lock: who does not know it changes nothing.
Every function works in the caller's transaction, and raises :class:`~storage.errors.WorkitemRefused` with the status that the standard has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Executable, Row, and_, bindparam, delete, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from storage import outside, runs, workitem_events, workitem_values
from storage.errors import WorkitemRefused
from storage.headers import is_uid
from storage.jobs import JobQueue
from storage.matching import clause
from storage.query import Key
from storage.query_rows import element_test, is_wanted
from storage.schema import workitem, workitem_event, workitem_subscription
from storage.workitem_events import (
    ASSIGNED,
    CANCEL_REQUESTED,
    GLOBAL,
    PROGRESS_REPORT,
    STATE_REPORT,
    assigned_report,
    state_report,
    tell,
)
from storage.workitem_values import Json, columns_of, date_time, element, items, text

MAX_EXAMINED: Final = 100_000
ALREADY_CANCELED: Final = 0xB304
ALREADY_COMPLETED: Final = 0xB306
NO_LONGER_UPDATED: Final = 0xC300
WRONG_TRANSACTION: Final = 0xC301
ALREADY_IN_PROGRESS: Final = 0xC302
ONLY_CREATED_SCHEDULED: Final = 0xC303
NO_SUCH_WORKITEM: Final = 0xC307
NOT_IN_PROGRESS: Final = 0xC310
IS_COMPLETED: Final = 0xC311
PERFORMER_CHOOSES_NOT_TO: Final = 0xC312
_PERFORMERS: Final = frozenset({workitem_values.STATIONS, workitem_values.HUMANS})  # who names one assigns the workitem
_CANCEL_DETAILS: Final = ("0074100A", "0074100C", workitem_values.DISCONTINUATION, workitem_values.REASON)  # contact URI and name


class State(StrEnum):
    """Procedure Step State (0074,1000)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"

    @property
    def final(self) -> bool:
        return self in (State.COMPLETED, State.CANCELED)


@dataclass(frozen=True)
class Workitem:
    """A workitem as it is kept. ``transaction_uid`` is for comparison only, and never leaves the node."""

    pk: int
    uid: str
    state: State
    priority: str
    readiness: str
    label: str
    worklist_label: str
    scheduled_start: str
    study_uid: str
    run_pk: int | None
    performer: str | None
    created_by: str
    created_at: float
    updated_at: float
    final_at: float | None
    dataset: Json = field(repr=False)
    transaction_uid: str | None = field(repr=False)

    @classmethod
    def of(cls, row: Row[Any]) -> Workitem:
        named = row._mapping
        values = {name: named[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "state": State(values["state"])})

    @property
    def shown(self) -> Json:
        """The data set, with what stands in columns; without what only the run of a workitem knows."""
        return {**self.dataset, workitem_values.STATE: element("CS", self.state)}


_COLUMNS: Final = tuple(workitem.c[name] for name in Workitem.__dataclass_fields__)
# Made once: what SQLAlchemy has to know of a statement is then looked up, and not worked out for each.
_READ: Final = select(*_COLUMNS).where(workitem.c.uid == bindparam("which"))
_READ_LOCKED: Final = _READ.with_for_update()
_CHANGE: Final = update(workitem).where(workitem.c.pk == bindparam("which"), workitem.c.state == bindparam("was"))


@cache
def _creation(dialect: str) -> Executable:
    new = postgresql.insert(workitem) if dialect == "postgresql" else sqlite.insert(workitem)
    return new.on_conflict_do_nothing().returning(workitem.c.pk)


def create(
    connection: Connection, uid: str, dataset: Mapping[str, Any], *, by: str, now: float, run_pk: int | None = None
) -> tuple[Workitem, int]:
    """Keep a new workitem.

    Returns
    -------
    Workitem, int
        And B300 where it is not exactly as asked for, else 0.
    """
    if not is_uid(uid):
        raise WorkitemRefused(workitem_values.INVALID_ATTRIBUTE_VALUE, "the workitem's UID is no UID")
    made, warning = workitem_values.checked_creation(dataset, uid)
    made[workitem_values.MODIFIED_AT] = element("DT", date_time(now))
    columns = columns_of(made)
    values = {"uid": uid, "state": State.SCHEDULED.value, "dataset": made, "run_pk": run_pk, "created_by": by, "created_at": now}
    pk = connection.scalar(_creation(connection.dialect.name), {**values, "updated_at": now, **columns})
    if pk is None:
        raise WorkitemRefused(workitem_values.DUPLICATE_SOP_INSTANCE, "a workitem has this UID already")
    item = _created(pk, values, columns)
    tell(connection, item, STATE_REPORT, state_report(item), actor=by, now=now)
    _tell_assigned(connection, item, by, now)
    return item, warning


def _created(pk: int, values: Mapping[str, Any], columns: Mapping[str, Any]) -> Workitem:
    nothing = dict.fromkeys(("performer", "final_at", "transaction_uid"))
    known: dict[str, Any] = {**nothing, **values, "state": State.SCHEDULED, "updated_at": values["created_at"], **_kept(columns)}
    return Workitem(pk=pk, **known)


def _kept(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Of some columns those that a workitem shows."""
    return {name: value for name, value in columns.items() if name in Workitem.__dataclass_fields__}


def get(connection: Connection, uid: str, *, lock: bool = False) -> Workitem:
    """Read a workitem; with ``lock`` nobody else changes it until the transaction ends. Raises C307."""
    row = connection.execute(_READ_LOCKED if lock else _READ, {"which": uid}).one_or_none()
    if row is None:
        raise WorkitemRefused(NO_SUCH_WORKITEM, "there is no such workitem")
    return Workitem.of(row)


def change_state(
    connection: Connection, uid: str, state: str, transaction_uid: str, *, by: str, now: float, queue: JobQueue | None = None
) -> int:
    """Claim, complete or cancel a workitem; 0, or B304 or B306 where it is so already (PS3.4 table CC.1.1-2).

    With ``queue``, one of a run of this node that waits may be claimed too: the run is then its performer's.

    Raises
    ------
    WorkitemRefused
        C300, C301, C302, C303, C304, C307, C310; 0106H for a state that is none, 0124H for a workitem that this node performs itself.
    """
    item = get(connection, uid, lock=True)
    try:
        wanted = State(state)
    except ValueError:
        raise WorkitemRefused(workitem_values.INVALID_ATTRIBUTE_VALUE, "Procedure Step State is none of the four") from None
    if wanted is State.SCHEDULED:
        raise WorkitemRefused(ONLY_CREATED_SCHEDULED, "a workitem becomes SCHEDULED only by being created")
    if item.run_pk is not None and not item.state.final and queue is None:
        raise WorkitemRefused(workitem_values.NOT_AUTHORIZED, "this workitem is performed by the node itself")
    if not is_uid(transaction_uid):
        raise WorkitemRefused(WRONG_TRANSACTION, "the Transaction UID is missing")
    if wanted is State.IN_PROGRESS:
        _claim(connection, item, transaction_uid, by, now, queue)
        return 0
    return _finish(connection, item, wanted, transaction_uid, by, now, queue)


def _claim(connection: Connection, item: Workitem, transaction_uid: str, by: str, now: float, queue: JobQueue | None) -> None:
    if item.state.final:
        raise WorkitemRefused(NO_LONGER_UPDATED, f"the workitem is {item.state}, and stays so")
    ours = item.state is State.SCHEDULED and item.run_pk is not None and queue is not None
    if ours and item.readiness == "INCOMPLETE":
        raise WorkitemRefused(ALREADY_IN_PROGRESS, "its input is not complete yet")
    if ours and not outside.claim(connection, queue, item.run_pk, by, now=now):  # type: ignore[arg-type]
        raise WorkitemRefused(ALREADY_IN_PROGRESS, "the run has begun here, or has ended, or waits for another one")
    if item.state is State.IN_PROGRESS or not _move(
        connection, item, State.IN_PROGRESS, actor=by, now=now, transaction_uid=transaction_uid, performer=by
    ):
        raise WorkitemRefused(ALREADY_IN_PROGRESS, "the workitem is IN PROGRESS already")


def _finish(
    connection: Connection, item: Workitem, wanted: State, transaction_uid: str, by: str, now: float, queue: JobQueue | None
) -> int:
    if item.state is State.SCHEDULED:
        raise WorkitemRefused(NOT_IN_PROGRESS, "the workitem is not IN PROGRESS yet")
    if item.transaction_uid is not None and item.transaction_uid != transaction_uid:
        raise WorkitemRefused(WRONG_TRANSACTION, "the Transaction UID is not the one that it was claimed with")
    if item.state is wanted:
        return ALREADY_CANCELED if wanted is State.CANCELED else ALREADY_COMPLETED
    if item.state.final:
        raise WorkitemRefused(NO_LONGER_UPDATED, f"the workitem is {item.state}, and stays so")
    dataset = dict(item.dataset)
    if wanted is State.COMPLETED:
        workitem_values.check_completed(dataset)
    else:
        dataset = canceled(dataset, {}, now)
    if item.run_pk is not None and queue is not None:
        end = outside.complete if wanted is State.COMPLETED else outside.cancel
        if not end(connection, queue, item.run_pk, dataset, by, now=now):
            raise WorkitemRefused(NO_LONGER_UPDATED, "the run has ended meanwhile")
    _move(connection, item, wanted, actor=by, now=now, dataset=dataset)
    return 0


def canceled(dataset: Mapping[str, Any], details: Mapping[str, Any], now: float) -> Json:
    """A data set whose progress says when, and if that is known why, it was canceled."""
    progress = dict(next(iter(items(dataset, workitem_values.PROGRESS)), {}))
    progress |= {tag: details[tag] for tag in _CANCEL_DETAILS if tag in details}
    progress.setdefault(workitem_values.CANCELED_AT, element("DT", date_time(now)))
    return {**dataset, workitem_values.PROGRESS: element("SQ", progress)}


def _move(connection: Connection, item: Workitem, state: State, *, actor: str, now: float, **more: Any) -> bool:
    """Change the state, if it is still the one that was read, and tell everybody who watches."""
    values = {"state": state.value, "updated_at": now, "final_at": now if state.final else None, **more}
    if connection.execute(_CHANGE, {**values, "which": item.pk, "was": item.state.value}).rowcount == 0:
        return False
    moved = replace(item, **{**values, "state": state})
    tell(connection, moved, STATE_REPORT, state_report(moved), actor=actor, now=now)
    return True


def change(connection: Connection, uid: str, changes: Mapping[str, Any], transaction_uid: str = "", *, by: str, now: float) -> None:
    """Replace attributes of a workitem; of one IN PROGRESS only with its Transaction UID (PS3.4 CC.2.6).

    Raises
    ------
    WorkitemRefused
        C300, C301, C307, C310, or what is wrong with the values.
    """
    item = get(connection, uid, lock=True)
    given = transaction_uid or text(changes, workitem_values.TRANSACTION)
    if item.run_pk is not None and item.state is State.SCHEDULED:
        raise WorkitemRefused(workitem_values.NOT_AUTHORIZED, "this workitem is the node's own until somebody claims it")
    if item.state is State.SCHEDULED and given:
        raise WorkitemRefused(NOT_IN_PROGRESS, "the workitem is not IN PROGRESS yet, and has no Transaction UID")
    if item.state is not State.SCHEDULED and given != item.transaction_uid:
        raise WorkitemRefused(WRONG_TRANSACTION, f"the Transaction UID is {'not the right one' if given else 'missing'}")
    if item.state.final:
        raise WorkitemRefused(NO_LONGER_UPDATED, f"the workitem is {item.state}, and stays so")
    made = workitem_values.checked_changes(changes)
    dataset = {**item.dataset, **made, workitem_values.MODIFIED_AT: element("DT", date_time(now))}
    columns = columns_of(dataset)
    values = {"dataset": dataset, "updated_at": now, **columns}
    connection.execute(_CHANGE, {**values, "which": item.pk, "was": item.state.value})
    _tell_changes(connection, item, replace(item, **_kept(values)), made, by, now)


def refresh(connection: Connection, item: Workitem, made: Json, *, by: str, now: float) -> Workitem:
    """Replace attributes of the workitem of a run, which is this node's own to change; whoever watches is told as of any change."""
    dataset = {**item.dataset, **made, workitem_values.MODIFIED_AT: element("DT", date_time(now))}
    values = {"dataset": dataset, "updated_at": now, **columns_of(dataset)}
    connection.execute(_CHANGE, {**values, "which": item.pk, "was": item.state.value})
    changed = replace(item, **_kept(values))
    _tell_changes(connection, item, changed, made, by, now)
    return changed


def _tell_changes(connection: Connection, before: Workitem, item: Workitem, made: Json, by: str, now: float) -> None:
    if before.readiness != item.readiness:
        tell(connection, item, STATE_REPORT, state_report(item), actor=by, now=now)
    if workitem_values.PROGRESS in made:
        tell(connection, item, PROGRESS_REPORT, {workitem_values.PROGRESS: made[workitem_values.PROGRESS]}, actor=by, now=now)
    if _PERFORMERS.intersection(made):
        _tell_assigned(connection, item, by, now)


def _tell_assigned(connection: Connection, item: Workitem, by: str, now: float) -> None:
    content = assigned_report(item)
    if content:
        tell(connection, item, ASSIGNED, content, actor=by, now=now)


def request_cancel(
    connection: Connection, queue: JobQueue, uid: str, details: Mapping[str, Any] | None = None, *, by: str, now: float
) -> int:
    """Ask for a workitem to be canceled: at once while it waits or this node performs it, else its performer is told; 0, or B304.

    Raises
    ------
    WorkitemRefused
        C307, C311; C312 where a run of this node has just ended and does not say so yet.
    """
    item = get(connection, uid, lock=True)
    if item.state is State.CANCELED:
        return ALREADY_CANCELED
    if item.state is State.COMPLETED:
        raise WorkitemRefused(IS_COMPLETED, "the workitem is COMPLETED already")
    given = {tag: value for tag, value in (details or {}).items() if tag in _CANCEL_DETAILS}
    content = {**given, "00741236": element("AE", by[:16])}  # Requesting AE
    if item.state is State.IN_PROGRESS and (item.run_pk is None or outside.performs(connection, item.run_pk)):
        tell(connection, item, CANCEL_REQUESTED, content, actor=by, now=now)
        return 0
    if item.run_pk is not None:
        _cancel_run(connection, queue, item, by, given, now)
    dataset = canceled(get(connection, uid).dataset, given, now)
    # The standard has no way from SCHEDULED to CANCELED but through IN PROGRESS (PS3.4 CC.2.2.3).
    if item.state is State.IN_PROGRESS or _move(
        connection, item, State.IN_PROGRESS, actor=by, now=now, transaction_uid=workitem_values.new_uid(), performer=by
    ):
        _move(connection, get(connection, uid), State.CANCELED, actor=by, now=now, dataset=dataset)
    return 0


def _cancel_run(connection: Connection, queue: JobQueue, item: Workitem, by: str, given: Mapping[str, Any], now: float) -> None:
    """End a run that waits or is under way here: its worker is refused what it brings."""
    assert item.run_pk is not None
    record = runs.get_run(connection, item.run_pk)
    reason = text(given, workitem_values.REASON)
    why = f"canceled by {by}, as workitem {item.uid}{f': {reason}' if reason else ''}"
    if record.state == "CANCELED":
        return
    ended = record.state not in runs.WAITING
    if ended or (record.job_pk is not None and not queue.cancel(record.job_pk, why, running=True, connection=connection)):
        raise WorkitemRefused(PERFORMER_CHOOSES_NOT_TO, "the run has ended, and its workitem is about to say so")
    runs.cancel_run(connection, record.pk, why, now=now)


# --- search


_MATCHED: Final = {
    workitem_values.SOP_INSTANCE: workitem.c.uid,
    workitem_values.STATE: workitem.c.state,
    workitem_values.PRIORITY: workitem.c.priority,
    workitem_values.READINESS: workitem.c.readiness,
    workitem_values.LABEL: workitem.c.label,
    workitem_values.WORKLIST: workitem.c.worklist_label,
    workitem_values.START: workitem.c.scheduled_start,
    workitem_values.PATIENT_ID: workitem.c.patient_id,
}


def search(
    connection: Connection, keys: Sequence[Key], *, fuzzy: bool = False, offset: int = 0, limit: int | None = None
) -> list[Workitem]:
    """Find workitems, the earliest due first; sequences match as PS3.4 C.2.2.2.6 says."""
    conditions, tests = [], []
    for key in keys:
        name = f"{key.tag:08X}"
        if not is_wanted(key, key.vr):
            continue
        if name in _MATCHED:
            conditions.append(clause(_MATCHED[name], key.value, key.vr))
        else:
            tests.append((name, element_test(key, fuzzy=fuzzy)))
    query = select(*_COLUMNS).where(*conditions).order_by(workitem.c.scheduled_start, workitem.c.pk)
    if not tests:
        rows = connection.execute(query.offset(offset).limit(limit))
        return [Workitem.of(row) for row in rows]
    matched = [item for item in _examined(connection, query) if all(test(item.shown.get(name, {})) for name, test in tests)]
    return matched[offset : None if limit is None else offset + limit]


def _examined(connection: Connection, query: Any) -> Iterator[Workitem]:
    for row in connection.execute(query.limit(MAX_EXAMINED)):
        yield Workitem.of(row)


def list_items(connection: Connection, *, state: str | None = None, study_uid: str | None = None, limit: int = 50) -> list[Workitem]:
    """The newest workitems."""
    conditions: list[ColumnElement[bool]] = []
    if state:
        conditions.append(workitem.c.state == state)
    if study_uid:
        conditions.append(workitem.c.study_uid == study_uid)
    rows = connection.execute(select(*_COLUMNS).where(*conditions).order_by(workitem.c.pk.desc()).limit(limit))
    return [Workitem.of(row) for row in rows]


def purge(connection: Connection, before: float, *, locked_before: float, limit: int = 500) -> int:
    """Remove workitems that have been final since ``before``, those that a subscriber locks since ``locked_before`` only."""
    subscription = workitem_subscription.c
    locks = and_(subscription.deletion_lock, or_(subscription.target == workitem.c.uid, subscription.target == GLOBAL))
    kept = and_(workitem.c.final_at >= locked_before, exists().where(locks))
    which = select(workitem.c.pk, workitem.c.uid).where(workitem.c.final_at < before, ~kept).limit(limit)
    gone = connection.execute(which).all()
    if gone:
        pks = [row.pk for row in gone]
        connection.execute(delete(workitem_subscription).where(subscription.target.in_([row.uid for row in gone])))
        connection.execute(delete(workitem_event).where(workitem_event.c.workitem_pk.in_(pks)))
        connection.execute(delete(workitem).where(workitem.c.pk.in_(pks)))
    connection.execute(workitem_events.stale_notices(locked_before))
    return len(gone)


def follow(connection: Connection, item: Workitem, state: State, *, by: str, now: float, dataset: Json | None = None) -> None:
    """Bring the workitem of a run where the run is."""
    values: dict[str, Any] = {"dataset": dataset} if dataset is not None else {}
    if item.state is State.SCHEDULED:
        _move(connection, item, State.IN_PROGRESS, actor=by, now=now, transaction_uid=workitem_values.new_uid(), performer=by)
        item = get(connection, item.uid)
    if state.final and not item.state.final:
        _move(connection, item, state, actor=by, now=now, **values)
