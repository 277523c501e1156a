"""Which results stand: every completed one that no later one has replaced.

A result stands while its model is tried again, and goes on standing where that fails, does not apply or is recalled: what was found
in the images is not taken back by an attempt.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Ended(Protocol):
    """What of a run tells what it replaces; see :data:`storage.schema.run`."""

    @property
    def pk(self) -> int: ...
    @property
    def bundle(self) -> str: ...
    @property
    def rule(self) -> str: ...
    @property
    def study_revision(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def shadow(self) -> bool: ...
    @property
    def delivered(self) -> bool: ...
    @property
    def predecessor_pk(self) -> int | None: ...
    @property
    def recalled_at(self) -> float | None: ...


def successors(runs: Iterable[Ended]) -> dict[int, int]:
    """Run > the run whose result is to be used in its place, of the runs of one study."""
    valid = [each for each in runs if each.state == "COMPLETED" and not each.shadow and each.recalled_at is None]
    found = {each.predecessor_pk: each.pk for each in sorted(valid, key=lambda each: each.pk) if each.predecessor_pk is not None}
    for old in valid:
        if not old.delivered:  # a newer revision came while it ran, whose run could not name it yet
            of_rule = (new for new in valid if (new.bundle, new.rule) == (old.bundle, old.rule))
            newer = (new.pk for new in of_rule if new.study_revision > old.study_revision)
            found.setdefault(old.pk, max(newer, default=old.pk))
    return {pk: by for pk, by in found.items() if pk != by}
