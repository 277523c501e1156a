"""Which studies somebody may see who is limited to sources or modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Table, and_, exists, literal, or_, select

from storage.schema import instance, series, study


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
    conditions: list[ColumnElement[bool]] = []
    if limits.modalities:
        conditions.append(_some(series, series.c.modality.in_(limits.modalities)))
    if limits.sources:
        conditions.append(_some(instance, _from(limits.sources)))
    return and_(*conditions) if conditions else None


def _some(source: Table, which: ColumnElement[bool]) -> ColumnElement[bool]:
    # Correlated by name: in a query of series or instances the table stands in the statement around it as well.
    return exists(select(literal(1)).select_from(source).where(source.c.study_pk == study.c.pk, which).correlate(study))


def _from(sources: Sequence[str]) -> ColumnElement[bool]:
    return or_(*(_one(source) for source in sources))


def _one(source: str) -> ColumnElement[bool]:
    if source.endswith("*"):
        return instance.c.calling_ae.startswith(source[:-1], autoescape=True)
    return instance.c.calling_ae == source
