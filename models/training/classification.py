"""Classification of whole images: one logit a label, each judged for itself, labels that nobody stated left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from models.training.batches import Batch
from models.training.config import TrainingConfig
from models.training.prepared import Prepared


class ClassificationTask:
    """Labels of ``classes``, not exclusive; the figure is the mean area below the ROC curve."""

    metric = "auc"

    def __init__(self, config: TrainingConfig, classes: Sequence[str]) -> None:
        self.config, self.classes = config, tuple(classes)

    def output_channels(self) -> int | None:
        return len(self.classes)

    def encode(self, prepared: Prepared, data: dict[str, Any]) -> dict[str, Any]:
        return {"image": data["image"], "labels": self._labels(prepared)}

    def loss(self, output: Any, batch: Batch) -> torch.Tensor:
        labels = batch["labels"]
        stated = torch.isfinite(labels)
        each = torch.nn.functional.binary_cross_entropy_with_logits(output.float(), labels.nan_to_num(), reduction="none")
        return (each * stated).sum() / stated.sum().clamp(min=1)

    def validate(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> dict[str, float]:
        scores, labels = [], []
        for prepared in items:
            scores.append(network(prepared.image.as_tensor()[None].to(device))[0].float().sigmoid().cpu().numpy())
            labels.append(self._labels(prepared).numpy())
        figures = {}
        for number, name in enumerate(self.classes):
            value = roc_auc(np.array([row[number] for row in labels]), np.array([row[number] for row in scores]))
            if value is not None:
                figures[f"auc.{name}"] = value
        return {"auc": float(np.mean(list(figures.values()))) if figures else math.nan, **figures}

    def finish(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> None:
        """Nothing is missing."""

    def sections(self) -> dict[str, Any]:
        chain = [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}, *self.config.postprocessing]
        return {"inferer": {"_target_": "SimpleInferer"}, "postprocessing": {"_target_": "Compose", "transforms": chain}}

    def _labels(self, prepared: Prepared) -> torch.Tensor:
        return torch.tensor([float(prepared.item.labels.get(name, math.nan)) for name in self.classes])


def roc_auc(labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> float | None:
    """Share of pairs of a positive and a negative in which the positive scores higher, ties half; None without both."""
    stated = np.isfinite(labels)
    positive, negative = scores[stated & (labels > 0.5)], scores[stated & (labels <= 0.5)]
    if not len(positive) or not len(negative):
        return None
    difference = positive[:, None] - negative[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
