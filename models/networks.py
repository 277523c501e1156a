"""Networks as the node runs them: loaded from TorchScript or a state dict, and timed.

TorchScript from elsewhere is code; :func:`load_script` is called from a bundle's config, and so in the
worker's child process only.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from models.errors import BundleInvalid


def load_script(path: str | Path, device: str | torch.device = "cpu") -> torch.nn.Module:
    """A TorchScript network in evaluation mode on ``device``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.load.* is deprecated", category=DeprecationWarning)
        network: torch.nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    return network.eval()


def load_state(network: torch.nn.Module, path: Path) -> None:
    """Fill a network from safetensors or a state dict, also where a checkpoint nests it as the Zoo does."""
    state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    for key in ("model", "state_dict", "network", "net"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise BundleInvalid(f"{path.name} does not fit the network: {str(error)[:300]}") from error


class Stopwatch:
    """Seconds spent inside networks since :meth:`reset`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def reset(self) -> None:
        self.seconds = 0.0


class TimedNetwork(torch.nn.Module):
    """A network whose calls count on a stopwatch, waiting for the accelerator before and after.

    A wrapper and not a hook, because TorchScript modules take no hooks.
    """

    def __init__(self, network: torch.nn.Module, stopwatch: Stopwatch) -> None:
        super().__init__()
        self.network = network
        self.stopwatch = stopwatch
        parameter = next(network.parameters(), None)
        self._cuda = parameter is not None and parameter.is_cuda

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._wait()
        started = time.perf_counter()
        output = self.network(*args, **kwargs)
        self._wait()
        self.stopwatch.seconds += time.perf_counter() - started
        return output

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()
