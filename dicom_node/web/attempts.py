"""Guessed passwords are counted: who guesses is stopped, and whose name is guessed can still sign in from elsewhere."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW: Final = 900.0  # seconds
TRIES_OF_NAME: Final = 10  # from one address
TRIES_OF_ADDRESS: Final = 30
TRIES_FROM_ANYWHERE: Final = 200  # of one name, by many addresses together
MOST_KEPT: Final = 10_000


class Attempts:
    """Failed attempts of the last quarter of an hour: of a name from an address, of an address, of a name from all of them.

    The last limit does not hold for an address from which the name has signed in before.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, deque[float]] = {}
        self._known: dict[tuple[str, str], None] = {}
        self._lock = threading.Lock()

    def too_many(self, name: str, address: str) -> bool:
        """Whether another attempt is refused without being looked at."""
        address = network_of(address)
        with self._lock:
            limits = {_both(name, address): TRIES_OF_NAME, _address(address): TRIES_OF_ADDRESS}
            if (name, address) not in self._known:
                limits[_name(name)] = TRIES_FROM_ANYWHERE
            return any(self._count(key) >= limit for key, limit in limits.items())

    def failed(self, name: str, address: str) -> None:
        """Note one that failed."""
        address = network_of(address)
        with self._lock:
            self._make_room()
            for key in (_both(name, address), _address(address), _name(name)):
                self._failed.setdefault(key, deque(maxlen=TRIES_FROM_ANYWHERE)).append(self._clock())

    def forget(self, name: str, address: str, *, right: bool = False) -> None:
        """Take one back that did not fail; ``right``: it was the right password."""
        address = network_of(address)
        with self._lock:
            for key in (_both(name, address), _address(address), _name(name)):
                if self._failed.get(key):
                    self._failed[key].pop()
            if right:
                if len(self._known) >= MOST_KEPT:
                    del self._known[next(iter(self._known))]
                self._known[name, address] = None

    def _make_room(self) -> None:
        """What has run out goes first, then what was noted first."""
        if len(self._failed) < MOST_KEPT:
            return
        for key in [key for key in self._failed if not self._count(key)]:
            del self._failed[key]
        while len(self._failed) >= MOST_KEPT:
            del self._failed[next(iter(self._failed))]

    def _count(self, key: str) -> int:
        times = self._failed.get(key)
        if times is None:
            return 0
        while times and times[0] < self._clock() - WINDOW:
            times.popleft()
        return len(times)


def network_of(address: str) -> str:
    """An address as one counts it: of IPv6 the first 64 bits, which is what one household or office has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def _both(name: str, address: str) -> str:
    return f"both {address} {name}"


def _address(address: str) -> str:
    return f"address {address}"


def _name(name: str) -> str:
    return f"name {name}"
