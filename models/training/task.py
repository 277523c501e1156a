"""What the loop asks of a task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch

from models.training.batches import Batch
from models.training.config import TrainingConfig
from models.training.errors import TrainingRefused
from models.training.prepared import Prepared


class Learner(Protocol):
    """One task: what the network takes, what it is told, and how it is judged.

    ``metric`` names the figure of :meth:`validate` that is to rise; ``lacks`` says why a part of the data will
    not do.
    """

    metric: str

    def encode(self, prepared: Prepared, data: dict[str, Any]) -> dict[str, Any]:
        """What one augmented item gives to a batch; ``image`` goes into the network."""

    def loss(self, output: Any, batch: Batch) -> torch.Tensor:
        """The loss of a batch, one number, in single precision."""

    def validate(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> dict[str, float]:
        """Figures on items without augmentation."""

    def finish(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> None:
        """Whatever the bundle needs of the finished network and the validation items."""

    def sections(self) -> dict[str, Any]:
        """``inferer`` and ``postprocessing`` of configs/inference.json."""

    def output_channels(self) -> int | None:
        """Channels that the network must give; None where the task does not say."""


def learner_of(config: TrainingConfig, classes: Sequence[str]) -> Learner:
    """The learner of a configuration.

    Raises
    ------
    TrainingRefused
        The task needs classes, and the data set has none.
    """
    if config.task in ("segmentation", "classification", "detection") and not classes:
        raise TrainingRefused(f"a {config.task} needs the names of its classes, and the data set has none")
    if config.task == "segmentation":
        from models.training.segmentation import Segmentation

        return Segmentation(config, classes)
    if config.task == "classification":
        from models.training.classification import ClassificationTask

        return ClassificationTask(config, classes)
    if config.task == "detection":
        from models.training.detection import Detection

        return Detection(config, classes)
    if config.task == "autoencoder":
        from models.training.autoencoder import Autoencoder

        return Autoencoder(config)
    from models.training.pretraining import Pretraining

    return Pretraining(config)
