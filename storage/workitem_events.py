"""Who watches workitems, and the reports on their way to them (PS3.4 CC.2.3, CC.2.4).

A report is a row of the workitem's own history, and a notice for each subscriber, in the transaction of the fact that it tells. A notice
goes when it was sent: what a subscriber misses while it is away waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Delete, Row, bindparam, delete, func, insert, or_, select, update

from storage import workitem_values as values
from storage.errors import WorkitemRefused
from storage.query import Key
from storage.query_rows import element_test
from storage.schema import workitem, workitem_event, workitem_notice, workitem_subscription
from storage.statements import insert_or_update
from storage.workitem_owners import refuse_stranger
from storage.workitem_values import Json

if TYPE_CHECKING:
    from storage.workitems import Workitem

GLOBAL: Final = "1.2.840.10008.5.1.4.34.5"
FILTERED: Final = "1.2.840.10008.5.1.4.34.5.1"
STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, SCP_STATUS_CHANGE, ASSIGNED = 1, 2, 3, 4, 5
WEB, DIMSE = "web", "dimse"
FIRST_REPORTS: Final = 10_000  # to a new global subscriber
NOT_APPROPRIATE: Final = 0xC314
MAX_KEYS: Final = 20  # of a filter: it is matched with each event


_HAPPENED: Final = insert(workitem_event)
_NOTICE: Final = insert(workitem_notice)
_WATCHERS: Final = select(workitem_subscription).where(
    or_(workitem_subscription.c.target == bindparam("uid"), workitem_subscription.c.target.in_((GLOBAL, FILTERED)))
)


@dataclass(frozen=True)
class Notice:
    """A report for a subscriber: ``content`` is DICOM JSON."""

    pk: int
    aet: str
    uid: str
    type: int
    content: Json


def state_report(item: Workitem) -> Json:
    """The content of a UPS State Report (PS3.4 table CC.2.4-1)."""
    content = {values.READINESS: values.element("CS", item.readiness), values.STATE: values.element("CS", item.state)}
    for tag in (values.DISCONTINUATION, values.REASON):
        for progress in values.items(item.dataset, values.PROGRESS)[:1]:
            if tag in progress:
                content[tag] = progress[tag]
    return content


def assigned_report(item: Workitem) -> Json:
    """The content of a UPS Assigned event: the stations and people that are to perform it; nothing where none is named."""
    people = values.items(item.dataset, values.HUMANS)
    content = {values.STATIONS: item.dataset[values.STATIONS]} if values.items(item.dataset, values.STATIONS) else {}
    codes = [code for person in people for code in values.items(person, values.HUMAN_CODES)]
    organizations = [name for person in people if (name := values.text(person, values.ORGANIZATION))]
    if codes:
        content[values.HUMAN_CODES] = values.element("SQ", *codes)
    if organizations:
        content[values.ORGANIZATION] = values.element("LO", organizations[0])
    return content


def tell(connection: Connection, item: Workitem, kind: int, content: Json, *, actor: str, now: float) -> None:
    """Record what happened to a workitem, and leave a notice for everybody who watches it."""
    connection.execute(_HAPPENED, {"workitem_pk": item.pk, "at": now, "type": kind, "actor": actor, "content": content})
    found: dict[str, dict[str, Row[Any]]] = {}
    for row in connection.execute(_WATCHERS, {"uid": item.uid}):
        found.setdefault(row.aet, {})[row.target] = row
    told = {aet: watching.channel for aet, rows in found.items() if (watching := _watching(rows, item)) is not None}
    if told:
        about = {"uid": item.uid, "type": kind, "content": content, "at": now}
        connection.execute(_NOTICE, [{"aet": aet, "channel": channel, **about} for aet, channel in told.items()])


def _watching(rows: Mapping[str, Row[Any]], item: Workitem) -> Row[Any] | None:
    if item.uid in rows:
        return rows[item.uid] if rows[item.uid].active else None
    for target in (GLOBAL, FILTERED):
        row = rows.get(target)
        if row is None or (row.suspended_at is not None and row.suspended_at < item.created_at):
            continue
        if target == GLOBAL or _passes(row.filter, item.shown):
            return row
    return None


def subscribe(
    connection: Connection,
    aet: str,
    target: str,
    *,
    channel: str,
    deletion_lock: bool = False,
    matching: Sequence[Key] = (),
    owner: str | None = None,
    now: float,
) -> None:
    """Let an AE title watch a workitem, all of them, or those that match; it is told at once how they stand.

    Of all, it is told of those that are not final, and with a deletion lock of every one; at most of the newest `FIRST_REPORTS`.

    Raises
    ------
    WorkitemRefused
        C307: there is no such workitem. 0106H: what is to be matched cannot be. 0124H: the AE title is another ``owner``'s.
    """
    from storage import workitems

    _check(matching)
    refuse_stranger(connection, aet, channel, owner)
    if target in (GLOBAL, FILTERED):
        query = select(workitem).order_by(workitem.c.pk.desc()).limit(FIRST_REPORTS)
        rows = connection.execute(query if deletion_lock else query.where(workitem.c.final_at.is_(None))).all()
        watched: Iterable[Workitem] = [workitems.Workitem.of(row) for row in reversed(rows)]
        connection.execute(delete(workitem_subscription).where(_of(aet), ~workitem_subscription.c.active))
    else:
        watched = [workitems.get(connection, target)]
    kept = [packed(key) for key in matching] if target == FILTERED else None
    row: dict[str, Any] = {"active": True, "channel": channel, "deletion_lock": deletion_lock, "filter": kept, "suspended_at": None}
    row["owner"] = owner
    both = {**row, "aet": aet, "target": target, "created_at": now}
    connection.execute(insert_or_update(connection, workitem_subscription, ["aet", "target"], both, row))
    about = {"aet": aet, "channel": channel, "type": STATE_REPORT, "at": now}
    told = [item for item in watched if target != FILTERED or _passes(kept, item.shown)]
    if told:
        connection.execute(_NOTICE, [{**about, "uid": item.uid, "content": state_report(item)} for item in told])


def tell_of_restart(connection: Connection, channel: str, *, now: float) -> int:
    """Leave an SCP Status Change for everybody who watches over a channel: subscriptions and workitems are as they were."""
    own, notice = workitem_subscription.c, workitem_notice.c
    aets = connection.scalars(select(own.aet).where(own.channel == channel, own.active).distinct().order_by(own.aet)).all()
    if aets:
        connection.execute(delete(workitem_notice).where(notice.channel == channel, notice.type == SCP_STATUS_CHANGE))
        content = {"00741242": values.element("CS", "RESTARTED")}
        content |= {tag: values.element("CS", "WARM START") for tag in ("00741244", "00741246")}
        about = {"channel": channel, "uid": GLOBAL, "type": SCP_STATUS_CHANGE, "content": content, "at": now}
        connection.execute(_NOTICE, [{"aet": aet, **about} for aet in aets])
    return len(aets)


def unsubscribe(connection: Connection, aet: str, target: str, *, now: float) -> None:
    """End a subscription; that of a workitem also while all others stay watched. What was not sent yet is not sent any more."""
    if target in (GLOBAL, FILTERED):
        connection.execute(delete(workitem_subscription).where(_of(aet)))
        connection.execute(delete(workitem_notice).where(workitem_notice.c.aet == aet))
        return
    from storage import workitems

    workitems.get(connection, target)
    own = _of(aet), workitem_subscription.c.target == target
    subscribed = workitem_subscription.c.channel, workitem_subscription.c.owner
    everything = select(*subscribed).where(_of(aet), workitem_subscription.c.target.in_((GLOBAL, FILTERED)))
    found = connection.execute(everything.limit(1)).one_or_none()
    if found is None:
        connection.execute(delete(workitem_subscription).where(*own))
    else:
        row = {"active": False, "deletion_lock": False}
        both = {**row, "aet": aet, "target": target, "channel": found.channel, "owner": found.owner, "created_at": now}
        connection.execute(insert_or_update(connection, workitem_subscription, ["aet", "target"], both, row))
    connection.execute(delete(workitem_notice).where(workitem_notice.c.aet == aet, workitem_notice.c.uid == target))


def suspend(connection: Connection, aet: str, target: str, *, now: float) -> None:
    """Let a global subscription take in no new workitems; those that it has stay watched. Raises WorkitemRefused, C314."""
    if target not in (GLOBAL, FILTERED):
        raise WorkitemRefused(NOT_APPROPRIATE, "only a global subscription can be suspended")
    which = _of(aet), workitem_subscription.c.target == target, workitem_subscription.c.suspended_at.is_(None)
    connection.execute(update(workitem_subscription).where(*which).values(suspended_at=now))


def _of(aet: str) -> Any:
    return workitem_subscription.c.aet == aet


def waiting(connection: Connection, channel: str, aets: Sequence[str], limit: int = 100) -> list[Notice]:
    """The oldest notices of some subscribers."""
    notice = workitem_notice.c
    query = select(notice.pk, notice.aet, notice.uid, notice.type, notice.content)
    which = query.where(notice.channel == channel, notice.aet.in_(list(aets))).order_by(notice.pk).limit(limit)
    return [Notice(*row) for row in connection.execute(which)]


def subscribers_waiting(connection: Connection, channel: str, aets: Sequence[str] | None = None) -> list[str]:
    """The AE titles, of all or of some, that something waits for."""
    query = select(workitem_notice.c.aet).where(workitem_notice.c.channel == channel).distinct()
    return list(connection.scalars(query if aets is None else query.where(workitem_notice.c.aet.in_(list(aets)))))


def other_subscribers(connection: Connection, aet: str) -> int:
    """How many other AE titles watch something."""
    names = workitem_subscription.c.aet
    return connection.scalar(select(func.count(names.distinct())).where(names != aet)) or 0


@dataclass(frozen=True)
class Watcher:
    """A subscription as people see it. ``waiting``: reports on their way to its AE title, the oldest since ``oldest_at``."""

    aet: str
    target: str
    channel: str
    active: bool
    deletion_lock: bool
    suspended_at: float | None
    created_at: float
    waiting: int
    oldest_at: float | None


def watchers(connection: Connection) -> list[Watcher]:
    """Every subscription, by AE title."""
    notice, own = workitem_notice.c, workitem_subscription.c
    backlog = select(notice.aet, func.count().label("waiting"), func.min(notice.at).label("oldest_at")).group_by(notice.aet).subquery()
    shown = own.aet, own.target, own.channel, own.active, own.deletion_lock, own.suspended_at, own.created_at
    query = select(*shown, func.coalesce(backlog.c.waiting, 0), backlog.c.oldest_at)
    both = workitem_subscription.outerjoin(backlog, backlog.c.aet == own.aet)
    return [Watcher(*row) for row in connection.execute(query.select_from(both).order_by(own.aet, own.pk))]


def sent(connection: Connection, pks: Sequence[int]) -> None:
    """Forget notices that went out."""
    connection.execute(delete(workitem_notice).where(workitem_notice.c.pk.in_(list(pks))))


def history(connection: Connection, pk: int) -> list[dict[str, Any]]:
    """What happened to a workitem, oldest first."""
    event = workitem_event.c
    query = select(event.at, event.type, event.actor, event.content).where(event.workitem_pk == pk).order_by(event.pk)
    return [dict(row._mapping) for row in connection.execute(query)]


# --- matching keys, kept


def packed(key: Key) -> Json:
    return {"tag": key.tag, "vr": key.vr, "value": key.value, "items": [[packed(each) for each in item] for item in key.items]}


def _unpacked(kept: Mapping[str, Any]) -> Key:
    return Key(kept["tag"], kept["vr"], kept["value"], tuple(tuple(_unpacked(each) for each in item) for item in kept["items"]))


def _check(keys: Sequence[Key]) -> None:
    """Refuse keys that cannot be matched: they would be in the way of every later change of a workitem."""
    if len(keys) > MAX_KEYS:
        raise WorkitemRefused(values.INVALID_ATTRIBUTE_VALUE, f"a filter has at most {MAX_KEYS} keys")
    for key in keys:
        try:
            element_test(key)({})
        except ValueError as error:
            raise WorkitemRefused(values.INVALID_ATTRIBUTE_VALUE, str(error)) from None
        for item in key.items:
            _check(item)


def _passes(kept: Sequence[Json] | None, dataset: Mapping[str, Any]) -> bool:
    keys = [_unpacked(each) for each in kept or ()]
    try:
        return all(element_test(key)(dataset.get(f"{key.tag:08X}", {})) for key in keys)
    except ValueError:  # a workitem that gives an attribute another VR, by which it cannot be matched
        return False


def stale_notices(before: float) -> Delete:
    """The statement that forgets notices which nobody came for."""
    return delete(workitem_notice).where(workitem_notice.c.at < before)
