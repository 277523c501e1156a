"""Dates and times that belong together: combined ranges (PS3.4 C.2.2.2.5) and another offset from UTC (PS3.4 C.4.1.1.3)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, and_, or_, true

from storage.matching import Range, Wanted, bytewise, high_end, parse

# Date > the time of the same event, where both are columns.
PAIRS: Final[Mapping[int, int]] = {0x00080020: 0x00080030, 0x00080021: 0x00080031, 0x00400244: 0x00400245}


def combined(date: Wanted, time: Wanted) -> tuple[Range, Range] | None:
    """The two ends of a range of date-times, where both a range of dates and one of times are wanted."""
    dates, times = parse(date, "DA"), parse(time, "TM")
    if len(dates) != 1 or len(times) != 1 or not isinstance(dates[0], Range) or not isinstance(times[0], Range):
        return None
    return (dates[0], times[0]) if dates[0].low != dates[0].high and times[0].low != times[0].high else None


def combined_clause(date: ColumnElement[str], time: ColumnElement[str], dates: Range, times: Range) -> ColumnElement[bool]:
    """Make the condition that an event lies between (first date, first time) and (last date, last time)."""
    day, clock = bytewise(date), bytewise(time)
    low = and_(day >= dates.low, or_(day > dates.low, clock >= times.low)) if dates.low else true()
    high = and_(day <= dates.high, or_(day < dates.high, clock <= high_end(times.high))) if dates.high else true()
    return and_(date != "", low, high)


def combined_matches(date: str, time: str, dates: Range, times: Range) -> bool:
    """Tell what :func:`combined_clause` does, of one event."""
    low = not dates.low or (date >= dates.low and (date > dates.low or time >= times.low))
    high = not dates.high or (date <= dates.high and (date < dates.high or time <= high_end(times.high)))
    return date != "" and low and high


def minutes(offset: str) -> int | None:
    """An offset from UTC such as "+0100" in minutes; None for anything else."""
    if len(offset) != 5 or offset[0] not in "+-" or not offset[1:].isascii() or not offset[1:].isdigit() or int(offset[1:]) > 1400:
        return None
    total = int(offset[1:3]) * 60 + int(offset[3:])
    return -total if offset[0] == "-" else total


def shift(date: str, time: str, by: int) -> tuple[str, str]:
    """Move a date and its time by some minutes; what is incomplete or breaks form stays as it is."""
    whole, dot, fraction = time.partition(".")
    try:
        moved = datetime.strptime(date + whole, "%Y%m%d" + "%H%M%S"[: len(whole)]) + timedelta(minutes=by)
    except (ValueError, OverflowError):
        return date, time
    if len(date) != 8 or len(whole) not in (4, 6):
        return date, time
    return moved.strftime("%Y%m%d"), moved.strftime("%H%M%S")[: len(whole)] + dot + fraction


def day_around(wanted: Wanted) -> str:
    """The range of dates that holds what is wanted, whatever the offset it is meant in; "" where there is no telling."""
    terms = parse(wanted, "DA")
    if len(terms) != 1 or not isinstance(terms[0], Range):
        return ""
    low, high = _moved(terms[0].low, -1), _moved(terms[0].high, 1)
    return f"{low}-{high}" if low or high else ""


def _moved(date: str, days: int) -> str:
    try:
        return (datetime.strptime(date, "%Y%m%d") + timedelta(days=days)).strftime("%Y%m%d") if len(date) == 8 else ""
    except (ValueError, OverflowError):
        return ""
