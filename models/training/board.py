"""The curve as TensorBoard reads it; its own viewer shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from models.training.errors import TrainingRefused


class Board:
    """Writes each epoch's numbers to ``folder``; needs the extra ``training``."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingRefused("a TensorBoard log needs tensorboard: pip install 'dicom-node[training]'") from error
        self._writer = SummaryWriter(str(folder))

    def row(self, row: Mapping[str, float]) -> None:
        """One epoch of the curve."""
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name.replace(".", "/"), value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
