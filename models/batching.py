"""Several single 2-D images through one network in one forward pass: each keeps its own preparation, its own output, and its own failure.

What a network is told of an image must not depend on which others are beside it; a bundle whose network is otherwise says ``batch = false``
in [run] of its dicom.toml.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from models.errors import ModelError, OutOfMemory
from models.ladder import Rung
from models.memory import Course
from models.volume import Volume


@dataclass(eq=False)
class Prepared:
    """A volume whose preprocessing is done, on its way through the network. Times in seconds; ``around`` is what the inferer took beside
    the network; ``course`` is how it came to be applied on its ``rung``; ``error`` is why it was not; ``together`` is how many images went
    through it at once."""

    volume: Volume
    data: dict[str, Any]
    load: float
    seconds: float
    forward: float = 0.0
    around: float = 0.0
    rung: Rung = Rung.AS_CONFIGURED
    course: Course | None = None
    error: ModelError | None = None
    together: int = 1


class Network(Protocol):
    """A network with its inferer, warm on a device."""

    image: str

    def infer_together(self, several: Sequence[dict[str, Any]]) -> Course: ...
    def infer_somehow(self, data: dict[str, Any]) -> tuple[Rung, Course]: ...


def apply_together(network: Network, prepared: Sequence[Prepared]) -> None:
    """Apply a network to prepared images, those of one shape in one pass. What fails is noted with the image that it concerns."""
    alike: dict[Any, list[Prepared]] = defaultdict(list)
    for each in prepared:
        image = each.data[network.image]
        alike[getattr(image, "shape", None), getattr(image, "dtype", None)].append(each)
    for group in alike.values():
        _apply(network, group)


def _apply(network: Network, group: Sequence[Prepared]) -> None:
    """Too little memory halves a group; whatever else is wrong, each is tried on its own, so that it fails or succeeds by itself."""
    if len(group) == 1:
        _alone(network, group[0])
        return
    try:
        course = network.infer_together([each.data for each in group])
    except OutOfMemory:
        parts = [group[: len(group) // 2], group[len(group) // 2 :]]
    except ModelError:
        parts = [[each] for each in group]
    else:
        for each in group:
            each.together, each.course = len(group), course
        return
    gc.collect()  # outside of the handler, whose traceback holds on to what did not fit
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for part in parts:
        _apply(network, part)


def _alone(network: Network, one: Prepared) -> None:
    try:
        one.rung, one.course = network.infer_somehow(one.data)
    except ModelError as error:
        one.error = error
