"""MONAI and torch parts named in a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser
from monai.transforms.compose import Compose

from models.training.errors import TrainingRefused


def component(config: Mapping[str, Any], where: str, **more: Any) -> Any:
    """The object that a ``_target_`` dictionary describes; ``more`` are further arguments.

    Raises
    ------
    TrainingRefused
        There is no such target, or it does not take these arguments.
    """
    parser = ConfigParser({"part": dict(config)})
    try:
        made = parser.get_parsed_content("part", instantiate=False)
        return made.instantiate(**more)
    except Exception as error:  # whatever a constructor raises is a fault of the configuration
        raise TrainingRefused(f"[{where}] {config.get('_target_')}: {type(error).__name__}: {str(error)[:300]}") from error


def transforms(configs: Sequence[Mapping[str, Any]], where: str) -> Compose:
    """The chain of transforms that a list of ``_target_`` dictionaries describes."""
    return Compose([component(config, where) for config in configs])


def optimiser(config: Mapping[str, Any], network: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a network: weights of one dimension (biases, normalisation) do not decay."""
    decaying = [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim <= 1]
    groups = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
    made = component(config, "optimiser", params=groups)
    assert isinstance(made, torch.optim.Optimizer)
    return made
