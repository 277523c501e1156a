"""Batches that are a function of seed, epoch and item: how many processes make them, and whether the training was
interrupted, changes nothing."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from torch.utils.data import DataLoader, Dataset, Sampler

from models.datasets.protocol import Item
from models.training.prepared import Prepared, Store

Place = tuple[int, int]  # epoch, index
Batch = dict[str, Any]
Encode = Callable[[Prepared, dict[str, Any]], dict[str, Any]]


def seed_of(*parts: int) -> int:
    """A 32-bit seed from numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "little")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Augmentation is many small steps, for which threads that wait for one another cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Augmented(Dataset[list[dict[str, Any]]]):
    """Items of one part, augmented anew each epoch and encoded as the task's network takes them."""

    def __init__(self, store: Store, items: Sequence[Item], augmentation: Compose, encode: Encode, seed: int) -> None:
        self.store, self.items, self.augmentation, self.encode, self.seed = store, tuple(items), augmentation, encode, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Place) -> list[dict[str, Any]]:
        epoch, index = place
        prepared = self.store.get(self.items[index])
        self.augmentation.set_random_state(seed=seed_of(self.seed, epoch, index))
        with one_thread():
            made = self.augmentation(prepared.data())
        parts = made if isinstance(made, list) else [made]
        return [{**self.encode(prepared, part), "item": prepared.item.id} for part in parts]


class EpochBatches(Sampler[list[Place]]):
    """Indices of one epoch in an order of its own, in batches; a last batch of one is left out, as its
    normalisation would have nothing to go by."""

    def __init__(self, length: int, batch: int, seed: int) -> None:
        self.length, self.batch, self.seed, self.epoch = length, batch, seed, 0

    def __iter__(self) -> Iterator[list[Place]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for start in range(0, self.length, self.batch):
            part = order[start : start + self.batch]
            if len(part) > 1 or self.length == 1 or self.batch == 1:
                yield [(self.epoch, index) for index in part]

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.batch)
        return whole + (rest > 1 or (rest == 1 and (self.length == 1 or self.batch == 1)))


def collate(parts: Sequence[list[dict[str, Any]]]) -> Batch:
    """Tensors stacked, everything else as lists."""
    flat = [part for group in parts for part in group]
    batch: Batch = {}
    for key, first in flat[0].items():
        values = [part[key] for part in flat]
        batch[key] = torch.stack([_tensor(value) for value in values]) if isinstance(first, torch.Tensor) else values
    return batch


def _tensor(value: torch.Tensor) -> torch.Tensor:
    return value.as_tensor() if isinstance(value, MetaTensor) else value


def loader(augmented: Augmented, batch: int, workers: int) -> tuple[DataLoader[Any], EpochBatches]:
    """The batches of a training and their sampler, whose ``epoch`` is set before each pass."""
    sampler = EpochBatches(len(augmented), batch, augmented.seed)
    made: DataLoader[Any] = DataLoader(
        augmented,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # it draws a seed of its own now and then, which must not move the network's
        worker_init_fn=_one_thread,
    )
    return made, sampler


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
