"""What a run does when its device has too little memory: fewer windows at a time, stitching on the CPU, all of it on the CPU.

Each rung gives the same result to the precision of the arithmetic; it only takes longer. A model that is no sliding window has but the
first and the last. Which one a volume is begun on follows from what was measured before (`models.memory`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from monai.inferers.inferer import SlidingWindowInferer


class Rung(Enum):
    """How a network is applied; the value is what people are told."""

    AS_CONFIGURED = "as configured"
    ONE_WINDOW = "one window at a time"
    STITCHED = "one window at a time, stitched on the CPU"
    ON_CPU = "on the CPU"


def rungs(inferer: object, device: torch.device) -> tuple[Rung, ...]:
    """The rungs that make a difference for an inferer on a device, the quickest first."""
    found = [Rung.AS_CONFIGURED]
    away = device.type != "cpu"
    if isinstance(inferer, SlidingWindowInferer):
        found += [Rung.ONE_WINDOW] if inferer.sw_batch_size > 1 else []
        found += [Rung.STITCHED] if away else []
    return tuple(found + ([Rung.ON_CPU] if away else []))


@dataclass(frozen=True)
class Configured:
    """What a sliding window was configured with."""

    batch: int
    device: Any
    window_device: Any

    @classmethod
    def of(cls, inferer: object) -> Configured | None:
        """Of an inferer, where it is a sliding window."""
        if not isinstance(inferer, SlidingWindowInferer):
            return None
        return cls(inferer.sw_batch_size, inferer.device, inferer.sw_device)

    def apply(self, inferer: Any, rung: Rung, device: torch.device) -> None:
        """Set the sliding window to a rung."""
        inferer.sw_batch_size = self.batch if rung in (Rung.AS_CONFIGURED, Rung.ON_CPU) else 1
        stitched = rung is Rung.STITCHED
        inferer.device = torch.device("cpu") if stitched else self.device
        inferer.sw_device = device if stitched else self.window_device
