"""An autoencoder of images without labels: what it cannot draw again is unlike what it has seen.

The finished bundle gives one anomaly score an image: the share of the training images' reconstruction errors that
lie below its own (0 to 1), so that a threshold means the same whatever the images are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from models.training.batches import Batch
from models.training.config import TrainingConfig
from models.training.prepared import Prepared


class Autoencoder:
    """Reconstruction; the figure is the negative mean absolute error, so that it rises."""

    metric = "similarity"

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.quantiles: list[float] = []

    def output_channels(self) -> int | None:
        return None

    def encode(self, prepared: Prepared, data: dict[str, Any]) -> dict[str, Any]:
        return {"image": data["image"]}

    def loss(self, output: Any, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.l1_loss(_drawn(output).float(), batch["image"].float())

    def validate(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> dict[str, float]:
        errors = self.errors(network, items, device)
        return {"similarity": -float(np.mean(errors)), "error": float(np.mean(errors)), "error.p95": float(np.quantile(errors, 0.95))}

    def errors(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> list[float]:
        """Mean absolute error of each image."""
        found = []
        for prepared in items:
            image = prepared.image.as_tensor()[None].to(device)
            found.append(float((_drawn(network(image)).float() - image).abs().mean()))
        return found

    def finish(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> None:
        """Keep the errors of images that were not trained on, as 101 quantiles: what scores are read against."""
        errors = self.errors(network, items, device)
        self.quantiles = [round(float(value), 6) for value in np.quantile(errors, np.linspace(0, 1, 101))]

    def sections(self) -> dict[str, Any]:
        inferer = {"_target_": "models.inferers.AnomalyInferer", "quantiles": self.quantiles}
        return {"inferer": inferer, "postprocessing": {"_target_": "Compose", "transforms": list(self.config.postprocessing)}}


def _drawn(output: Any) -> torch.Tensor:
    drawn: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return drawn
