"""What commands print: tables on a terminal, tab-separated lines in a pipe, JSON where it was asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dicom_node.clock import local
from dicom_node.plain import plain as plain


def line(text: str = "") -> None:
    """Print one line."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Say something beside the data: on standard error."""
    sys.stderr.write(text + "\n")


def counter() -> Callable[[int, int], None] | None:
    """Shows (done, all) on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        sys.stderr.write(f"\r{done} of {total}" + ("\n" if done == total else ""))

    return show


def data(value: Any) -> None:
    """Print a value as JSON."""
    line(json.dumps(plain(value), indent=2, ensure_ascii=False))


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print rows: a table on a terminal, one line a row with tabs elsewhere."""
    texts = [[_text(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in texts:
            line("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    for row in texts:
        shown.add_row(*(escape(cell) for cell in row))
    Console().print(shown)


def moment(at: float | None) -> str:
    """A time for people."""
    return "" if at is None else local(at)


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)
