"""A training killed with SIGKILL in the middle goes on with the curve of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from models.training import checkpoints
from tests.dimse import until
from tests.training_data import SEGMENTATION, blobs

EPOCHS = 20


def command(folder: Path, out: Path, *more: str) -> list[str]:
    data = f"pairs:{folder}?classes=blob"
    return [sys.executable, "-m", "dicom_node.cli.main", "model", "train", str(folder / "c.toml"), "--data", data, "--out", str(out), *more]


def laid_out(folder: Path) -> None:
    """Pictures and masks as `pairs:` reads them, and the configuration."""
    data = blobs(folder / "made", 24)
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for item in data:
        assert item.mask is not None
        item.image[0].rename(folder / "images" / f"{item.id}.png")
        item.mask.rename(folder / "labels" / f"{item.id}.png")
    (folder / "c.toml").write_text(SEGMENTATION.replace("epochs = 6", f"epochs = {EPOCHS}"))


def curve(out: Path) -> list[dict[str, Any]]:
    rows = json.loads((out / "docs" / "training.json").read_text())["curve"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def epochs_kept(out: Path) -> int:
    kept = checkpoints.read(out.with_name(out.name + ".training") / "last.pt")
    return 0 if kept is None else int(kept["state"]["epoch"])


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    laid_out(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(tmp_path, whole), check=True, capture_output=True, timeout=200)
    with subprocess.Popen(command(tmp_path, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: epochs_kept(killed) >= 2 or process.poll() is not None, seconds=120)
        os.kill(process.pid, signal.SIGKILL)
    assert not killed.exists()
    assert 2 <= epochs_kept(killed) < EPOCHS
    resumed = subprocess.run(command(tmp_path, killed, "--resume"), check=True, capture_output=True, text=True, timeout=200)
    assert "going on after epoch" in resumed.stderr
    assert curve(killed) == curve(whole)
    one, other = (load_file(out / "models" / "model.safetensors") for out in (whole, killed))
    assert all(one[name].equal(other[name]) for name in one)
