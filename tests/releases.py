"""Releases of the tiny bundle: versions that find more or less, and reports that say how good they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.bundle import load_bundle
from tests.tiny_bundle import tiny_bundle

GATE = '\n[gate]\ndata = "phantoms"\nminima = { "dice.Bright" = 0.9 }\n'


def version(folder: Path, number: str, *, gate: str = GATE, threshold: float = 1000.0, **more: Any) -> Path:
    """The tiny bundle in a version of its own, which calls bright what is above a threshold."""
    root = tiny_bundle(folder / number, version=number, **more)
    file = root / "configs" / "inference.json"
    content = json.loads(file.read_text())
    content["postprocessing"]["transforms"][0]["threshold"] = threshold
    file.write_text(json.dumps(content))
    file = root / "configs" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "monai_version": "1.6.0"}))
    with (root / "dicom.toml").open("a") as stream:
        stream.write(gate)
    return root


def report(
    bundle: Path,
    *,
    dice: float | None = 0.95,
    data: str = "phantoms",
    split: str = "test",
    name: str = "report.json",
    **changes: Any,
) -> Path:
    """An evaluation report of a bundle."""
    of = load_bundle(bundle)
    content = {
        "schema": 1,
        "bundle": {"name": of.name, "version": of.version, "digest": of.digest},
        "data": {"name": data, "fingerprint": "f" * 64, "split": split, "items": 12},
        "created": "2026-01-02T03:04:05Z",
        "metrics": {"dice.Bright": {"value": dice, "low": 0.9, "high": 0.99, "n": 12}, "accuracy": {"value": 1.0}},
        **changes,
    }
    path = bundle.parent / name
    path.write_text(json.dumps(content))
    return path
