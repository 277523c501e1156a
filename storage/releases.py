"""Releases: bundle versions by their release digest, and the states that they go through. One is deployed per name.

    candidate > shadow > deployed > retired
       candidate may skip shadow; deploying one retires the one before it; a retired one comes back by rollback, or is deployed anew

Every transition is a row that says who, when and why. All of a name's releases are locked while one of them moves, so that two commands
at once are one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from storage.errors import NotFound, ReleaseConflict
from storage.records import ReleaseEventRecord, ReleaseRecord, from_row
from storage.schema import model_release, release_event
from storage.statements import insert_new

SHORTEST_DIGEST = 6  # digits of a digest that name a release


class State(StrEnum):
    CANDIDATE = "candidate"
    SHADOW = "shadow"
    DEPLOYED = "deployed"
    RETIRED = "retired"


def add(
    connection: Connection, *, name: str, version: str, digest: str, actor: str, reason: str = "added", now: float | None = None
) -> tuple[ReleaseRecord, bool]:
    """Record a release as a candidate; one that is known stays as it is. Returns it, and whether it is new."""
    at = _now(now)
    values = {"name": name, "version": version, "digest": digest, "state": State.CANDIDATE.value, "added_at": at, "state_at": at}
    row = connection.execute(insert_new(connection, model_release).values(**values).returning(model_release)).one_or_none()
    if row is None:
        return by_digest(connection, digest), False
    record = from_row(ReleaseRecord, row)
    _event(connection, record.pk, None, State.CANDIDATE, actor, reason, {}, at)
    return record, True


def get(connection: Connection, pk: int) -> ReleaseRecord:
    """Read a release by its key; NotFound where there is none."""
    row = connection.execute(select(model_release).where(model_release.c.pk == pk)).one_or_none()
    if row is None:
        raise NotFound(f"no release {pk}")
    return from_row(ReleaseRecord, row)


def by_digest(connection: Connection, digest: str) -> ReleaseRecord:
    """Read a release by its whole digest; NotFound where there is none."""
    row = connection.execute(select(model_release).where(model_release.c.digest == digest)).one_or_none()
    if row is None:
        raise NotFound(f"no release with the digest {digest[:12]}")
    return from_row(ReleaseRecord, row)


def every(connection: Connection, name: str | None = None) -> list[ReleaseRecord]:
    """Read all releases, or those of a name; by name, newest first."""
    query = select(model_release).order_by(model_release.c.name, model_release.c.pk.desc())
    if name is not None:
        query = query.where(model_release.c.name == name)
    return [from_row(ReleaseRecord, row) for row in connection.execute(query)]


def deployed(connection: Connection, name: str) -> ReleaseRecord | None:
    """Read the release of a name that is deployed."""
    query = select(model_release).where(model_release.c.name == name, model_release.c.state == State.DEPLOYED.value)
    row = connection.execute(query).one_or_none()
    return None if row is None else from_row(ReleaseRecord, row)


def was_ever_deployed(connection: Connection, name: str) -> bool:
    """Whether a release of this name is or was deployed: from then on only releases count for it, no folder."""
    query = select(release_event.c.pk).join(model_release, model_release.c.pk == release_event.c.release_pk)
    query = query.where(model_release.c.name == name, release_event.c.after == State.DEPLOYED.value)
    return connection.scalar(query.limit(1)) is not None


def find(connection: Connection, reference: str) -> ReleaseRecord:
    """Read the release that a person means: ``NAME`` where it has one only, ``NAME@VERSION``, ``NAME@DIGEST`` or ``DIGEST``.

    At least six digits of a digest are needed.

    Raises
    ------
    NotFound
        There is none.
    ReleaseConflict
        It may mean several.
    """
    name, _, which = reference.partition("@")
    if which:
        found = [each for each in every(connection, name) if each.version == which or _begins(each.digest, which)]
    else:
        found = every(connection, name) or [each for each in every(connection) if _begins(each.digest, name)]
    if not found:
        known = ", ".join(dict.fromkeys(each.name for each in every(connection))) or "none"
        raise NotFound(f"no release '{reference}'; there are releases of: {known}")
    if len(found) > 1:
        choices = ", ".join(f"{each.name}@{each.digest[:12]} ({each.version}, {each.state})" for each in found)
        raise ReleaseConflict(f"'{reference}' may mean several releases; say which: {choices}")
    return found[0]


def _begins(digest: str, prefix: str) -> bool:
    return len(prefix) >= SHORTEST_DIGEST and digest.startswith(prefix.lower())


def shadow(connection: Connection, pk: int, *, actor: str, reason: str, now: float | None = None) -> ReleaseRecord:
    """Let a release look on. Any number of a name may."""
    before = _lock(connection, pk)
    if before.state == State.DEPLOYED:
        raise ReleaseConflict(f"{_name(before)} is deployed: deploy another one, or retire it first")
    return _move(connection, before, State.SHADOW, actor, reason, {}, now)


def deploy(
    connection: Connection,
    pk: int,
    *,
    actor: str,
    reason: str,
    evaluation_pk: int,
    detail: Mapping[str, Any] | None = None,
    now: float | None = None,
) -> tuple[ReleaseRecord, ReleaseRecord | None]:
    """Put a release into use, and retire the one before it. Whether it may be is decided before: ``detail`` says by what.

    Returns
    -------
    tuple
        The release as it is now, and the one that it replaced.
    """
    before = _lock(connection, pk)
    return _install(connection, before, actor, reason, {**(detail or {}), "evaluation": evaluation_pk}, evaluation_pk, now)


def retire(connection: Connection, pk: int, *, actor: str, reason: str, now: float | None = None) -> ReleaseRecord:
    """Take a release out of use. Of a name without a deployed release nothing is run."""
    return _move(connection, _lock(connection, pk), State.RETIRED, actor, reason, {}, now)


def rollback(
    connection: Connection, name: str, *, actor: str, reason: str, now: float | None = None
) -> tuple[ReleaseRecord, ReleaseRecord | None]:
    """Put the release back that was deployed before the present one. Done again, it leads further back.

    Returns
    -------
    tuple
        The release that is deployed now, and the one that was.

    Raises
    ------
    ReleaseConflict
        None was deployed before.
    """
    found = every(connection, name)
    if not found:
        raise NotFound(f"there is no release of '{name}'")
    _lock(connection, found[0].pk)
    history = deployments(connection, name)
    if len(history) < 2:
        raise ReleaseConflict(f"no release of '{name}' was deployed before the present one")
    target = get(connection, history[-2])
    return _install(connection, target, actor, reason, {"rollback": True}, target.evaluation_pk, now)


def deployments(connection: Connection, name: str) -> list[int]:
    """List the releases that were deployed one after the other, the present or last one at the end; rollbacks take back what they undid."""
    query = select(release_event).join(model_release, model_release.c.pk == release_event.c.release_pk)
    query = query.where(model_release.c.name == name, release_event.c.after == State.DEPLOYED.value).order_by(release_event.c.pk)
    history: list[int] = []
    for row in connection.execute(query):
        if row.detail.get("rollback") and row.release_pk in history:
            del history[history.index(row.release_pk) + 1 :]
        elif not history or history[-1] != row.release_pk:
            if row.release_pk in history:
                history.remove(row.release_pk)
            history.append(row.release_pk)
    return history


def events(connection: Connection, pk: int) -> list[ReleaseEventRecord]:
    """Read what happened to a release, oldest first."""
    query = select(release_event).where(release_event.c.release_pk == pk).order_by(release_event.c.pk)
    return [from_row(ReleaseEventRecord, row) for row in connection.execute(query)]


# --- outliving the index


@dataclass(frozen=True)
class Line:
    """One transition, with all that makes its release known."""

    name: str
    version: str
    digest: str
    at: float
    actor: str
    before: str | None
    after: str
    reason: str
    detail: dict[str, Any]


def newest_event(connection: Connection) -> int:
    """Read the key of the newest transition of any release; 0 where there is none."""
    return int(connection.scalar(select(func.max(release_event.c.pk))) or 0)


def history(connection: Connection, *, after: int = 0) -> list[Line]:
    """Read all transitions (after one), oldest first."""
    joined = release_event.join(model_release, model_release.c.pk == release_event.c.release_pk)
    columns = [*(model_release.c[name] for name in ("name", "version", "digest")), *release_event.c]
    query = select(*columns).select_from(joined).where(release_event.c.pk > after).order_by(release_event.c.pk)
    return [from_row(Line, row) for row in connection.execute(query)]


def restore(connection: Connection, lines: Iterable[Mapping[str, Any]]) -> int:
    """Put releases and their transitions into an index that knows none; how many. An index that knows some is left as it is."""
    if connection.scalar(select(model_release.c.pk).limit(1)) is not None:
        return 0
    known: dict[str, int] = {}
    for line in lines:
        try:
            each = Line(**{field.name: line[field.name] for field in fields(Line)})
            after = State(each.after)
        except (KeyError, TypeError, ValueError):
            continue
        if each.digest not in known:
            values = {"name": each.name, "version": each.version, "digest": each.digest, "added_at": each.at, "state_at": each.at}
            known[each.digest] = connection.execute(insert(model_release).values(**values).returning(model_release.c.pk)).scalar_one()
        if after is State.DEPLOYED:  # what a crash kept from being written down
            others = (model_release.c.name == each.name, model_release.c.state == State.DEPLOYED.value)
            connection.execute(update(model_release).where(*others).values(state=State.RETIRED.value))
        pk = known[each.digest]
        connection.execute(update(model_release).where(model_release.c.pk == pk).values(state=after.value, state_at=each.at))
        _event(connection, pk, each.before, after, each.actor, each.reason, each.detail, each.at)
    return len(known)


# --- inside


def _install(
    connection: Connection,
    target: ReleaseRecord,
    actor: str,
    reason: str,
    detail: Mapping[str, Any],
    evaluation_pk: int | None,
    now: float | None,
) -> tuple[ReleaseRecord, ReleaseRecord | None]:
    if target.state == State.DEPLOYED:
        raise ReleaseConflict(f"{_name(target)} is deployed already")
    replaced = deployed(connection, target.name)
    if replaced is not None:
        _move(connection, replaced, State.RETIRED, actor, f"replaced by {target.digest[:12]}: {reason}", {"by": target.digest}, now)
    connection.execute(update(model_release).where(model_release.c.pk == target.pk).values(evaluation_pk=evaluation_pk))
    return _move(connection, target, State.DEPLOYED, actor, reason, detail, now), replaced


def _lock(connection: Connection, pk: int) -> ReleaseRecord:
    """Hold all releases of a release's name until the transaction ends."""
    name = get(connection, pk).name
    query = select(model_release).where(model_release.c.name == name).order_by(model_release.c.pk).with_for_update()
    return next(from_row(ReleaseRecord, row) for row in connection.execute(query).all() if row.pk == pk)


def _move(
    connection: Connection, before: ReleaseRecord, after: State, actor: str, reason: str, detail: Mapping[str, Any], now: float | None
) -> ReleaseRecord:
    if before.state == after:
        raise ReleaseConflict(f"{_name(before)} is {after} already")
    at = _now(now)
    change = update(model_release).where(model_release.c.pk == before.pk).values(state=after.value, state_at=at)
    row = connection.execute(change.returning(model_release)).one()
    _event(connection, before.pk, before.state, after, actor, reason, detail, at)
    return from_row(ReleaseRecord, row)


def _event(
    connection: Connection, pk: int, before: str | None, after: State, actor: str, reason: str, detail: Mapping[str, Any], at: float
) -> None:
    values = {"release_pk": pk, "at": at, "actor": actor, "before": before, "after": after.value, "reason": reason, "detail": dict(detail)}
    connection.execute(insert(release_event).values(**values))


def _name(record: ReleaseRecord) -> str:
    return f"release {record.digest[:12]} of {record.name}"


def _now(now: float | None) -> float:
    return time.time() if now is None else now
