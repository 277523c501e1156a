"""What commands share: the --config and --json options, and opening the node they speak of."""

from __future__ import annotations

import argparse
import contextlib
import getpass
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dicom_node.config import Config, find_file, load

if TYPE_CHECKING:
    from dicom_node.node import Node
    from storage.database import Database


def command(commands: Any, name: str, help_text: str, *, description: str = "", example: str = "") -> argparse.ArgumentParser:
    """Add a command with ``--config``, a description and an example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=description or help_text[0].upper() + help_text[1:] + ".",
        epilog=f"example:\n  {example}" if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="configuration (default: $DICOM_NODE_CONFIG, else dicom-node.toml here)")
    return parser


def group(commands: Any, name: str, help_text: str) -> Any:
    """Add a command that has commands of its own."""
    parser = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    return parser.add_subparsers(dest=f"{name}_command", metavar="COMMAND", required=True)


def with_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def with_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", required=True, help="why; kept in the audit trail")


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration that a command was called with."""
    return load(find_file(arguments.config))


def who() -> str:
    """The person at the keyboard, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@contextlib.contextmanager
def quiet_node(config: Config) -> Iterator[Node]:
    """The node of a configuration, opened for one command; only warnings are logged."""
    from dicom_node import log
    from dicom_node.node import open_node

    log.configure("warning", role="cli")
    with open_node(config, "cli") as node:
        yield node


@contextlib.contextmanager
def index_of(config: Config) -> Iterator[Database]:
    """The index alone, for commands that only read or change rows."""
    from dicom_node import log
    from storage.database import open_database

    log.configure("warning", role="cli")
    database = open_database(config.database_url)
    try:
        yield database
    finally:
        database.close()
