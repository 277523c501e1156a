"""The flag of a study: why a person has to look at it. Each stops what would be done with the study next, but for one."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, or_

from storage.schema import study

LACKS_MEMORY: Final = "too little memory"  # how the flag begins of a study that did not fit a model; it stops nothing, and gives way


def stops(flag: str | None) -> bool:
    """Whether a flag keeps a study from being run and sent on."""
    return bool(flag) and not (flag or "").startswith(LACKS_MEMORY)


def lacks_memory(bundle: str) -> str:
    """How the flag begins of a study that did not fit this model."""
    return f"{LACKS_MEMORY} for model {bundle}:"


def gives_way() -> ColumnElement[bool]:
    """Whether another flag may be set, in a statement on studies."""
    return or_(study.c.flag.is_(None), study.c.flag.startswith(LACKS_MEMORY))
