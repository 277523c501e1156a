"""Memory for bytes on their way, so that none of it is touched before it is used.

A new ``bytearray`` is filled with zeros at once, at the price of a page fault for every 4 KiB: for an association that asks for one
instance that takes longer than reading and sending it.
"""

from __future__ import annotations

import contextlib
import mmap
from collections import deque
from typing import Final

HUGE: Final = 2 << 20
"""Bytes of one large page."""


def reserve(size: int) -> mmap.mmap:
    """Memory of at least ``size`` bytes whose pages come into being when they are written; large pages where they fit and there are any."""
    if size > HUGE // 2:
        size = -(-size // HUGE) * HUGE
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class Buffers:
    """Buffers of one large page, kept for whoever needs one next. Thread-safe.

    Parameters
    ----------
    kept
        So many are kept; further ones are let go.
    """

    def __init__(self, kept: int = 8) -> None:
        self._spare: deque[mmap.mmap] = deque(maxlen=kept)

    def take(self) -> mmap.mmap:
        """A buffer; what stands in it is of no meaning."""
        try:
            return self._spare.pop()
        except IndexError:
            return reserve(HUGE)

    def give(self, memory: mmap.mmap) -> None:
        """Take a buffer back that nobody looks at any more; a larger one is let go."""
        if len(memory) == HUGE:
            self._spare.append(memory)
