"""``dicom-node``: arguments in, exit code out. 0: done; 1: it did not work; 2: called or configured wrongly."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from dicom_node.dimse.errors import DimseError
from dicom_node.errors import EXIT_FAILED, EXIT_OK, NodeError, exit_code
from models.errors import ModelError
from storage.errors import StorageError

EPILOG = """\
first steps:
  dicom-node demo                      see a study go in, and a SEG and an SR come back
  dicom-node init                      write a commented configuration
  dicom-node check                     see whether everything in it works
  dicom-node serve                     receive, run models, deliver; until Ctrl-C or SIGTERM

Every command takes --config FILE (or the environment variable DICOM_NODE_CONFIG; default: dicom-node.toml here).
Exit codes: 0 done, 1 it did not work, 2 called or configured wrongly.
"""

# Modules with an `add(commands)` function, in the order of the help text.
COMMANDS = (
    "setup",
    "serving",
    "network",
    "peer",
    "viewer",
    "user",
    "study",
    "job",
    "workitem",
    "rule",
    "model",
    "data",
    "release",
    "archive",
    "quarantine",
    "retention",
    "conformance",
    "demo_command",
)

Run = Callable[[argparse.Namespace], int | None]


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="dicom-node",
        description="A PACS-integrated DICOM AI node: receives studies, runs models on them, sends SEG and SR back.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dicom-node {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"dicom_node.cli.{name}").add(commands)
    return parser


def _version() -> str:
    import dicom_node

    return dicom_node.__version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    parsed = build_parser().parse_args(arguments)
    run: Run = parsed.run
    try:
        code = run(parsed)
        sys.stdout.flush()
        return EXIT_OK if code is None else code
    except (NodeError, StorageError, ModelError, DimseError) as error:
        sys.stderr.write(f"dicom-node: {error}\n")
        return exit_code(error)
    except KeyboardInterrupt:
        sys.stderr.write("dicom-node: interrupted\n")
        return EXIT_FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read us has had enough
        return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
