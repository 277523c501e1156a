"""What retention goes by: the rules, and how the disk stands to its watermarks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.archive import Archive

IMPORTED = "imported"
DAY = 86400.0


class Need(Enum):
    """What must have happened elsewhere to an instance before it may go."""

    COMMITTED = "committed"
    DELIVERED = "delivered"
    NOTHING = "nothing"


class DiskState(Enum):
    """How the archive's disk stands to its two watermarks."""

    OK = "ok"
    LOW = "low"  # below the first: nothing is pulled, what may go goes
    FULL = "full"  # below the second: stores are refused before anything is written


@dataclass(frozen=True)
class RetentionRule:
    """One rule.

    Attributes
    ----------
    sources
        Calling AE titles, with wildcards; ``imported`` for what came from files. Every received instance must fit one of them.
    after
        Seconds since the last instance came, after which a study goes; None: never by age alone.
    when_low
        The same, while the disk is low; None: a low disk changes nothing.
    needs, results_need
        What must have happened to received instances, and to the objects that runs made of them.
    peers
        Peers that count for that; empty: any.
    """

    name: str
    sources: tuple[str, ...] = ("*",)
    after: float | None = None
    when_low: float | None = None
    needs: Need = Need.COMMITTED
    results_need: Need = Need.COMMITTED
    peers: tuple[str, ...] = ()

    def due(self, age: float, *, low: bool) -> bool:
        """Whether a study so old may go as far as time is concerned."""
        by_age = self.after is not None and age >= self.after
        return by_age or (low and self.when_low is not None and age >= self.when_low)


def disk_state(archive: Archive, keep_free: int) -> DiskState:
    """Where the disk stands: below ``keep_free`` bytes it is low, below the archive's own limit full."""
    free = archive.free_bytes()
    if free < archive.settings.min_free:
        return DiskState.FULL
    return DiskState.LOW if free < keep_free else DiskState.OK
