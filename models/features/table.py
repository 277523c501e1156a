"""Features of a whole data set as a table: in parallel, resumed where it stopped, with a list of what was skipped.

One row a structure of an item, or a row an item where it has no mask. While it runs, finished items lie one JSON
line each in ``<out>.partial``; Parquet and CSV appear whole, at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.datasets.loading import ItemUnreadable, load
from models.datasets.protocol import DataSet, Item, Skipped
from models.errors import ModelError
from models.features.extract import Extraction, extract
from models.features.region import FeaturesRefused
from models.preprocess import Preprocessing

if TYPE_CHECKING:
    import pyarrow

Cell = str | float | None
Progress = Callable[[int, int], None]
#: Columns that say whose features a row has; those that follow bear the prefixes ``attribute.`` and ``label.``
IDENTITY = ("id", "subject", "structure")

AHEAD = 4  # items that wait for each process


class FeatureTableFailed(ModelError):
    """The table cannot be made; the message says why and what is kept."""


@dataclass(frozen=True)
class FeatureTable:
    """What became of a data set."""

    path: Path
    csv: Path
    rows: int
    features: tuple[str, ...]
    resumed: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class _Work:
    """What every process knows."""

    classes: tuple[str, ...]
    what: Extraction
    preprocessing: Preprocessing | None


@dataclass(frozen=True)
class _Outcome:
    rows: tuple[dict[str, Cell], ...] = ()
    skipped: tuple[Skipped, ...] = ()


def feature_table(
    dataset: DataSet,
    out: Path,
    what: Extraction | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    processes: int | None = None,
    progress: Progress = lambda done, of: None,
) -> FeatureTable:
    """Extract the features of every item that can be used.

    Parameters
    ----------
    out
        The Parquet file; the CSV stands beside it under the same name.
    preprocessing
        A bundle's graph, through which images and masks go first.
    processes
        As many as there are cores, by default. With 1 nothing is started.

    Raises
    ------
    FeatureTableFailed
        No item could be used, a process was killed, or the files cannot be written. Finished items stay in
        ``<out>.partial`` and are not computed again by the next call with the same settings.
    """
    work = _Work(tuple(dataset.classes), what or Extraction(), preprocessing)
    journal = _Journal(out.with_name(out.name + ".partial"))
    keys = {_key(item, work): item for item in dataset}
    done = {key: outcome for key, outcome in journal.read().items() if key in keys}
    resumed, total = len(done), len(keys)
    todo = [(key, item) for key, item in keys.items() if key not in done]
    with journal:
        for number, (key, outcome) in enumerate(_computed(todo, work, processes or os.cpu_count() or 1), resumed + 1):
            journal.add(key, outcome)
            done[key] = outcome
            progress(number, total)
    outcomes = [done[key] for key in keys]
    rows = [row for outcome in outcomes for row in outcome.rows]
    skipped = (*dataset.skipped, *(each for outcome in outcomes for each in outcome.skipped))
    if not rows:
        reasons = "; ".join(dict.fromkeys(each.reason for each in skipped))[:300]
        raise FeatureTableFailed(f"no item of {dataset.name} has features: {reasons}")
    csv = out.with_suffix(".csv")
    features = _write(rows, out, csv, {"data": dataset.name, "extraction": asdict(work.what), "graph": _graph(work)})
    journal.remove()
    return FeatureTable(out, csv, len(rows), features, resumed, skipped)


def read_features(path: Path) -> pyarrow.Table:
    """A table that :func:`feature_table` wrote, Parquet or CSV.

    Raises
    ------
    FeatureTableFailed
    """
    pyarrow = _pyarrow()
    from pyarrow import csv, parquet

    try:
        table = csv.read_csv(path) if path.suffix == ".csv" else parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise FeatureTableFailed(f"{path} cannot be read as a table of features ({type(error).__name__})") from error
    if not set(IDENTITY) <= set(table.column_names):
        raise FeatureTableFailed(f"{path} is no table of features: it has no columns {', '.join(IDENTITY)}")
    return table


def feature_names(columns: Iterable[str]) -> tuple[str, ...]:
    """The columns that hold features."""
    return tuple(name for name in columns if not name.startswith(("attribute.", "label.")) and name not in IDENTITY)


def item_rows(item: Item, classes: Sequence[str], what: Extraction, preprocessing: Preprocessing | None = None) -> _Outcome:
    """The rows of one item, and what of it was skipped."""
    try:
        image, mask = _pixels(item, classes, preprocessing)
    except ItemUnreadable as error:
        return _Outcome(skipped=(Skipped(error.where, item.provenance.get("row", item.id), error.reason),))
    spacing = [float(step) for step in image.pixdim[: image.ndim - 1]]
    values = np.asarray(image.as_tensor())
    rows, skipped = [], []
    for structure, region in _regions(mask, classes):
        try:
            found = extract(values, region, spacing, what)
        except FeaturesRefused as error:
            where = f"{item.id}{f', {structure}' if structure else ''}"
            skipped.append(Skipped(str(item.image[0]), where, str(error)))
            continue
        rows.append(_row(item, structure, found))
    return _Outcome(tuple(rows), tuple(skipped))


def _pixels(item: Item, classes: Sequence[str], preprocessing: Preprocessing | None) -> tuple[Any, Any]:
    sample = load(item, classes=len(classes) or None)
    if preprocessing is None:
        return sample.image, sample.mask
    data = {preprocessing.image_key: sample.image}
    if sample.mask is not None:
        data[preprocessing.mask_key] = sample.mask
    try:
        made = (preprocessing.image() if sample.mask is None else preprocessing.with_mask())(data)
    except Exception as error:  # transforms are foreign code and raise anything
        why = f"the preprocessing fails on it ({type(error).__name__}: {str(error)[:200]})"
        raise ItemUnreadable(str(item.image[0]), why) from error
    return made[preprocessing.image_key], made.get(preprocessing.mask_key)


def _regions(mask: Any, classes: Sequence[str]) -> Iterator[tuple[str, Any]]:
    if mask is None:
        yield "", None
        return
    labels = np.asarray(mask.as_tensor())[0]
    for value, name in enumerate(classes or ("region",), 1):
        yield name, labels == value if classes else labels > 0


def _row(item: Item, structure: str, found: Mapping[str, float]) -> dict[str, Cell]:
    return {
        "id": item.id,
        "subject": item.subject,
        "structure": structure,
        **{f"attribute.{name}": value for name, value in item.attributes.items()},
        **{f"label.{name}": float(value) for name, value in item.labels.items()},
        **found,
    }


def _key(item: Item, work: _Work) -> str:
    """Changes when a file of the item, what is known of it, or what is computed changes."""
    files = [(str(path), *_state(path)) for path in (*item.image, *([item.mask] if item.mask else []))]
    facts = [item.id, item.subject, files, dict(item.labels), dict(item.attributes), work.classes, asdict(work.what), _graph(work)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _graph(work: _Work) -> str:
    return work.preprocessing.digest if work.preprocessing else ""


def _computed(todo: Sequence[tuple[str, Item]], work: _Work, processes: int) -> Iterator[tuple[str, _Outcome]]:
    """Outcomes as they come; never more than a few items a process are on their way."""
    processes = min(processes, len(todo))
    if processes <= 1:
        for key, item in todo:
            yield key, item_rows(item, work.classes, work.what, work.preprocessing)
        return
    waiting = iter(todo)
    running: dict[Future[_Outcome], str] = {}
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(work,))
    try:
        while True:
            for key, item in waiting:
                running[pool.submit(_one, item)] = key
                if len(running) >= processes * AHEAD:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise FeatureTableFailed("a process was killed, perhaps for want of memory; what is done is kept: call it again") from error
    finally:
        pool.shutdown(cancel_futures=True)


_work: _Work | None = None


def _begin(work: _Work) -> None:
    """One thread a process: the processes are the parallelism."""
    import cv2
    import torch

    global _work
    _work = work
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _one(item: Item) -> _Outcome:
    assert _work is not None
    return item_rows(item, _work.classes, _work.what, _work.preprocessing)


class _Journal:
    """Finished items, a JSON line each; a line that was torn by a crash does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, _Outcome]:
        found = {}
        with suppress(FileNotFoundError), self.path.open("rb") as lines:
            for line in lines:
                with suppress(ValueError, KeyError, TypeError):
                    kept = json.loads(line)
                    found[kept["key"]] = _Outcome(tuple(kept["rows"]), tuple(Skipped(**each) for each in kept["skipped"]))
        return found

    def __enter__(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            self._file.write(b"\n" if self._file.tell() else b"")  # ends a torn line
        except OSError as error:
            raise FeatureTableFailed(f"{self.path} cannot be written: {error.strerror}") from error

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, key: str, outcome: _Outcome) -> None:
        line = json.dumps({"key": key, "rows": outcome.rows, "skipped": [asdict(each) for each in outcome.skipped]})
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise FeatureTableFailed(f"{self.path} cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _write(rows: Sequence[Mapping[str, Cell]], out: Path, csv_file: Path, about: Mapping[str, Any]) -> tuple[str, ...]:
    pyarrow = _pyarrow()
    from pyarrow import csv, parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    ordered = [*IDENTITY, *(name for name in names if name.startswith(("attribute.", "label."))), *feature_names(names)]
    columns = {name: _column([row.get(name) for row in rows]) for name in ordered}
    table = pyarrow.table(columns).replace_schema_metadata({"dicom_node": json.dumps(about, sort_keys=True)})
    for path, write in ((out, parquet.write_table), (csv_file, csv.write_csv)):
        new = path.with_name(f".{path.name}.new")
        try:
            write(table, new)
            new.replace(path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise FeatureTableFailed(f"{path} cannot be written: {error.strerror}") from error
    return feature_names(ordered)


def _column(cells: Sequence[Cell]) -> list[Cell]:
    """An attribute that is a number here and a word there is a word."""
    if any(isinstance(cell, str) for cell in cells):
        return [cell if cell is None else str(cell) for cell in cells]
    return [cell if cell is None else float(cell) for cell in cells]


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise FeatureTableFailed("tables need pyarrow: pip install 'dicom-node[training]'") from error
    return pyarrow
