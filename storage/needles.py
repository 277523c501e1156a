"""Texts looked for in a data set while it streams by: our own Device UIDs, wherever in a derived object they stand."""

from __future__ import annotations

from collections.abc import Collection

from storage.headers import HeaderScanner


class Finder:
    """Looks for byte strings in a stream of fragments."""

    def __init__(self, needles: Collection[str]) -> None:
        self._needles = [needle.encode() for needle in needles]
        self._overlap = max(map(len, self._needles)) - 1
        self._tail = b""
        self.found = False

    def feed(self, fragment: memoryview | bytes) -> None:
        if not self.found:
            data = self._tail + bytes(fragment)
            self.found = any(needle in data for needle in self._needles)
            self._tail = data[-self._overlap :]


class InflatedFinder(Finder):
    """Looks in what the scanner inflates; the fragments themselves are compressed and tell nothing."""

    def __init__(self, needles: Collection[str], scanner: HeaderScanner) -> None:
        super().__init__(needles)
        scanner.watch = super().feed

    def feed(self, fragment: memoryview | bytes) -> None:
        return None


def watch_for(needles: Collection[str], scanner: HeaderScanner) -> Finder:
    """Make what looks for ``needles`` in the data set that ``scanner`` reads."""
    return InflatedFinder(needles, scanner) if scanner.deflated else Finder(needles)
