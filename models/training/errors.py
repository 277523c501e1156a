"""Why a training does not start or does not end.

ModelError
└── TrainingError
    ├── TrainingRefused    configuration or data cannot be trained on; nothing was computed
    └── Diverged           the loss is no number any more; names the items
"""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import ModelError


class TrainingError(ModelError):
    """Anything that ends a training."""


class TrainingRefused(TrainingError):
    """The configuration or the data cannot be trained on; the message lists every problem found."""


class Diverged(TrainingError):
    """The loss is not finite.

    Parameters
    ----------
    epoch
        Counted from 1.
    items
        The items whose loss is no number; the whole batch where none of them is so alone.
    """

    def __init__(self, epoch: int, items: Sequence[str]) -> None:
        super().__init__(
            f"the loss is no number in epoch {epoch}, with {', '.join(items)}; the last checkpoint is from before."
            " Look at these items, or lower the learning rate"
        )
        self.epoch = epoch
        self.items = tuple(items)

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, tuple[str, ...]]]:
        return type(self), (self.epoch, self.items)
