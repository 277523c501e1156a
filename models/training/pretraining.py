"""Self-supervised pretraining: an image with squares covered is drawn whole again.

Its weights, ``models/model.safetensors``, are what ``[run] pretrained`` of a later training starts from; every tensor
whose name and shape fit is taken, so a network with another last layer keeps its own there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from models.training.batches import Batch
from models.training.config import TrainingConfig
from models.training.prepared import Prepared

COVERED = 0.5
BLOCKS = 8


class Pretraining:
    """Masked reconstruction; the figure is the negative mean absolute error below the cover, so that it rises."""

    metric = "similarity"

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config

    def output_channels(self) -> int | None:
        return None

    def encode(self, prepared: Prepared, data: dict[str, Any]) -> dict[str, Any]:
        image = data["image"].as_tensor()
        cover = covered(image.shape[1:], _seed(image))
        return {"image": torch.where(cover, image.mean(), image), "whole": image, "cover": cover}

    def loss(self, output: Any, batch: Batch) -> torch.Tensor:
        cover = batch["cover"]
        error = (output[:, : batch["whole"].shape[1]].float() - batch["whole"].float()).abs()
        loss: torch.Tensor = (error * cover).sum() / (cover.sum() * error.shape[1]).clamp(min=1) + 0.1 * error.mean()
        return loss

    def validate(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> dict[str, float]:
        errors = []
        for prepared in items:
            part = self.encode(prepared, {"image": prepared.image})
            drawn = network(part["image"][None].to(device))[0].float().cpu()
            error = (drawn[: part["whole"].shape[0]] - part["whole"]).abs().mean(0, keepdim=True)
            errors.append(float(error[part["cover"]].mean()))
        return {"similarity": -float(np.mean(errors)), "error": float(np.mean(errors))}

    def finish(self, network: torch.nn.Module, items: Iterable[Prepared], device: torch.device) -> None:
        """Nothing is missing."""

    def sections(self) -> dict[str, Any]:
        return {"inferer": {"_target_": "SimpleInferer"}, "postprocessing": {"_target_": "Compose", "transforms": []}}


def covered(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """(1, ...) bool: half of the blocks of an image, eight an axis, chosen by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand((1, 1, *(BLOCKS,) * len(shape)), generator=generator)
    return torch.nn.functional.interpolate(blocks, size=tuple(shape), mode="nearest")[0] < COVERED


def _seed(image: torch.Tensor) -> int:
    """From the pixels: the cover of an augmented image is new each epoch, and the same after an interruption."""
    return int.from_bytes(hashlib.sha256(image.numpy().tobytes()).digest()[:4], "little")
