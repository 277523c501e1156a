"""The preprocessing graph: the same for image alone and image with mask, whatever it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from models.bundle import load_bundle
from models.errors import BundleInvalid
from models.preprocess import Preprocessing

CROP = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "select_fn": "$lambda x: x > 0", "margin": 1}
PAD = {"_target_": "SpatialPadd", "keys": ["image"], "spatial_size": [40, 40, 24], "value": -1000}
STEPS: list[dict[str, Any]] = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [1.0, 1.0, 2.0], "mode": "bilinear"},
    CROP,
    {"_target_": "NormalizeIntensityd", "keys": "image"},
    PAD,
]


def volume() -> dict[str, MetaTensor]:
    """A bright block whose mask has labels 1 and 2, in a volume whose axes run against RAS."""
    image = torch.zeros(1, 30, 34, 20)
    image[:, 5:25, 8:28, 4:16] = torch.rand(1, 20, 20, 12, generator=torch.Generator().manual_seed(1)) + 0.5
    mask = torch.zeros(1, 30, 34, 20, dtype=torch.uint8)
    mask[:, 5:25, 8:28, 4:10], mask[:, 5:25, 8:28, 10:16] = 1, 2
    affine = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    return {"image": MetaTensor(image, affine=affine), "mask": MetaTensor(mask, affine=affine)}


def test_the_mask_goes_where_the_image_goes_and_keeps_its_labels() -> None:
    done = Preprocessing.from_config(STEPS).with_mask()(volume())
    image, mask = done["image"], done["mask"]
    assert image.shape[1:] == mask.shape[1:]
    assert torch.allclose(image.affine, mask.affine)
    assert set(torch.unique(mask.as_tensor()).tolist()) == {0, 1, 2}
    inside = image.as_tensor()[mask.as_tensor() > 0]
    outside = image.as_tensor()[mask.as_tensor() == 0]
    assert inside.mean() > 0.2
    assert (outside == -1000).any()
    assert (mask.as_tensor()[image.as_tensor() == -1000] == 0).all()


def test_the_image_is_the_same_with_and_without_a_mask() -> None:
    graph = Preprocessing.from_config(STEPS)
    alone = graph.image()({"image": volume()["image"]})["image"]
    assert torch.equal(alone.as_tensor(), graph.with_mask()(volume())["image"].as_tensor())


def test_the_digest_knows_the_steps_and_not_the_loading_nor_the_order_of_keys() -> None:
    graph = Preprocessing.from_config(STEPS)
    reordered = [dict(reversed(step.items())) for step in STEPS[2:]]
    assert graph.digest == Preprocessing.from_config(reordered).digest
    assert graph.digest != Preprocessing.from_config([*STEPS[:-1], {**PAD, "value": 0}]).digest


def test_a_bundles_graph_is_taken_as_it_serves() -> None:
    graph = Preprocessing.from_bundle(load_bundle("brain_extraction"))
    assert [step["_target_"] for step in graph.steps] == ["Orientationd"]
    done = graph.image()({"image": volume()["image"]})["image"]
    assert done.affine[0, 0] == 1


def test_steps_may_refer_to_the_rest_of_the_configuration() -> None:
    graph = Preprocessing([{"_target_": "Resized", "keys": "image", "spatial_size": "@size"}], {"size": [8, 8, 8]})
    assert graph.with_mask()(volume())["mask"].shape == (1, 8, 8, 8)


@pytest.mark.parametrize("target", ["NoSuchTransformd", "models.transforms.NoSuch", "no.such.module.Thing"])
def test_an_unknown_transform_is_named(target: str) -> None:
    with pytest.raises(BundleInvalid, match=target.rsplit(".", 1)[-1]):
        Preprocessing.from_config([{"_target_": target, "keys": "image"}]).with_mask()


def test_a_mask_that_is_made_smaller_keeps_its_labels() -> None:
    shrink = {"_target_": "Resized", "keys": "image", "spatial_size": [10, 10, 6], "mode": "bilinear", "anti_aliasing": True}
    done = Preprocessing.from_config([shrink]).with_mask()(volume())
    assert done["mask"].shape == (1, 10, 10, 6)
    assert set(torch.unique(done["mask"]).tolist()) == {0, 1, 2}
