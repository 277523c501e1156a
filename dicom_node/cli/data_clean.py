"""``data clean``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.cli import output
from dicom_node.cli.common import command, with_json
from dicom_node.errors import EXIT_FAILED, EXIT_OK, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.datasets.collection import Collection


def add(data: Any) -> None:
    from dicom_node.cli.data import with_data

    parser = command(
        data,
        "clean",
        "find what is wrong in a data set, and write a manifest without it",
        description="Find unreadable, blank and clipped images, exact and near duplicates, contradicting labels, wrong modality or\n"
        "orientation, boxes outside of images, and what is in two parts of a split. The folder gets clean.html, clean.json,\n"
        "cleaned.jsonl (a manifest without what is wrong) and survey.jsonl, from which an interrupted run goes on. Nothing is deleted.",
        example="dicom-node data clean --data 'table:./cxr/labels.csv' --splits cxr.split.json --out ./cleaned",
    )
    with_data(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("data-cleaning"), metavar="DIR", help="folder for the files (default: %(default)s)"
    )
    parser.add_argument(
        "--splits", type=Path, metavar="FILE", help="a stored split: find what is in two parts (default: the data set's own)"
    )
    parser.add_argument("--modality", metavar="A,B", default="", help="the right modalities (default: the one that nearly all images have)")
    parser.add_argument(
        "--drop", action="append", default=[], metavar="KIND", help="leave items with this finding out too; may be repeated"
    )
    parser.add_argument("--keep", action="append", default=[], metavar="KIND", help="do not leave them out; may be repeated")
    with_json(parser)
    parser.set_defaults(run=_clean)


def _clean(arguments: argparse.Namespace) -> int:
    from dicom_node.cli.data import opened
    from dicom_node.cli.data_survey import looked_at
    from models.datasets.clean import KINDS, LEFT_OUT, Rules, clean
    from models.datasets.clean_report import as_html, as_json
    from models.datasets.manifest import write_manifest
    from models.datasets.source import words
    from models.datasets.writing import write_text

    for kind in (*arguments.drop, *arguments.keep):
        if kind not in KINDS:
            raise UsageError(f"'{kind}' is no kind of finding; there are {', '.join(KINDS)}")
    leave_out = (frozenset(LEFT_OUT) | set(arguments.drop)) - set(arguments.keep)
    dataset = opened(arguments)
    parts = _parts(arguments, dataset)
    looks, complete = looked_at(dataset, arguments.out)
    found = clean(dataset, looks, Rules(words(arguments.modality), frozenset(leave_out)), parts)
    report = as_json(dataset, found)
    write_text(arguments.out / "clean.json", report)
    write_text(arguments.out / "clean.html", as_html(dataset, found))
    if complete:  # a manifest of what nobody looked at would pass for clean
        kept = set(found.kept)
        write_manifest(arguments.out / "cleaned.jsonl", dataset, [item for item in dataset if item.id in kept])
    if arguments.json:
        output.line(report.rstrip())
        return EXIT_OK if complete else EXIT_FAILED
    rows = [(kind, count, "left out" if kind in leave_out else "to be looked at") for kind, count in found.counts.items()]
    output.table(("found", "times", "items"), rows)
    output.line(f"{len(found.kept)} of {len(dataset)} items kept, {len(dataset.skipped)} skipped by the reader")
    output.line(f"wrote {arguments.out / 'clean.html'}, clean.json" + (" and cleaned.jsonl" if complete else ""))
    return EXIT_OK if complete else EXIT_FAILED


def _parts(arguments: argparse.Namespace, dataset: Collection) -> Mapping[str, str]:
    from models.datasets.splits import read_split

    if arguments.splits:
        return read_split(arguments.splits, dataset, other_data=True, leaking=True).parts
    return {item.id: str(item.attributes["split"]) for item in dataset if item.attributes.get("split")}
