"""Giving the bytes of a range back: a hole where the file system makes one, zeros elsewhere."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache

KEEP_SIZE_AND_PUNCH = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
ZEROS = bytes(1024 * 1024)


def punch(descriptor: int, offset: int, length: int) -> None:
    """Make `length` bytes at `offset` read as zeros; the file keeps its size. Not synced."""
    if length <= 0:
        return
    call = _fallocate()
    if call is not None and call(descriptor, KEEP_SIZE_AND_PUNCH, offset, length) == 0:
        return
    end = offset + length
    while offset < end:
        offset += os.pwrite(descriptor, memoryview(ZEROS)[: end - offset], offset)


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    function.restype = ctypes.c_int
    return lambda descriptor, mode, offset, length: int(function(descriptor, mode, offset, length))
