"""A rule's own matching: which series of a study it speaks of (PS3.4 C.2.2.2 matching, letters folded)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storage.matching import matches, mismatch

Attributes = Mapping[str, Any]


def why_not(match: Mapping[str, Any], attributes: Attributes) -> str | None:
    """Name the first attribute of a series that keeps it out; None when the rule speaks of it."""
    return mismatch(match, attributes, ignore_case=True)


def any_matches(tables: Sequence[Mapping[str, Any]], attributes: Attributes) -> bool:
    """Whether at least one table of attributes matches."""
    return any(matches(table, attributes, ignore_case=True) for table in tables)
