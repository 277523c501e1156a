"""``model features``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from dicom_node.cli import output
from dicom_node.cli.common import command, with_json
from dicom_node.cli.data import opened, with_data
from dicom_node.config import find_file, load
from dicom_node.errors import UsageError

if TYPE_CHECKING:
    from typing import Any

    from models.datasets.collection import Collection
    from models.features.classical import Baseline
    from models.features.extract import Extraction
    from models.preprocess import Preprocessing


def add(models: Any) -> None:
    parser = command(
        models,
        "features",
        "features of a data set as a table: intensity, texture, edges, shape, colour",
        description="Take features of every image of a data set, or of every structure of its masks, and write a table: FILE (Parquet)\n"
        "and a CSV beside it. A run that was interrupted goes on where it was when it is called again.",
        example="dicom-node model features --data 'pairs:./lungs?classes=lung' --out ./lungs.parquet",
    )
    with_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table (.parquet)")
    parser.add_argument("--classes", metavar="A,B", help="intensity, glcm, lbp, gabor, edge, shape, colour (default: all)")
    parser.add_argument("--bin-width", type=float, metavar="N", help="grey levels of this width in the image's own values")
    parser.add_argument("--bins", type=int, default=32, metavar="N", help="or so many between lowest and highest (default: %(default)s)")
    parser.add_argument("--bundle", metavar="BUNDLE", help="take the images as this model sees them: through its preprocessing")
    parser.add_argument("--processes", type=int, metavar="N", help="default: one a core")
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="SPLIT",
        help="a stored split (`data split`): also fit classical models, and judge the best on test",
    )
    with_json(parser)
    parser.set_defaults(run=_features)


def _features(arguments: argparse.Namespace) -> None:
    from models.features.table import feature_table

    if arguments.out.suffix != ".parquet":
        raise UsageError(f"--out names a .parquet file (the CSV is written beside it), not '{arguments.out.name}'")
    what, graph = _extraction(arguments), _graph(arguments)
    dataset = opened(arguments)
    progress = output.counter() or (lambda done, of: None)
    made = feature_table(dataset, arguments.out, what, preprocessing=graph, processes=arguments.processes, progress=progress)
    baseline = _baseline(arguments, dataset)
    skipped = made.skipped[len(dataset.skipped) :]
    if arguments.json:
        output.data({**output.plain(made), **({"baseline": {**output.plain(baseline), "cases": None}} if baseline else {})})
        return
    for each in skipped[:10]:
        output.note(f"skipped {each.where}, {each.row}: {each.reason}")
    if len(skipped) > 10:
        output.note(f"skipped {len(skipped) - 10} more")
    if made.resumed:
        output.note(f"{made.resumed} items were done before")
    output.line(f"{made.rows} rows of {len(made.features)} features")
    output.line(f"wrote {made.path}")
    output.line(f"wrote {made.csv}")
    if baseline:
        _tell(baseline)


def _baseline(arguments: argparse.Namespace, dataset: Collection) -> Baseline | None:
    if arguments.baseline is None:
        return None
    from models.datasets.splits import read_split
    from models.features.classical import fit_baseline, from_features
    from models.features.table import read_features

    return fit_baseline(from_features(read_features(arguments.out)), read_split(arguments.baseline, dataset).parts)


def _tell(baseline: Baseline) -> None:
    for each in baseline.tried:
        output.note(f"{each.kind} {dict(each.settings)}: validation ROC AUC {each.roc_auc:.4f}")
    output.line(f"best on validation: {baseline.kind} {dict(baseline.settings)}; on {baseline.counts['test']} test items:")
    figures = baseline.figures.items()
    output.table(("figure", "value", "low", "high", "n"), [(name, *map(_number, (f.value, f.low, f.high)), f.n) for name, f in figures])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _extraction(arguments: argparse.Namespace) -> Extraction:
    from models.features.extract import CLASSES, Extraction, FeatureClass

    if arguments.bins < 2 or (arguments.bin_width is not None and not arguments.bin_width > 0):
        raise UsageError("--bins is 2 or more, and --bin-width above 0")
    if arguments.processes is not None and arguments.processes < 1:
        raise UsageError("--processes is 1 or more")
    if arguments.classes is None:
        return Extraction(CLASSES, arguments.bin_width, arguments.bins)
    named = [each.strip() for each in arguments.classes.split(",")]
    strange = [each for each in named if each not in get_args(FeatureClass)]
    if strange:
        raise UsageError(f"there are no features of the class '{strange[0]}'; there are {', '.join(CLASSES)}")
    return Extraction(tuple(each for each in CLASSES if each in named), arguments.bin_width, arguments.bins)


def _graph(arguments: argparse.Namespace) -> Preprocessing | None:
    if arguments.bundle is None:
        return None
    from models.bundle import load_bundle
    from models.preprocess import Preprocessing

    file = find_file(arguments.config)
    folders = load(file).node.bundles if arguments.config or file.exists() else ()
    return Preprocessing.from_bundle(load_bundle(arguments.bundle, folders))
