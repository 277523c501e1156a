"""The README's first command as a new user calls it: a head goes in, a SEG and an SR come back."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from models.bundle import load_bundle
from models.errors import WeightsMissing
from models.weights import fetch_weights
from tests.conftest import unavailable


@pytest.mark.slow
def test_the_demo_does_what_the_readme_says(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    try:
        fetch_weights(load_bundle("brain_extraction"))
    except WeightsMissing as error:
        unavailable(pytestconfig, f"the weights cannot be fetched: {error}")
    command = [sys.executable, "-m", "dicom_node", "demo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one SEG and one SR, in the original study" in done.stdout
    (volume,) = re.findall(r"Brain volume\t([0-9.]+) mL", done.stdout)
    (dice,) = re.findall(r"reference mask\t([0-9.]+)", done.stdout)
    assert 1850 < float(volume) < 1950
    assert float(dice) > 0.94
