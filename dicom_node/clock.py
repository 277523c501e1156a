"""Time as the application sees it: UTC seconds since the epoch, injected wherever it matters."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]

system: Clock = time.time


def utc(at: float) -> str:
    """A time as data: ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local(at: float) -> str:
    """A time as people read it: local, with its zone."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
