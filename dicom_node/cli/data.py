"""``data describe | split``; ``data clean`` and ``data export`` stand in modules of their own."""

from __future__ import annotations

import argparse
import atexit
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.cli import data_clean, data_export, output
from dicom_node.cli.common import command, configuration, group, quiet_node, with_json
from dicom_node.errors import EXIT_FAILED, EXIT_OK, UsageError

if TYPE_CHECKING:
    from models.datasets.collection import Collection

ARCHIVE = "archive:"
DATA_HELP = "data set: KIND:PATH?OPTION=VALUE&..., or a TOML file with a [data] table (README, 'Data sets')"


def add(commands: Any) -> None:
    data = group(commands, "data", "data sets: describe, clean, split by subject")
    _add_describe(data)
    data_clean.add(data)
    _add_split(data)
    data_export.add(data)


def with_data(parser: argparse.ArgumentParser) -> None:
    """The option that names a data set."""
    parser.add_argument("--data", required=True, metavar="SPEC", help=DATA_HELP)


def opened(arguments: argparse.Namespace) -> Collection:
    """The data set that a command was called with; what its reader skipped is told on standard error."""
    from models.datasets.source import open_dataset

    if arguments.data.startswith(ARCHIVE):
        dataset = _of_archive(arguments)
    else:
        dataset = open_dataset(arguments.data)
    for each in dataset.skipped[:10]:
        output.note(f"skipped {each.where}, {each.row}: {each.reason}")
    if len(dataset.skipped) > 10:
        output.note(f"skipped {len(dataset.skipped) - 10} more")
    return dataset


def _of_archive(arguments: argparse.Namespace) -> Collection:
    """Images of the node's own archive, copied for as long as the command runs."""
    from dicom_node.datasets.archive import collected, parse_question

    question = parse_question(arguments.data.removeprefix(ARCHIVE).lstrip("?"))
    folder = tempfile.TemporaryDirectory(prefix="dicom-node-data-")
    atexit.register(folder.cleanup)
    with quiet_node(configuration(arguments)) as node:
        return collected(node.archive, question, Path(folder.name), progress=output.counter())


def _add_describe(data: Any) -> None:
    parser = command(
        data,
        "describe",
        "show what is in a data set: counts, geometry, intensity, balance, groups, contact sheet",
        description="Look at every image and show what there is: counts, geometry, intensities, balance of labels, a table for each\n"
        "attribute (site, scanner, view, sex, ...), and what may be a problem. The folder gets description.json, contact-sheet.png,\n"
        "fingerprint.json and survey.jsonl, from which an interrupted run goes on.",
        example="dicom-node data describe --data voc:./BCCD --out ./described",
    )
    with_data(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("data-description"), metavar="DIR", help="folder for the files (default: %(default)s)"
    )
    parser.add_argument("--splits", type=Path, metavar="FILE", help="a stored split: show its parts too")
    with_json(parser)
    parser.set_defaults(run=_describe)


def _describe(arguments: argparse.Namespace) -> int:
    from dicom_node.cli.data_survey import looked_at
    from dicom_node.cli.data_tables import show
    from models.datasets.describe import describe
    from models.datasets.sheet import contact_sheet
    from models.datasets.splits import read_split
    from models.datasets.writing import write_bytes, write_text

    dataset = opened(arguments)
    parts = read_split(arguments.splits, dataset).parts if arguments.splits else None
    looks, complete = looked_at(dataset, arguments.out)
    found = describe(dataset, looks, parts)
    write_text(arguments.out / "description.json", json.dumps(output.plain(found), indent=1, ensure_ascii=False) + "\n")
    write_text(arguments.out / "fingerprint.json", found.fingerprint.to_json())
    write_bytes(arguments.out / "contact-sheet.png", contact_sheet([item for item in dataset if item.id in looks], dataset.classes))
    if arguments.json:
        output.data(found)
    else:
        show(found)
        output.line(f"wrote {arguments.out / 'description.json'}, fingerprint.json and contact-sheet.png")
    return EXIT_OK if complete else EXIT_FAILED


def _add_split(data: Any) -> None:
    parser = command(
        data,
        "split",
        "make training, validation and test parts by subject, and store them",
        description="Make training, validation and test parts: by subject, stratified, seeded. The split is kept in a file\n"
        "with the digest of the records, and is refused where a subject would be in two parts.",
        example="dicom-node data split --data 'pairs:./lungs?classes=lung' --out lungs.split.json --stratify-by mask",
    )
    with_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the split is stored (JSON)")
    parser.add_argument(
        "--fractions", default="0.6,0.15,0.25", metavar="A,B,C", help="shares of train, validation and test (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed makes another split (default: %(default)s)")
    parser.add_argument("--stratify-by", metavar="WHAT", help="label, mask, an attribute such as sex or site, or several with commas")
    parser.add_argument("--stated", action="store_true", help="take the parts that the data set itself states")
    with_json(parser)
    parser.set_defaults(run=_split)


def _split(arguments: argparse.Namespace) -> None:
    from models.datasets.splits import PARTS, from_attributes, split, write_split

    fractions = _fractions(arguments.fractions)
    if arguments.stated and arguments.stratify_by:
        raise UsageError("--stated takes the data set's own parts; nothing can be stratified then")
    dataset = opened(arguments)
    parts = from_attributes(dataset) if arguments.stated else split(dataset, fractions, arguments.seed, arguments.stratify_by)
    made = {} if arguments.stated else {"seed": arguments.seed, "fractions": fractions, "stratify_by": arguments.stratify_by}
    kept = write_split(arguments.out, dataset, parts, **made)
    subjects = {part: len({item.subject for item in dataset if parts.get(item.id) == part}) for part in PARTS}
    if arguments.json:
        output.data({"file": arguments.out, "items": kept.counts, "subjects": subjects, "records": kept.records})
        return
    output.table(("part", "subjects", "items"), [(part, subjects[part], kept.counts[part]) for part in PARTS])
    output.line(f"wrote {arguments.out}")


def _fractions(text: str) -> dict[str, float]:
    from models.datasets.splits import PARTS

    try:
        shares = [float(each) for each in text.split(",")]
        return dict(zip(PARTS, shares, strict=True))
    except ValueError as error:
        raise UsageError(f"--fractions takes three numbers with commas, for train, validation and test; not '{text}'") from error
