"""``demo``: the main job, end to end, on real input."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dicom_node.cli.common import command


def add(commands: Any) -> None:
    demo = command(
        commands,
        "demo",
        "see a study go in, and a SEG and an SR come back",
        description="Start two nodes, the second as the PACS; send the MNI152 head by C-STORE to the first; wait until SEG and SR are in "
        "the second; compare the brain mask with the reference. Leaves nothing running unless --keep is given.",
        example="dicom-node demo --folder /tmp/demo --keep",
    )
    demo.add_argument(
        "--folder", type=Path, default=Path("demo-data"), metavar="DIR", help="where everything goes (default: demo-data)"
    )
    demo.add_argument("--input", type=Path, metavar="DIR", help="send these DICOM files instead of the MNI152 head")
    demo.add_argument("--keep", action="store_true", help="leave both nodes running until Ctrl-C")
    demo.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from dicom_node.cli.demo import run_demo

    return run_demo(arguments.folder, source=arguments.input, keep=arguments.keep)
