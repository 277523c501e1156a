"""Ambiguous selections: a durable state that a person resolves.

    OPEN > CHOSEN (a person named a series) ; OPEN > CLOSED (a later image made one series fit best, or none)
    CHOSEN > OPEN (the chosen series fits no more, and several others do) ; CLOSED > OPEN

A choice stands over later images and reruns as long as its series still fits. Everything here runs in the caller's transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select, update

from storage import audit
from storage.errors import NotFound
from storage.schema import ambiguity
from storage.statements import insert_new

CHOSEN_EVENT = "selection.chosen"


@dataclass(frozen=True)
class Candidate:
    """A series that fits as well as the others."""

    series_uid: str
    reason: str


@dataclass(frozen=True)
class AmbiguityRecord:
    """Several series that fit a model equally well, by one rule. ``input``: of a model of several inputs, which; else empty.

    ``state``: OPEN (nothing runs until a person chooses), CHOSEN (``series_uid``, ``chosen_by``, ``reason``, ``chosen_at``) or CLOSED.
    """

    pk: int
    study_uid: str
    rule: str
    bundle: str
    input: str
    state: str
    study_revision: int
    candidates: tuple[Candidate, ...]
    opened_at: float
    series_uid: str | None = None
    chosen_by: str | None = None
    reason: str | None = None
    chosen_at: float | None = None

    @property
    def open(self) -> bool:
        return self.state == "OPEN"


@dataclass(frozen=True)
class Picked:
    """A person's choice, as routing takes it."""

    rule: str
    bundle: str
    input: str
    series_uid: str
    by: str
    reason: str


def of_study(connection: Connection, study_uid: str) -> list[AmbiguityRecord]:
    """Read the ambiguous selections of a study, resolved ones too, in the order in which they came up."""
    query = select(ambiguity).where(ambiguity.c.study_uid == study_uid).order_by(ambiguity.c.pk)
    return [_record(row) for row in connection.execute(query)]


def open_ones(connection: Connection, *, limit: int = 100) -> list[AmbiguityRecord]:
    """Read what waits for a person, oldest first."""
    query = select(ambiguity).where(ambiguity.c.state == "OPEN").order_by(ambiguity.c.opened_at, ambiguity.c.pk).limit(limit)
    return [_record(row) for row in connection.execute(query)]


def studies_waiting(connection: Connection, study_uids: Sequence[str]) -> set[str]:
    """Tell which of some studies have a selection that waits for a person."""
    query = select(ambiguity.c.study_uid).where(ambiguity.c.state == "OPEN", ambiguity.c.study_uid.in_(list(study_uids)))
    return set(connection.scalars(query.distinct()))


def picked_of(connection: Connection, study_uids: Sequence[str]) -> Mapping[str, tuple[Picked, ...]]:
    """Read persons' choices for some studies, by Study Instance UID."""
    found: dict[str, list[Picked]] = defaultdict(list)
    query = select(ambiguity).where(ambiguity.c.study_uid.in_(list(study_uids)), ambiguity.c.state == "CHOSEN").order_by(ambiguity.c.pk)
    for row in connection.execute(query):
        choice = Picked(row.rule, row.bundle, row.input, row.series_uid or "", row.chosen_by or "", row.reason or "")
        found[row.study_uid].append(choice)
    return {uid: tuple(each) for uid, each in found.items()}


def keep(
    connection: Connection, study_uid: str, revision: int, rule: str, bundle: str, tied: Mapping[str, Sequence[Candidate]], *, now: float
) -> None:
    """Bring the state of a study's selections for one rule and model in line with what routing found.

    Parameters
    ----------
    tied
        By input ("" of a model's only one), the series that fit equally well: of the inputs that are ambiguous now.
    """
    mine = (ambiguity.c.study_uid == study_uid, ambiguity.c.rule == rule, ambiguity.c.bundle == bundle)
    gone = update(ambiguity).where(*mine, ambiguity.c.state == "OPEN", ambiguity.c.input.not_in(list(tied))).values(state="CLOSED")
    connection.execute(gone)
    for name, candidates in tied.items():
        listed = [{"series_uid": each.series_uid, "reason": each.reason} for each in candidates]
        values = {"state": "OPEN", "study_revision": revision, "candidates": listed}
        key = {"study_uid": study_uid, "rule": rule, "bundle": bundle, "input": name}
        made = connection.scalar(insert_new(connection, ambiguity).values(**key, **values, opened_at=now).returning(ambiguity.c.pk))
        if made is None:
            connection.execute(update(ambiguity).where(*mine, ambiguity.c.input == name).values(**values))


def choose(
    connection: Connection, study_uid: str, rule: str, bundle: str, series_uid: str, *, of_input: str = "", by: str, reason: str, now: float
) -> AmbiguityRecord:
    """Keep a person's choice, and its audit row. One that was made before is replaced.

    Raises
    ------
    NotFound
        Nothing of that rule, model and input is or was ambiguous in this study, or the series is none of those that fit.
    """
    mine = (
        ambiguity.c.study_uid == study_uid,
        ambiguity.c.rule == rule,
        ambiguity.c.bundle == bundle,
        ambiguity.c.input == of_input,
        ambiguity.c.state != "CLOSED",
    )
    row = connection.execute(select(ambiguity).where(*mine).with_for_update()).one_or_none()
    what = f"rule {rule}, model {bundle}{f', input {of_input}' if of_input else ''}"
    if row is None:
        raise NotFound(f"in study {study_uid} nothing is to be chosen for {what}")
    if series_uid not in {each["series_uid"] for each in row.candidates}:
        raise NotFound(f"series {series_uid} is none of those that fit equally well for {what}")
    values = {"state": "CHOSEN", "series_uid": series_uid, "chosen_by": by, "reason": reason, "chosen_at": now}
    changed = connection.execute(update(ambiguity).where(ambiguity.c.pk == row.pk).values(**values).returning(ambiguity)).one()
    detail = {"rule": rule, "bundle": bundle, "input": of_input, "series_uid": series_uid, "reason": reason}
    audit.record(connection, CHOSEN_EVENT, actor=by, study_uid=study_uid, detail=detail, at=now)
    return _record(changed)


def _record(row: Row[Any]) -> AmbiguityRecord:
    values = dict(row._mapping)
    values["candidates"] = tuple(Candidate(each["series_uid"], each["reason"]) for each in row.candidates)
    return AmbiguityRecord(**values)
