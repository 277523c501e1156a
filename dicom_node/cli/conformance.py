"""``conformance``: the DICOM conformance statement of a node of this configuration."""

from __future__ import annotations

import argparse
from typing import Any

from dicom_node.cli import output
from dicom_node.cli.common import command
from dicom_node.config import Config, find_file, load


def add(commands: Any) -> None:
    parser = command(
        commands,
        "conformance",
        "print the DICOM conformance statement",
        description="Print what a node of this configuration conforms to (PS3.2), generated from the services and addresses it registers.",
        example="dicom-node conformance --format html > conformance.html",
    )
    parser.add_argument("--format", choices=("md", "html"), default="md", help="Markdown (default) or one HTML page")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from dicom_node import log
    from dicom_node.conformance.document import html, markdown
    from dicom_node.conformance.sources import registered_by
    from dicom_node.conformance.statement import statement

    log.configure("warning", role="cli")
    file = find_file(arguments.config)
    config = load(file) if file.exists() or arguments.config else Config()
    with registered_by(config) as found:
        document = statement(found)
    output.line(html(document) if arguments.format == "html" else markdown(document))
