"""``init`` and ``check``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, with_json
from dicom_node.config import find_file
from dicom_node.errors import EXIT_FAILED, EXIT_OK, UsageError

TEMPLATE = Path(__file__).with_name("template.toml")


def add(commands: Any) -> None:
    init = command(commands, "init", "write a commented configuration", example="dicom-node init --config node.toml")
    init.add_argument("--force", action="store_true", help="overwrite a file that is there")
    init.set_defaults(run=_init)
    check = command(
        commands,
        "check",
        "see whether everything that the configuration names works",
        description="Check configuration, database, archive, peers (naming the step that fails: tcp, tls, association, echo), devices and "
        "models. Exit code 1 when anything fails.",
    )
    with_json(check)
    check.set_defaults(run=_check)


def _init(arguments: argparse.Namespace) -> None:
    path = find_file(arguments.config)
    if path.exists() and not arguments.force:
        raise UsageError(f"{path} exists; --force overwrites it")
    path.write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    output.line(f"wrote {path}; next: edit [[peer]] and [[rule]], then dicom-node check --config {path}")


def _check(arguments: argparse.Namespace) -> int:
    from dicom_node.checks import check_all

    config = configuration(arguments)
    results = list(check_all(config))
    failed = [result for result in results if not result.ok]
    if arguments.json:
        output.data({"ok": not failed, "checks": results})
    else:
        rows = [("ok" if result.ok else "FAILED", result.subject, result.detail) for result in results]
        output.table(("", "what", "detail"), rows)
    return EXIT_FAILED if failed else EXIT_OK
