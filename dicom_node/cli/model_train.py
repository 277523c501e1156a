"""``model train``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.cli import output
from dicom_node.cli.common import command, with_json
from dicom_node.cli.data import opened, with_data
from dicom_node.errors import UsageError

if TYPE_CHECKING:
    from models.datasets.collection import Collection
    from models.training.board import Board
    from models.training.config import TrainingConfig
    from models.training.run import Trained

#: A pipe gets no line a step: one an epoch is enough.
OUTSIDE = ("epoch", "loss", "rate", "seconds")


def add(models: Any) -> None:
    parser = command(
        models,
        "train",
        "train a model from one configuration and a data set; the result is a bundle",
        description="Train a model and write a bundle that the node can serve: configs, dicom.toml, safetensors, model card,\n"
        "data fingerprint. CONFIG is a TOML file, or the name of one that ships: cxr_lungs, hippocampus, bccd.\n"
        "Checkpoints, the cache and the list of skipped items lie in DIR.training until you remove them.",
        example="dicom-node model train cxr_lungs --data 'pairs:./lungs?classes=lung' --out ./models/cxr_lungs",
    )
    parser.add_argument("training", metavar="CONFIG", help="TOML file, or the name of a shipped one")
    with_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle to write; must not exist")
    parser.add_argument("--splits", type=Path, metavar="FILE", help="a stored split (`data split`); default: the configuration's [split]")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, where there is one")
    parser.add_argument("--device", help="cpu or cuda:N; default: the configuration's")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where prepared items are kept (default: DIR.training/cache)")
    parser.add_argument("--pretrained", type=Path, metavar="FILE", help="safetensors to start from, as pretraining writes them")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="also write the curve for TensorBoard")
    with_json(parser)
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    from models.training.run import train

    config = _config(arguments)
    dataset = opened(arguments)
    splits = _splits(arguments, config, dataset)
    with _Show(arguments.tensorboard) as show:
        done = train(config, dataset, splits, arguments.out, resume=arguments.resume, cache=arguments.cache, listener=show)
    _tell(arguments, done)


def _config(arguments: argparse.Namespace) -> TrainingConfig:
    from models.training.config import read_config, shipped

    named = Path(arguments.training)
    config = read_config(named if named.is_file() else shipped(arguments.training))
    given = {"device": arguments.device, "pretrained": arguments.pretrained and str(arguments.pretrained)}
    return config.model_copy(update={"run": config.run.model_copy(update={name: value for name, value in given.items() if value})})


def _splits(arguments: argparse.Namespace, config: TrainingConfig, dataset: Collection) -> Mapping[str, str]:
    from models.datasets.splits import from_attributes, read_split, split, write_split
    from models.training.run import work_folder

    if arguments.splits:
        return read_split(arguments.splits, dataset).parts
    wanted = config.split
    kept = work_folder(arguments.out) / "split.json"
    if wanted.own:
        return from_attributes(dataset)
    if kept.exists() and arguments.resume:
        return read_split(kept, dataset).parts
    fractions = {"train": wanted.train, "validation": wanted.validation, "test": wanted.test}
    parts = split(dataset, fractions, wanted.seed, wanted.stratify_by)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_split(kept, dataset, parts, seed=wanted.seed, fractions=fractions, stratify_by=wanted.stratify_by)
    return parts


def _tell(arguments: argparse.Namespace, done: Trained) -> None:
    record = done.record
    if arguments.json:
        output.data({"bundle": done.folder, **record.as_json()})
        return
    figures = {**{f"validation {name}": value for name, value in record.validation.items()}, **record.figures}
    output.table(("figure", "value"), [(name, f"{value:.4f}") for name, value in figures.items()])
    if record.skipped:
        output.note(f"{len(record.skipped)} items were skipped; docs/training.json lists them")
    output.line(f"wrote {done.folder} after {record.seconds / 60:.1f} minutes of training")


class _Show:
    """Bars on a terminal, a line an epoch elsewhere."""

    def __init__(self, log: Path | None) -> None:
        self._log, self._board = log, None if log is None else _board(log)
        self._bars: Any = None
        self._epochs: Any = None
        self._steps: Any = None
        self._prepared: Any = None
        self._told = 0.0

    def __enter__(self) -> _Show:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()
        if self._board:
            self._board.close()

    def note(self, text: str) -> None:
        if self._bars:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            output.note(text)

    def preparing(self, done: int, of: int) -> None:
        if self._bars:
            if self._prepared is None:
                self._prepared = self._bars.add_task("preparing", total=of)
            self._bars.update(self._prepared, completed=done)
        elif done == of or time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            output.note(f"prepared {done} of {of} items")

    def step(self, epoch: int, step: int, of: int, loss: float) -> None:
        if not self._bars:
            return
        if self._steps is None:
            self._steps = self._bars.add_task("steps", total=of)
        self._bars.update(self._steps, completed=step, description=f"epoch {epoch}, loss {loss:.3f}")

    def epoch(self, row: dict[str, float], epochs: int, best: bool) -> None:
        if self._board:
            self._board.row(row)
        figures = ", ".join(f"{name} {value:.4f}" for name, value in row.items() if name not in OUTSIDE)
        text = f"epoch {row['epoch']:.0f} of {epochs}: loss {row['loss']:.4f}{', ' + figures if figures else ''}{' (best)' if best else ''}"
        if self._bars:
            if self._epochs is None:
                self._epochs = self._bars.add_task("epochs", total=epochs)
            self._bars.update(self._epochs, completed=int(row["epoch"]))
            if figures:
                self.note(text)
        else:
            output.note(f"{text}, {row['seconds']:.0f} s")


def _board(folder: Path) -> Board:
    from models.training.board import Board

    if folder.is_file():
        raise UsageError(f"--tensorboard takes a folder, and {folder} is a file")
    return Board(folder)
