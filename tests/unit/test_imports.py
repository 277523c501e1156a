"""The processes that receive, schedule and serve pages stay small: they load neither torch nor monai."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import sys
import {modules}
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & {heavy!r})
print(",".join(heavy))
"""


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("dicom_node.roles, dicom_node.node, dicom_node.dimse.server, dicom_node.dimse.services.store", {"torch", "monai", "highdicom"}),
        ("dicom_node.roles, dicom_node.schedule", {"torch", "monai"}),
        ("dicom_node.web.app", {"torch", "monai"}),
        ("dicom_node.work.route, dicom_node.work.deliver", {"torch", "monai"}),
        ("dicom_node.cli.main", {"torch", "monai", "highdicom"}),
        ("dicom_node.extensions", {"torch", "monai"}),
    ],
)
def test_nothing_heavy_is_imported(modules: str, heavy: set[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE.format(modules=modules, heavy=heavy)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
