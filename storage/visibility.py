"""Which studies somebody may see who is limited to sources or modalities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Select, and_, func, or_, select

from storage.schema import series, study, study_source

FEW: Final = 2000  # studies: so many are looked at one by one, of more the first ones are soon found
_HIGH: Final = "\U0010ffff"  # sorts after every character


@dataclass(frozen=True)
class Limits:
    """Calling AE titles (``*`` stands for any ending) and modalities; an empty one limits nothing."""

    sources: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.sources or self.modalities)


NO_LIMITS = Limits()


def visible(limits: Limits) -> ColumnElement[bool] | None:
    """A condition on ``study`` for a query's WHERE; None where nothing is limited.

    A study can be seen with one instance from an allowed source, and one series of an allowed modality.
    """
    found = [_held(allowed, column, study.c.pk) for allowed, column in _allowed(limits)]
    return and_(*found) if found else None


def seen(connection: Connection, limits: Limits, study_pk: Column[int]) -> list[ColumnElement[bool]]:
    """Conditions on a column of studies' keys, for a query that shows the first ones in some order.

    Where the limits leave few studies these are what is looked at, however many others there are.
    """
    return [
        study_pk.in_(allowed) if _few(connection, allowed) else _held(allowed, column, study_pk) for allowed, column in _allowed(limits)
    ]


def _allowed(limits: Limits) -> Iterator[tuple[Select[Any], Column[int]]]:
    """For each limit the keys of the studies that it allows, and the column that they are in."""
    if limits.modalities:
        yield select(series.c.study_pk).where(series.c.modality.in_(limits.modalities)), series.c.study_pk
    if limits.sources:
        yield select(study_source.c.study_pk).where(_from(limits.sources)), study_source.c.study_pk


def _few(connection: Connection, allowed: Select[Any]) -> bool:
    counted = select(func.count()).select_from(allowed.limit(FEW + 1).subquery())
    return (connection.scalar(counted) or 0) <= FEW


def _held(allowed: Select[Any], column: Column[int], study_pk: Column[int]) -> ColumnElement[bool]:
    # Correlated by name: in a query of series the table stands in the statement around it as well.
    return allowed.where(column == study_pk).correlate(study_pk.table).exists()


def _from(sources: Sequence[str]) -> ColumnElement[bool]:
    return or_(*(_one(source) for source in sources))


def _one(source: str) -> ColumnElement[bool]:
    if not source.endswith("*"):
        return study_source.c.calling_ae == source
    begins = source[:-1]
    return and_(study_source.c.calling_ae >= begins, study_source.c.calling_ae < begins + _HIGH)
