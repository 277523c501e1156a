"""Tables: CSV files, plain or gzip, with their columns found by name whatever their case and spelling."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from models.datasets.collection import DataSetRefused

Row = Mapping[str, str]


def rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Line number (the head is line 1) and row; keys are the head's words, values are stripped.

    Raises
    ------
    DataSetRefused
        The file cannot be read as a table of text.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="") as file
        ):
            reader = csv.DictReader(file)
            for row in reader:
                yield (
                    reader.line_num,
                    {key: (value or "").strip() for key, value in row.items() if isinstance(key, str) and not isinstance(value, list)},
                )
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataSetRefused(path, f"it cannot be read as a table ({type(error).__name__})") from error


def head(path: Path) -> tuple[str, ...]:
    """The names of the columns."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="") as file
        ):
            return tuple(next(csv.reader(file), ()))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataSetRefused(path, f"it cannot be read as a table ({type(error).__name__})") from error


def find(columns: Sequence[str], named: str | None, usual: Sequence[str]) -> str | None:
    """The column that was named, or the first that has a usual name; case, spaces and underscores do not count."""
    spelled = {_plain(column): column for column in columns}
    for each in [named] if named else usual:
        if _plain(each) in spelled:
            return spelled[_plain(each)]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def number(text: str) -> float | None:
    """A finite number, else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
