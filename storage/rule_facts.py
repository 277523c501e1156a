"""What rules judge studies by: attributes of their received series, who sent them, and when they became complete.

A few statements for any number of studies, so that a rule file can be tried on thousands of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, exists, func, select

from storage.ambiguities import Picked, picked_of
from storage.copies import copies_in
from storage.index import INSTANCE_COLUMNS, PATIENT_COLUMNS, RULE_COLUMNS
from storage.quarantine import ACCEPTED
from storage.schema import audit, delivery, delivery_instance, instance, patient, quarantine, run, series, study

# Of the instances of a series: every distinct value, up to so many.
OF_INSTANCES = ("ImageType", "SOPClassUID", "Rows", "Columns", "BitsAllocated", "NumberOfFrames", "AvailableTransferSyntaxUID")
MOST_VALUES = 64
IMPORTED = "imported"  # why a study is complete that nothing was received of
HELD = "held for review"  # how the flag of a study begins that a rule holds
HELD_EVENT = "route.held"  # audited where a rule holds a study for review
COUNT = "NumberOfSeriesRelatedInstances"
# What stands in the index of every series; anything else is read from the header of one of its instances.
INDEXED = frozenset({*RULE_COLUMNS, *PATIENT_COLUMNS, *OF_INSTANCES, COUNT})


@dataclass(frozen=True)
class SeriesFacts:
    """A series with received instances. ``attributes``: by keyword; ``sources``, ``called``: instances by calling, called AE title;
    ``copies``: how many are copies that this node made."""

    series_uid: str
    attributes: Mapping[str, Any]
    sources: Mapping[str, int] = field(default_factory=dict)
    called: Mapping[str, int] = field(default_factory=dict)
    copies: int = 0

    @property
    def instances(self) -> int:
        return int(self.attributes.get(COUNT) or 0)


@dataclass(frozen=True)
class StudyFacts:
    """A study with its received series. ``at``: seconds since the epoch at which it became complete, or last got something; ``picked``:
    what persons chose where several series fit equally well."""

    study_uid: str
    revision: int
    at: float
    series: Mapping[str, SeriesFacts]
    picked: tuple[Picked, ...] = ()

    @property
    def instances(self) -> int:
        return sum(each.instances for each in self.series.values())


def facts_of(connection: Connection, study_uids: Sequence[str]) -> dict[str, StudyFacts]:
    """Read what rules judge some studies by; one that is not there is left out."""
    query = select(study.c.pk, study.c.study_uid, study.c.revision, study.c.completed_at, study.c.last_received_at)
    rows = connection.execute(query.where(study.c.study_uid.in_(list(study_uids)))).all()
    found: dict[int, dict[str, SeriesFacts]] = defaultdict(dict)
    for study_pk, facts in _series(connection, [row.pk for row in rows]):
        found[study_pk][facts.series_uid] = facts
    picked = picked_of(connection, study_uids)
    return {
        uid: StudyFacts(uid, row.revision, row.completed_at or row.last_received_at, found[row.pk], picked.get(uid, ()))
        for row in rows
        for uid in (row.study_uid,)
    }


def _series(connection: Connection, study_pks: Sequence[int]) -> Iterator[tuple[int, SeriesFacts]]:
    columns = {**PATIENT_COLUMNS, **RULE_COLUMNS}
    query = select(series.c.pk.label("_pk"), series.c.study_pk.label("_study"), *(each.label(keyword) for keyword, each in columns.items()))
    query = query.join(study, study.c.pk == series.c.study_pk).join(patient, patient.c.pk == study.c.patient_pk)
    received = _received(connection, study_pks)
    copies = copies_in(connection, study_pks)
    for row in connection.execute(query.where(series.c.study_pk.in_(list(study_pks))).order_by(series.c.pk)):
        values = dict(row._mapping)
        pk, study_pk = values.pop("_pk"), values.pop("_study")
        if pk in received:
            distinct, sources, called = received[pk]
            attributes = {**values, **distinct, COUNT: sum(sources.values())}
            yield study_pk, SeriesFacts(values["SeriesInstanceUID"], attributes, sources, called, copies.get(pk, 0))


_Counts = dict[str, int]


def _received(connection: Connection, study_pks: Sequence[int]) -> dict[int, tuple[dict[str, list[str]], _Counts, _Counts]]:
    """By series: distinct values of its received instances, and how many came from and to which AE title."""
    columns = [INSTANCE_COLUMNS[keyword] for keyword in OF_INSTANCES]
    key = (instance.c.series_pk, instance.c.calling_ae, instance.c.called_ae, *columns)
    query = select(*key, func.count()).where(instance.c.study_pk.in_(list(study_pks)), instance.c.origin != "emitted").group_by(*key)
    values: dict[int, list[set[str]]] = defaultdict(lambda: [set() for _ in OF_INSTANCES])
    sources: dict[int, _Counts] = defaultdict(lambda: defaultdict(int))
    called: dict[int, _Counts] = defaultdict(lambda: defaultdict(int))
    for series_pk, calling, call, *more, count in connection.execute(query):
        sources[series_pk][calling] += count
        called[series_pk][call] += count
        for kept, value in zip(values[series_pk], more, strict=True):
            if value is not None and len(kept) < MOST_VALUES:
                kept.add(str(value))
    return {
        pk: ({keyword: sorted(each) for keyword, each in zip(OF_INSTANCES, kept, strict=True)}, dict(sources[pk]), dict(called[pk]))
        for pk, kept in values.items()
    }


def to_forward(connection: Connection, study_uid: str, series_uids: Sequence[str], peer: str, ae_title: str) -> list[str]:
    """List the received instances of some series that a peer is to get as they came: not what it sent itself, and not what it was sent or
    is being sent already; but anew what a person accepted in its place since. In the order of series and instances."""
    anew = exists().where(
        quarantine.c.sop_uid == delivery_instance.c.sop_uid,
        quarantine.c.state == ACCEPTED,
        quarantine.c.resolved_at >= delivery.c.created_at,
    )
    sent = (
        select(delivery_instance.c.sop_uid)
        .join(delivery, delivery.c.pk == delivery_instance.c.delivery_pk)
        .where(delivery.c.study_uid == study_uid, delivery.c.peer == peer, delivery.c.run_pk.is_(None), ~anew)
    )
    query = (
        select(instance.c.sop_uid)
        .join(series, series.c.pk == instance.c.series_pk)
        .join(study, study.c.pk == instance.c.study_pk)
        .where(
            study.c.study_uid == study_uid,
            series.c.series_uid.in_(list(series_uids)),
            instance.c.origin != "emitted",
            instance.c.calling_ae != ae_title,
            instance.c.sop_uid.not_in(sent),
        )
        .order_by(series.c.pk, instance.c.pk)
    )
    return list(connection.scalars(query))


@dataclass(frozen=True)
class Done:
    """What was done with a study. ``runs``: (bundle, series UIDs); ``forwards``: peer > received instances that it was sent, or is to be.
    ``held``: whether a rule ever held it for review."""

    runs: frozenset[tuple[str, tuple[str, ...]]] = frozenset()
    forwards: Mapping[str, int] = field(default_factory=dict)
    flag: str | None = None
    held: bool = False


def done_with(connection: Connection, study_uids: Sequence[str]) -> dict[str, Done]:
    """Read what was done with some studies: runs that were not canceled (none that looked on), originals sent on, the flag."""
    wanted = list(study_uids)
    runs: dict[str, set[tuple[str, tuple[str, ...]]]] = defaultdict(set)
    query = select(run.c.study_uid, run.c.bundle, run.c.series_uids)
    for row in connection.execute(query.where(run.c.study_uid.in_(wanted), ~run.c.shadow, run.c.state != "CANCELED")):
        runs[row.study_uid].add((row.bundle, tuple(row.series_uids)))
    sent: dict[str, dict[str, int]] = defaultdict(dict)
    counted = (
        select(delivery.c.study_uid, delivery.c.peer, func.count(delivery_instance.c.sop_uid.distinct()))
        .join(delivery_instance, delivery_instance.c.delivery_pk == delivery.c.pk)
        .join(instance, instance.c.sop_uid == delivery_instance.c.sop_uid)
        .where(delivery.c.study_uid.in_(wanted), delivery.c.run_pk.is_(None), instance.c.origin != "emitted")
        .group_by(delivery.c.study_uid, delivery.c.peer)
    )
    for uid, peer, count in connection.execute(counted):
        sent[uid][peer] = count
    held = set(connection.scalars(select(audit.c.study_uid).where(audit.c.study_uid.in_(wanted), audit.c.event == HELD_EVENT).distinct()))
    flags = connection.execute(select(study.c.study_uid, study.c.flag).where(study.c.study_uid.in_(wanted)))
    return {row.study_uid: Done(frozenset(runs[row.study_uid]), sent[row.study_uid], row.flag, row.study_uid in held) for row in flags}


def completed_since(connection: Connection, since: float) -> list[str]:
    """List the studies that became complete from a time on and are complete now, oldest first; what was imported runs nothing."""
    complete = study.c.state == "COMPLETE", study.c.completed_at >= since, study.c.complete_reason != IMPORTED
    return list(connection.scalars(select(study.c.study_uid).where(*complete).order_by(study.c.completed_at, study.c.pk)))
