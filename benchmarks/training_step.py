"""Time of a training step beside MONAI's tutorial loop: the same network, data, loss and optimiser, in one run.

    python -m benchmarks.training_step [--steps 12] [--repetitions 3] [--dimensions 2]

The tutorial loop (monai/tutorials, 2d_segmentation/torch and 3d_segmentation/torch): CacheDataset, DataLoader, zero_grad,
forward, loss, backward, step, ``loss.item()``. Ours is :class:`models.training.loop.Trainer`, in single precision
and as it comes (``amp = "auto"``, averaged weights, clipped gradients). Both take turns; the best of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from monai.losses.dice import DiceCELoss
from monai.networks.nets.unet import UNet

from models.training.batches import EpochBatches, collate
from models.training.config import TrainingConfig
from models.training.loop import Trainer
from models.training.segmentation import Segmentation

BATCH = 4


def data(dimensions: int, steps: int) -> list[dict[str, torch.Tensor]]:
    """Noise with a mask: what a step costs does not depend on what is learnt."""
    generator = torch.Generator().manual_seed(0)
    shape = (256, 256) if dimensions == 2 else (48, 64, 48)
    return [
        {"image": torch.randn(1, *shape, generator=generator), "mask": (torch.rand(1, *shape, generator=generator) > 0.5).to(torch.uint8)}
        for _ in range(BATCH * steps)
    ]


def network(dimensions: int) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = UNet(dimensions, 1, 2, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2)
    return made


def tutorial(items: list[dict[str, torch.Tensor]], dimensions: int) -> Callable[[], None]:
    """One epoch of the tutorial's loop."""
    loader = DataLoader(Dataset(items), batch_size=BATCH, shuffle=True, num_workers=0)
    model, loss_function = network(dimensions), DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def epoch() -> None:
        model.train()
        total = 0.0
        for batch in loader:
            optimizer.zero_grad()
            loss = loss_function(model(batch["image"]), batch["mask"].float())
            loss.backward()
            optimizer.step()
            total += loss.item()

    return epoch


def ours(items: list[dict[str, torch.Tensor]], dimensions: int, folder: Path, amp: str) -> Callable[[], None]:
    """One epoch of the Trainer, without validation and checkpoint."""
    config = TrainingConfig.model_validate(
        {
            "task": "segmentation",
            "preprocessing": [],
            "network": {"_target_": "UNet"},
            "run": {"epochs": 100, "batch": BATCH, "amp": amp, "device": "cpu"},
        }
    )
    named = [[{**item, "item": str(number)}] for number, item in enumerate(items)]
    sampler = EpochBatches(len(items), BATCH, 0)
    batches = torch.utils.data.DataLoader(_Placed(named), batch_sampler=sampler, collate_fn=collate)
    learner = Segmentation(config, ("structure",))
    trainer = Trainer(config, learner, network(dimensions), batches, sampler, lambda: (), folder, "benchmark")
    return lambda: void(trainer._pass(0))


class _Placed(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, items: list[list[dict[str, object]]]) -> None:
        self.items = items

    def __getitem__(self, place: tuple[int, int]) -> list[dict[str, object]]:
        return self.items[place[1]]

    def __len__(self) -> int:
        return len(self.items)


def void(_: object) -> None:
    """Drop a value."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--dimensions", type=int, choices=(2, 3), default=2)
    given = parser.parse_args()
    items = data(given.dimensions, given.steps)
    with tempfile.TemporaryDirectory() as folder:
        loops = {
            "tutorial": tutorial(items, given.dimensions),
            "ours, single precision": ours(items, given.dimensions, Path(folder), "off"),
            "ours, as it comes": ours(items, given.dimensions, Path(folder), "auto"),
        }
        best = dict.fromkeys(loops, float("inf"))
        for _ in range(given.repetitions):
            for name, epoch in loops.items():
                started = time.perf_counter()
                epoch()
                best[name] = min(best[name], (time.perf_counter() - started) / given.steps)
    ratios = {name: round(seconds / best["tutorial"], 3) for name, seconds in best.items()}
    seconds = {name: round(value, 4) for name, value in best.items()}
    print(
        json.dumps({"seconds a step": seconds, "ratio": ratios, "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}, indent=1)
    )


if __name__ == "__main__":
    main()
