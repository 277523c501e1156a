"""Tiny data sets with known content, and tiny trainings that learn them in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from models.datasets.protocol import Box, Item, Skipped, Task
from models.training.config import TrainingConfig, parse_config

SIDE = 64

SEGMENTATION = """
task = "segmentation"
[split]
train = 0.5
validation = 0.25
test = 0.25
[[preprocessing]]
_target_ = "Resized"
keys = "image"
spatial_size = [32, 32]
[[preprocessing]]
_target_ = "ScaleIntensityRanged"
keys = "image"
a_min = 0.0
a_max = 255.0
b_min = 0.0
b_max = 1.0
[[augmentation]]
_target_ = "RandFlipd"
keys = ["image", "mask"]
prob = 0.5
spatial_axis = 0
[[augmentation]]
_target_ = "RandGaussianNoised"
keys = "image"
prob = 0.5
std = 0.05
[network]
_target_ = "UNet"
spatial_dims = 2
in_channels = 1
out_channels = 2
channels = [8, 16]
strides = [2]
dropout = 0.1
[optimiser]
_target_ = "torch.optim.AdamW"
lr = 0.02
[run]
epochs = 6
batch = 4
threads = 1
average = 0.8
amp = "off"
[dicom.model]
name = "blobs"
version = "1"
manufacturer = "Tests"
intended_use = "Tests"
licence = "Apache-2.0"
[dicom.geometry]
dimensions = 2
[[dicom.segment]]
label = "blob"
category = { value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }
type = { value = "39607008", scheme = "SCT", meaning = "Lung" }
"""

DETECTION = """
task = "detection"
[[preprocessing]]
_target_ = "ScaleIntensityRanged"
keys = "image"
a_min = 0.0
a_max = 255.0
b_min = 0.0
b_max = 1.0
[[augmentation]]
_target_ = "RandFlipd"
keys = "image"
prob = 0.5
spatial_axis = 0
[network]
_target_ = "models.detection.CentreNet"
in_channels = 1
classes = 1
features = [8, 8, 8, 8, 8, 8]
[optimiser]
_target_ = "torch.optim.AdamW"
lr = 0.02
[run]
epochs = 20
batch = 4
threads = 1
average = 0.5
amp = "off"
validate_every = 10
"""

CLASSIFICATION = """
task = "classification"
[[preprocessing]]
_target_ = "ScaleIntensityRanged"
keys = "image"
a_min = 0.0
a_max = 255.0
b_min = 0.0
b_max = 1.0
[network]
_target_ = "DenseNet"
spatial_dims = 2
in_channels = 1
out_channels = 1
init_features = 8
growth_rate = 8
block_config = [2, 2]
[optimiser]
_target_ = "torch.optim.AdamW"
lr = 0.01
[run]
epochs = 12
batch = 8
threads = 1
average = 0.5
amp = "off"
validate_every = 4
[dicom.model]
name = "sizes"
version = "1"
manufacturer = "Tests"
intended_use = "Tests"
licence = "Apache-2.0"
[dicom.geometry]
dimensions = 2
[dicom.output]
kinds = ["SR"]
form = "scores"
[[dicom.classification]]
label = "large"
channel = 0
name = { value = "size", scheme = "99TEST", meaning = "Size" }
positive = { value = "large", scheme = "99TEST", meaning = "Large" }
negative = { value = "small", scheme = "99TEST", meaning = "Small" }
"""

AUTOENCODER = """
task = "autoencoder"
[[preprocessing]]
_target_ = "Resized"
keys = "image"
spatial_size = [32, 32]
[[preprocessing]]
_target_ = "ScaleIntensityRanged"
keys = "image"
a_min = 0.0
a_max = 255.0
b_min = 0.0
b_max = 1.0
[network]
_target_ = "AutoEncoder"
spatial_dims = 2
in_channels = 1
out_channels = 1
channels = [8, 16]
strides = [2, 2]
[optimiser]
_target_ = "torch.optim.AdamW"
lr = 0.01
[run]
epochs = 15
batch = 4
threads = 1
average = 0.5
amp = "off"
validate_every = 5
[dicom.model]
name = "unusual"
version = "1"
manufacturer = "Tests"
intended_use = "Tests"
licence = "Apache-2.0"
[dicom.geometry]
dimensions = 2
[dicom.output]
kinds = ["SR"]
form = "scores"
[[dicom.classification]]
label = "anomaly"
channel = 0
threshold = 0.95
name = { value = "anomaly", scheme = "99TEST", meaning = "Unlike the training images" }
positive = { value = "unusual", scheme = "99TEST", meaning = "Unusual" }
negative = { value = "usual", scheme = "99TEST", meaning = "Usual" }
"""


@dataclass
class Data:
    """Items in memory as a DataSet."""

    name: str
    task: Task
    classes: tuple[str, ...]
    items: list[Item]
    skipped: Sequence[Skipped] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


def blobs(folder: Path, count: int = 16) -> Data:
    """Pictures of one bright rectangle each, with its mask, its box, and a label that says whether it is large."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    items = []
    for number in range(count):
        width, height = generator.integers(14, 28, 2)
        left, top = generator.integers(0, SIDE - width), generator.integers(0, SIDE - height)
        picture = generator.integers(20, 60, (SIDE, SIDE)).astype(np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        picture[top : top + height, left : left + width] = 200
        mask[top : top + height, left : left + width] = 1
        image, label = folder / f"{number}.png", folder / f"{number}_mask.png"
        Image.fromarray(picture).save(image)
        Image.fromarray(mask).save(label)
        items.append(
            Item(
                id=f"blob{number}",
                subject=f"subject{number}",
                image=(image,),
                mask=label,
                labels={"large": float(width * height > 400)},
                boxes=(Box("blob", float(left), float(top), float(left + width), float(top + height)),),
            )
        )
    return Data("blobs", "segmentation", ("blob",), items)


def parts(data: Data, train: float = 0.5, validation: float = 0.25) -> dict[str, str]:
    """The first items train, the next validate, the rest test."""
    one, two = round(len(data) * train), round(len(data) * (train + validation))
    return {item.id: "train" if n < one else "validation" if n < two else "test" for n, item in enumerate(data)}


def config(text: str = SEGMENTATION, **changes: str) -> TrainingConfig:
    """A configuration with lines replaced: ``epochs="epochs = 2"``."""
    lines = text.splitlines()
    for key, line in changes.items():
        place = next(n for n, each in enumerate(lines) if each.startswith(f"{key} ="))
        lines[place] = line
    return parse_config("\n".join(lines))
