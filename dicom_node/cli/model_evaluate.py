"""``model evaluate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.cli import output
from dicom_node.cli.common import command, with_json
from dicom_node.cli.data import opened, with_data
from dicom_node.config import find_file, load
from dicom_node.errors import CommandFailed, UsageError

if TYPE_CHECKING:
    from models.evaluation.evaluate import Comparison, Report
    from models.evaluation.run import Progress
    from models.features.classical import Table

FEWEST = 40  # draws: one beyond each end of an interval of 95 %
REPORT, PAGE, ITEMS = "report.json", "report.html", "items.csv"


def add(models: Any) -> None:
    parser = command(
        models,
        "evaluate",
        "measure a model on a part of a data set, and write a report",
        description="Predict every item of a part of a data set as the node would, and compare with what is known of it.\n"
        f"Written to DIR: {PAGE} (for people, one file, no network), {REPORT} (for `release add` and programs), {ITEMS}.\n"
        "Intervals are 95 %, by drawing subjects again and again. Called again after it was killed, it goes on where it was.",
        example="dicom-node model evaluate cxr_lungs --data 'pairs:./lungs?classes=lung' --splits lungs.split.json --out ./evaluation",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="name or folder")
    with_data(parser)
    parser.add_argument("--splits", type=Path, metavar="FILE", help="a stored split (`data split`); without it all items are taken")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="which part (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--against", metavar="BUNDLE", help="another model, on the same items: differences with paired intervals")
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="a table of `model features`: the best classical model on it, fitted on train, beside this model on the same test items",
    )
    parser.add_argument(
        "--threshold",
        metavar="RULE",
        help="choose thresholds on the validation part: youden, sensitivity=0.95 (default: the model's)",
    )
    parser.add_argument("--worst", type=int, default=12, metavar="N", help="how many of the worst items to show (default: %(default)s)")
    parser.add_argument("--replicates", type=int, default=2000, metavar="N", help="draws for the intervals (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    with_json(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from models.bundle import load_bundle
    from models.datasets.splits import read_split
    from models.evaluation.evaluate import Options, evaluate

    if arguments.against and arguments.baseline:
        raise UsageError("a report compares with one: --against or --baseline")
    if arguments.replicates < FEWEST:
        raise UsageError(f"--replicates {arguments.replicates}: an interval of 95 % wants at least {FEWEST} draws")
    file = find_file(arguments.config)
    places = load(file).node if arguments.config or file.exists() else None
    folders, cache = (places.bundles, places.weights) if places else ((), None)
    bundle = load_bundle(arguments.bundle, folders)
    against = load_bundle(arguments.against, folders) if arguments.against else _table(arguments.baseline)
    dataset = opened(arguments)
    splits = read_split(arguments.splits, dataset).parts if arguments.splits else None
    _make(arguments.out)
    with _progress() as progress:
        options = Options(
            device=arguments.device,
            cache=cache,
            threshold=arguments.threshold,
            replicates=arguments.replicates,
            seed=arguments.seed,
            worst=max(arguments.worst, 0),
            journal=arguments.out,
            progress=progress,
        )
        report = evaluate(bundle, dataset, splits, arguments.split, against=against, options=options)
    _write(arguments.out, report)
    _tell(arguments, report)


def _table(path: Path | None) -> Table | None:
    if path is None:
        return None
    from models.features.classical import from_features
    from models.features.table import read_features

    return from_features(read_features(path))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"{folder} cannot be made: {error.strerror}") from error


def _write(folder: Path, report: Report) -> None:
    from models.evaluation.journal import clear
    from models.evaluation.page import write_page
    from models.evaluation.report import write_items, write_json

    try:
        write_items(report, folder / ITEMS)
        write_page(report, folder / PAGE)
        write_json(report, folder / REPORT)
        clear(folder)
    except OSError as error:
        raise CommandFailed(f"the report cannot be written to {folder}: {error.strerror}") from error


def _tell(arguments: argparse.Namespace, report: Report) -> None:
    from models.evaluation.report import as_json

    if arguments.json:
        output.data(as_json(report))
        return
    rows = [(name, _text(each.value), _text(each.low), _text(each.high), each.n) for name, each in report.figures.items()]
    output.table(("figure", "value", "low", "high", "n"), rows)
    if report.comparison is not None:
        _beside(report.comparison)
    for note in report.notes:
        output.note(note)
    if report.measured.skipped:
        output.note(f"{len(report.measured.skipped)} items could not be used; the report lists them")
    for name in (PAGE, REPORT, ITEMS):
        output.line(f"wrote {arguments.out / name}")


def _beside(other: Comparison) -> None:
    output.line(f"beside {other.model.name} {other.model.version}".rstrip() + ", on the same items:")
    rows = [
        (name, _text(other.figures[name].value), _text(each.value), _text(each.low), _text(each.high))
        for name, each in other.differences.items()
    ]
    output.table(("figure", "of the other", "this one is better or worse by", "low", "high"), rows)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("evaluating")
        yield lambda done, total: bar.update(task, completed=done, total=total)
