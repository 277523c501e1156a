"""Epochs: steps in mixed precision, averaged weights, validation, early stopping, a checkpoint after each.

Every epoch starts from a seed of its own, and every item's augmentation from one of epoch and item, so a
training that was killed goes on from the last whole epoch exactly as if it had not been.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from monai.utils.misc import set_determinism

from models.training import checkpoints
from models.training.batches import Batch, EpochBatches, seed_of
from models.training.components import optimiser
from models.training.config import ScheduleSpec, TrainingConfig
from models.training.errors import Diverged, TrainingRefused
from models.training.prepared import Prepared
from models.training.task import Learner

Curve = list[dict[str, float]]


class Reporter(Protocol):
    """Who is told how a training goes."""

    def step(self, epoch: int, step: int, of: int, loss: float) -> None: ...

    def epoch(self, row: dict[str, float], epochs: int, best: bool) -> None: ...


class Silent:
    """Tells nobody."""

    def step(self, epoch: int, step: int, of: int, loss: float) -> None: ...

    def epoch(self, row: dict[str, float], epochs: int, best: bool) -> None: ...


@dataclass
class State:
    """All that a checkpoint keeps beside weights."""

    epoch: int = 0
    curve: Curve = field(default_factory=list)
    best: float = -math.inf
    best_epoch: int = 0
    stale: int = 0
    seconds: float = 0.0


class Trainer:
    """A network in training.

    Parameters
    ----------
    batches
        What one epoch goes through, and ``sampler``, whose ``epoch`` is set before each.
    identity
        What a checkpoint must have been made from to be gone on with: digest of configuration, items and code.
    """

    def __init__(
        self,
        config: TrainingConfig,
        learner: Learner,
        network: torch.nn.Module,
        batches: Iterable[Batch],
        sampler: EpochBatches,
        validation: Callable[[], Iterable[Prepared]],
        folder: Path,
        identity: str,
        reporter: Reporter | None = None,
    ) -> None:
        run = config.run
        self.config, self.learner, self.batches, self.sampler, self.validation = config, learner, batches, sampler, validation
        self.path, self.identity, self.reporter = folder / "last.pt", identity, reporter or Silent()
        self.device = device_of(run.device)
        self.precision = precision_of(run.amp, self.device)
        self.network = network.to(self.device)
        self.averaged = copy.deepcopy(self.network).eval().requires_grad_(False) if run.average else self.network
        self.best = {name: value.detach().clone() for name, value in self.averaged.state_dict().items()}
        self.optimiser = optimiser(config.optimiser, self.network)
        self.total = max(1, len(sampler) * run.epochs)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, rate(config.schedule, self.total))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)
        self.state = State()

    def resume(self) -> bool:
        """Go on from the last checkpoint; False where there is none.

        Raises
        ------
        TrainingRefused
            The checkpoint is of another configuration or other data.
        """
        kept = checkpoints.read(self.path)
        if kept is None:
            return False
        if kept["identity"] != self.identity:
            raise TrainingRefused(
                "the checkpoint was made with another configuration or other data; take those, or another folder for the result"
            )
        self.network.load_state_dict(kept["network"])
        self.averaged.load_state_dict(kept["averaged"])
        self.best = kept["best"]
        self.optimiser.load_state_dict(kept["optimiser"])
        self.schedule.load_state_dict(kept["schedule"])
        self.scaler.load_state_dict(kept["scaler"])
        self.state = State(**kept["state"])
        checkpoints.restore_random_states(kept["random"])
        return True

    def run(self) -> State:
        """Train to the end; the best weights are in ``best`` afterwards.

        Raises
        ------
        Diverged
        """
        run = self.config.run
        while self.state.epoch < run.epochs and not self._stale():
            started = time.perf_counter()
            epoch = self.state.epoch
            set_determinism(seed_of(run.seed, epoch), use_deterministic_algorithms=None)
            self.sampler.epoch = epoch
            row = {"epoch": float(epoch + 1), "loss": self._pass(epoch), "rate": float(self.optimiser.param_groups[0]["lr"])}
            improved = False
            if (epoch + 1) % run.validate_every == 0 or epoch + 1 == run.epochs:
                row.update(self._validate())
                improved = self._judge(row[self.learner.metric])
            self.state.epoch += 1
            self.state.seconds += time.perf_counter() - started
            row["seconds"] = self.state.seconds
            self.state.curve.append(row)
            self._save()
            self.reporter.epoch(row, run.epochs, improved)
        return self.state

    def _stale(self) -> bool:
        return 0 < self.config.run.patience <= self.state.stale

    def _pass(self, epoch: int) -> float:
        self.network.train()
        total = torch.zeros((), device=self.device)
        count = 0
        for count, batch in enumerate(self.batches, 1):
            loss = self._step(batch)
            value = float(loss)
            if not math.isfinite(value):
                raise Diverged(epoch + 1, self._culprits(batch))
            total += loss
            self.reporter.step(epoch + 1, count, len(self.sampler), value)
        return float(total) / max(1, count)

    def _step(self, batch: Batch) -> torch.Tensor:
        batch = _moved(batch, self.device)
        with self._autocast():
            output = self.network(batch["image"])
        loss = self.learner.loss(output, batch)
        self.optimiser.zero_grad(set_to_none=True)
        if not torch.isfinite(loss):
            return loss.detach()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.run.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        self._average()
        return loss.detach()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def _average(self) -> None:
        decay = self.config.run.average
        if not decay:
            return
        steps = self.schedule.last_epoch
        weight = 1 - min(decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), weight)
            for mine, current in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
                mine.copy_(current)

    def _culprits(self, batch: Batch) -> list[str]:
        """The items whose loss alone is no number; all of them where it takes the batch."""
        names: list[str] = batch["item"]
        found = []
        self.network.eval()
        with torch.no_grad():
            for number, name in enumerate(names):
                one = {key: value[number : number + 1] for key, value in batch.items()}
                loss = self.learner.loss(self.network(one["image"].to(self.device)), _moved(one, self.device))
                if not torch.isfinite(loss):
                    found.append(name)
        return list(dict.fromkeys(found or names))

    def _validate(self) -> dict[str, float]:
        self.averaged.eval()
        with torch.inference_mode(), self._autocast():
            return self.learner.validate(self.averaged, self.validation(), self.device)

    def _judge(self, value: float) -> bool:
        if not value > self.state.best:
            self.state.stale += 1
            return False
        self.state.best, self.state.best_epoch, self.state.stale = value, self.state.epoch + 1, 0
        self.best = {name: tensor.detach().clone() for name, tensor in self.averaged.state_dict().items()}
        return True

    def _save(self) -> None:
        checkpoints.save(
            {
                "identity": self.identity,
                "network": self.network.state_dict(),
                "averaged": self.averaged.state_dict(),
                "best": self.best,
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "state": dict(vars(self.state)),
                "random": checkpoints.random_states(),
            },
            self.path,
        )


def _moved(batch: Batch, device: torch.device) -> Batch:
    return {key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def rate(schedule: ScheduleSpec, steps: int) -> Callable[[int], float]:
    """The learning rate's factor at a step."""
    rise = max(1, round(schedule.warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        if schedule.kind == "constant":
            return 1.0
        share = min(1.0, (step - rise) / max(1, steps - rise))
        return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * share))

    return factor


def device_of(name: str) -> torch.device:
    """``auto``: the first accelerator, else the CPU.

    Raises
    ------
    TrainingRefused
        The device is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingRefused(f"there is no device '{name}'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingRefused(f"device {name} was asked for and torch sees no CUDA device")
    return device


def precision_of(amp: str, device: torch.device) -> torch.dtype | None:
    """The type of the forward pass; None for single precision."""
    if amp == "off":
        return None
    if amp != "auto":
        return torch.bfloat16 if amp == "bfloat16" else torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _native_bfloat16() else None


def _native_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
