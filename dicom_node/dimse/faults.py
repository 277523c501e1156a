"""Exceptions nobody expected, in words that cannot name a patient."""

from __future__ import annotations

import traceback


def describe(error: BaseException) -> dict[str, str]:
    """Type and place of an unexpected exception for the log. Its text stays out: it may quote a data set."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    trace = " > ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames)
    return {"error": type(error).__name__, "trace": trace}
