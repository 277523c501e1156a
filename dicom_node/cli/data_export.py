"""``data export``: a training set without identity out of the archive."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, quiet_node, with_json

KEEP = {
    "patient": "sex, age (90 and more as 90), size, weight",
    "dates": "dates, all of a patient moved alike",
    "device": "station and serial",
}


def add(data: Any) -> None:
    parser = command(
        data,
        "export",
        "write a de-identified training set out of the archive",
        description="Write images that a query finds, with masks from SEG or labels from SR objects, after the Basic Application Level\n"
        "Confidentiality Profile (PS3.15 Annex E): new UIDs and subjects from a secret, no names, no dates, no private attributes, no\n"
        "free text. What states burned-in annotation is refused. manifest.jsonl is read by every other data and model command.",
        example="dicom-node data export --query 'Modality=CR&BodyPartExamined=CHEST&task=segmentation&classes=Lungs' --out ./lungs",
    )
    parser.add_argument(
        "--query",
        required=True,
        metavar="KEY=VALUE&...",
        help="DICOM keywords as in C-FIND (wildcard, range, list); task=segmentation|classification|feedback|none and classes=A,B",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="new or empty folder")
    kept = "; ".join(f"{name}: {what}" for name, what in KEEP.items())
    parser.add_argument(
        "--keep", action="append", default=[], choices=list(KEEP), help=f"an option of the profile, may be repeated ({kept})"
    )
    parser.add_argument(
        "--secret",
        type=Path,
        metavar="FILE",
        help="what pseudonyms are derived from, so that a later export fits this one; made where missing. Without it nobody can link back",
    )
    parser.add_argument(
        "--feedback",
        action="append",
        default=[],
        choices=["accept", "modify", "reject"],
        help="only images of which a radiologist judged a finding so, may be repeated; with task=feedback that is what is learnt",
    )
    with_json(parser)
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    from dicom_node.datasets.archive import parse_question
    from dicom_node.datasets.confidentiality import Option
    from dicom_node.datasets.export import export, secret_from

    options = {"patient": Option.PATIENT, "dates": Option.SHIFT, "device": Option.DEVICE}
    question = parse_question(arguments.query)
    question = replace(question, verdicts=(*question.verdicts, *arguments.feedback))
    secret = secret_from(arguments.secret, arguments.out)
    with quiet_node(configuration(arguments)) as node:
        done = export(
            node.archive,
            question,
            arguments.out,
            secret=secret,
            options=frozenset(options[name] for name in arguments.keep),
            progress=output.counter(),
        )
    if arguments.json:
        output.data({"manifest": done.manifest, **done.told})
        return
    told = done.told
    output.line(f"{told['items']} items of {told['subjects']} subjects, {told['images']} images: {done.manifest}")
    if told["feedback"]:
        output.line("judged by radiologists: " + ", ".join(f"{name} {count}" for name, count in sorted(told["feedback"].items())))
    for reason, count in told["skipped"].items():
        output.note(f"skipped {count}: {reason}")
    if told["burned_in_annotation_not_stated"]:
        output.note(f"{told['burned_in_annotation_not_stated']} images do not state whether text is burned into them: look at them")
    for each in told["not_done"]:
        output.note(each)
