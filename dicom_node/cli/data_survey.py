"""What ``data describe`` and ``data clean`` share: the look at every image, with a progress bar, kept when it is interrupted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.cli import output

if TYPE_CHECKING:
    from models.datasets.protocol import DataSet
    from models.datasets.survey import Look

JOURNAL = "survey.jsonl"


def looked_at(dataset: DataSet, out: Path) -> tuple[dict[str, Look], bool]:
    """Looks at the items by id, and whether all were taken before Ctrl-C; ``out`` keeps them for the next run."""
    from models.datasets.survey import survey

    looks: dict[str, Look] = {}
    classes = len(dataset.classes) if dataset.task == "segmentation" and dataset.classes else None
    try:
        with progress("looking at images") as step:
            survey(dataset, classes=classes, journal=out / JOURNAL, progress=step, looks=looks)
    except KeyboardInterrupt:
        output.note(f"interrupted after {len(looks)} of {len(dataset)} images; the same command goes on from there")
        return looks, False
    return looks, True


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere a line every half minute."""
    if not sys.stderr.isatty():
        told = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told > 30 and done < total:
                told = time.monotonic()
                output.note(f"{what}: {done} of {total}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
