"""What is kept of a training: its curve, its figures, what it left out, and on what machine."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.datasets.protocol import Skipped

Curve = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Record:
    """The history of one training.

    Parameters
    ----------
    counts
        Items of each part of the split.
    figures
        On the part named test, on the network's grid; empty where there is none.
    seconds
        Wall time inside epochs, over all resumed pieces.
    """

    data: str
    counts: Mapping[str, int]
    subjects: Mapping[str, int]
    curve: Curve
    best_epoch: int
    validation: Mapping[str, float]
    figures: Mapping[str, float]
    seconds: float
    parameters: int
    device: str
    precision: str
    threads: int
    load: float
    skipped: Sequence[Skipped] = ()
    machine: str = field(default_factory=lambda: f"{platform.machine()}, {os.cpu_count()} cores")

    def as_json(self) -> dict[str, Any]:
        """Plain values for docs/training.json."""
        return json.loads(json.dumps({**asdict(self), "curve": [_finite(row) for row in self.curve]}))  # type: ignore[no-any-return]


def _finite(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if math.isfinite(value)}


def write_skipped(skipped: Sequence[Skipped], path: Path) -> None:
    """The list of what was passed over, one JSON object a line."""
    path.write_text("".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in skipped), encoding="utf-8")
