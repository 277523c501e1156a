"""Segmentation: a network of classes + 1 channels, softmax, Dice and cross entropy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from models.training.batches import Batch
from models.training.components import component
from models.training.config import TrainingConfig
from models.training.prepared import Prepared

DEFAULT_LOSS = {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True, "batch": True}


class Segmentation:
    """Masks of ``classes``; figures are Dice coefficients on the network's grid."""

    metric = "dice"

    def __init__(self, config: TrainingConfig, classes: Sequence[str]) -> None:
        self.config, self.classes = config, tuple(classes)
        self.criterion = component(config.loss or DEFAULT_LOSS, "loss")
        self.inferer = component(self._inferer(), "patches")

    def output_channels(self) -> int | None:
        return len(self.classes) + 1

    def encode(self, prepared: Prepared, data: dict[str, Any]) -> dict[str, Any]:
        return {"image": data["image"], "mask": data["mask"]}

    def loss(self, output: Any, batch: Batch) -> torch.Tensor:
        loss: torch.Tensor = self.criterion(output.float(), batch["mask"].float())
        return loss

    def validate(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> dict[str, float]:
        found: dict[str, list[float]] = {name: [] for name in self.classes}
        for prepared in items:
            assert prepared.mask is not None
            output = self.inferer(prepared.image.as_tensor()[None].to(device), network)
            labels = output[0].argmax(0).cpu()
            truth = prepared.mask.as_tensor()[0]
            for value, name in enumerate(self.classes, 1):
                score = dice(labels == value, truth == value)
                if score is not None:
                    found[name].append(score)
        figures = {f"dice.{name}": float(np.mean(scores)) for name, scores in found.items() if scores}
        return {"dice": float(np.mean(list(figures.values()))), **figures}

    def finish(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> None:
        """Nothing is missing."""

    def sections(self) -> dict[str, Any]:
        chain: list[dict[str, Any]] = [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {
                "_target_": "Invertd",
                "keys": "pred",
                "transform": "@preprocessing",
                "orig_keys": "image",
                "nearest_interp": False,
                "to_tensor": True,
            },
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            *self.config.postprocessing,
        ]
        return {"inferer": self._inferer(), "postprocessing": {"_target_": "Compose", "transforms": chain}}

    def _inferer(self) -> dict[str, Any]:
        patches = self.config.patches
        if patches is None:
            return {"_target_": "SimpleInferer"}
        return {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(patches.size),
            "sw_batch_size": 2,
            "overlap": patches.overlap,
            "mode": "gaussian",
        }


def dice(found: torch.Tensor, truth: torch.Tensor) -> float | None:
    """2 |A and B| / (|A| + |B|); None where both are empty."""
    both = int(found.sum()) + int(truth.sum())
    return None if both == 0 else 2.0 * int((found & truth).sum()) / both
