"""Items after the deterministic graph, kept on disk under what they were made of.

The key of an entry is the digest of the preprocessing graph and of the content of the item's files: a changed
file or graph is prepared anew, a moved one is not. Entries are safetensors, written under a temporary name.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from safetensors.torch import load_file, save_file

from models.datasets.loading import ItemUnreadable, load
from models.datasets.protocol import Item, Skipped
from models.preprocess import Preprocessing

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """One item on the network's grid.

    Parameters
    ----------
    image
        float32, (channels, x, y[, z]).
    mask
        uint8 label map on the same grid, (1, x, y[, z]).
    boxes
        float32 (n, 4): x_min, y_min, x_max, y_max in pixels of ``image``, half open; ``box_classes`` count from 0.
    source
        4x4 of the stored image: index to millimetres.
    """

    item: Item
    image: MetaTensor
    mask: MetaTensor | None
    boxes: torch.Tensor
    box_classes: torch.Tensor
    source: torch.Tensor

    def data(self) -> dict[str, Any]:
        """What transforms take; tensors are shared, not copied."""
        parts: dict[str, Any] = {"image": self.image}
        if self.mask is not None:
            parts["mask"] = self.mask
        return parts


class Store:
    """Makes and keeps prepared items.

    Parameters
    ----------
    folder
        Where entries lie.
    memory
        Bytes of entries that stay in memory; the rest is read again from disk.
    boxes
        Whether boxes are learnt; else items are taken without theirs.
    """

    def __init__(
        self, preprocessing: Preprocessing, classes: Sequence[str], folder: Path, memory: float = 4e9, *, boxes: bool = False
    ) -> None:
        self.boxes = boxes
        self.preprocessing = preprocessing
        self.classes = tuple(classes)
        self.folder = folder
        self.memory = memory
        self._plain, self._masked = preprocessing.image(), preprocessing.with_mask()
        self._held: dict[str, Prepared] = {}
        self._used = 0

    def prepare(self, items: Iterable[Item], progress: Progress = lambda done, of: None) -> tuple[list[Item], list[Skipped]]:
        """Prepare every item that can be; those, and the others with the reason."""
        listed = list(items)
        good, skipped = [], []
        for number, item in enumerate(listed, 1):
            try:
                self.get(item)
                good.append(item)
            except ItemUnreadable as error:
                skipped.append(Skipped(error.where, item.provenance.get("row", item.id), error.reason))
            progress(number, len(listed))
        return good, skipped

    def get(self, item: Item) -> Prepared:
        """One item, from memory, from disk, or made now.

        Raises
        ------
        ItemUnreadable
        """
        held = self._held.get(item.id)
        if held is not None:
            return held
        path = self.folder / f"{self._key(item)}.safetensors"
        prepared = self._read(item, path) if path.is_file() else None
        if prepared is None:
            prepared = self._make(item)
            _write(prepared, path)
        size = prepared.image.numel() * 4 + (0 if prepared.mask is None else prepared.mask.numel())
        if self._used + size <= self.memory:
            self._held[item.id] = prepared
            self._used += size
        return prepared

    def _key(self, item: Item) -> str:
        total = hashlib.sha256(f"prepared 1 {self.preprocessing.digest} {len(self.classes)}".encode())
        for path in (*item.image, *([item.mask] if item.mask else [])):
            try:
                total.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise ItemUnreadable(str(path), f"cannot be read ({type(error).__name__})") from error
        return total.hexdigest()

    def _make(self, item: Item) -> Prepared:
        sample = load(item, classes=len(self.classes) if item.mask else None)
        data = {"image": sample.image} if sample.mask is None else {"image": sample.image, "mask": sample.mask}
        source = torch.as_tensor(np.asarray(sample.image.affine.cpu())).double()
        try:
            done = (self._plain if sample.mask is None else self._masked)(data)
        except Exception as error:  # transforms are foreign code and raise anything
            why = f"the preprocessing fails on it ({type(error).__name__}: {str(error)[:200]})"
            raise ItemUnreadable(str(item.image[0]), why) from error
        if not torch.isfinite(done["image"]).all():
            raise ItemUnreadable(str(item.image[0]), "the preprocessing makes values of it that are not finite")
        return self._prepared(item, _plain(done["image"]), _plain(done["mask"]) if "mask" in done else None, source)

    def _prepared(self, item: Item, image: MetaTensor, mask: MetaTensor | None, source: torch.Tensor) -> Prepared:
        given = item.boxes if self.boxes else ()
        boxes = torch.tensor([[box.x_min, box.y_min, box.x_max, box.y_max] for box in given]).reshape(-1, 4)
        known = {name: number for number, name in enumerate(self.classes)}
        strangers = {box.label for box in given} - set(known)
        if strangers:
            raise ItemUnreadable(str(item.image[0]), f"a box has the label '{min(strangers)}', which is no class of the data set")
        return Prepared(
            item=item,
            image=image,
            mask=mask,
            boxes=moved_boxes(boxes, source, image.affine),
            box_classes=torch.tensor([known[box.label] for box in given], dtype=torch.long),
            source=source,
        )

    def _read(self, item: Item, path: Path) -> Prepared | None:
        try:
            tensors = load_file(path)
        except Exception:  # noqa: BLE001 - a cache entry that cannot be read is made again, whatever is wrong with it
            return None
        affine = tensors["affine"]
        mask = MetaTensor(tensors["mask"], affine=affine) if "mask" in tensors else None
        return self._prepared(item, MetaTensor(tensors["image"], affine=affine), mask, tensors["source"])


def _plain(tensor: MetaTensor) -> MetaTensor:
    """Without the record of what was done: nothing is inverted in training."""
    return MetaTensor(tensor.as_tensor().contiguous(), affine=tensor.affine.double())


def _write(prepared: Prepared, path: Path) -> None:
    tensors: dict[str, torch.Tensor] = {
        "image": prepared.image.as_tensor(),
        "affine": prepared.image.affine.double(),
        "source": prepared.source,
    }
    if prepared.mask is not None:
        tensors["mask"] = prepared.mask.as_tensor()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    os.close(handle)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, temporary)
    Path(temporary).replace(path)


def moved_boxes(boxes: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Boxes (n, 4) of one grid on another of the same image, by both affines; corners are mapped and boxed again."""
    if not len(boxes):
        return boxes
    through = torch.linalg.inv(new.double()) @ old.double()
    x, y = boxes[:, (0, 2, 0, 2)].double() - 0.5, boxes[:, (1, 1, 3, 3)].double() - 0.5
    zero = torch.zeros_like(x)
    corners = torch.stack([x, y, zero, zero + 1], dim=-1) @ through.T
    low, high = corners[..., :2].amin(1), corners[..., :2].amax(1)
    return torch.cat([low, high], dim=1).float() + 0.5


def lacking(items: Mapping[str, Prepared] | Iterable[Prepared], classes: Sequence[str]) -> list[str]:
    """Classes that no item shows: in no mask, no box, no positive label."""
    seen: set[int] = set()
    for prepared in items.values() if isinstance(items, Mapping) else items:
        if prepared.mask is not None:
            seen.update(int(value) - 1 for value in torch.unique(prepared.mask.as_tensor()).tolist() if value)
        seen.update(prepared.box_classes.tolist())
        seen.update(number for number, name in enumerate(classes) if prepared.item.labels.get(name, 0) > 0)
    return [name for number, name in enumerate(classes) if number not in seen]


@dataclass(frozen=True)
class Parts:
    """The items of each part of the split, prepared, and what was left out."""

    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = field(default=())
