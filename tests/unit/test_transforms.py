"""Transforms for bundles: they keep affine and history, say what is wrong, and do what their formula says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from pydicom import Dataset
from pydicom.pixels.processing import apply_windowing

from models.filters import gaussian_filter
from models.keypoints import feature_points, match
from models.preprocess import Preprocessing
from models.transforms import FeaturePointsd, GaussianFilterd, InvertMonochrome1d, MedianFilterd, ToGreyscaled, Windowd


def image(*shape: int, **meta: object) -> MetaTensor:
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(3)) * 100
    return MetaTensor(values, affine=torch.diag(torch.tensor([0.5, 2.0, 1.0, 1.0], dtype=torch.float64)), meta=dict(meta))


def test_a_filter_works_in_millimetres_and_keeps_the_affine() -> None:
    given = image(1, 20, 16)
    found = GaussianFilterd("image", sigma=1.0, units="mm")({"image": given})["image"]
    np.testing.assert_allclose(found.as_tensor()[0].numpy(), gaussian_filter(given.numpy()[0], (2.0, 0.5)))
    assert torch.equal(found.affine, given.affine)
    with pytest.raises(ValueError, match="no affine"):
        GaussianFilterd("image", units="mm")({"image": given.as_tensor()})
    with pytest.raises(ValueError, match="units"):
        GaussianFilterd("image", units="inch")  # type: ignore[arg-type]


def test_each_channel_is_filtered_by_itself() -> None:
    given = image(3, 12, 12)
    found = MedianFilterd("image", size=3)({"image": given})["image"]
    alone = MedianFilterd("image", size=3)({"image": given[1:2]})["image"]
    assert torch.equal(found.as_tensor()[1:2], alone.as_tensor())


def test_a_bundles_configuration_names_them() -> None:
    graph = Preprocessing.from_config([{"_target_": "models.transforms.MedianFilterd", "keys": "image", "size": 3}])
    mask = MetaTensor(torch.zeros(1, 8, 8, dtype=torch.uint8))
    done = graph.with_mask()({"image": image(1, 8, 8), "mask": mask})
    assert torch.equal(done["mask"], mask)


def test_colour_becomes_luminance() -> None:
    given = image(3, 6, 5, photometric_interpretation="RGB")
    found = ToGreyscaled("image")({"image": given})["image"]
    reference = cv2.cvtColor(given.numpy().transpose(1, 2, 0).astype(np.float32), cv2.COLOR_RGB2GRAY)
    np.testing.assert_allclose(found[0].numpy(), reference, rtol=1e-4)
    assert found.meta["photometric_interpretation"] == "MONOCHROME2"
    with pytest.raises(ValueError, match="2 channels"):
        ToGreyscaled("image")({"image": image(2, 6, 5)})


def test_only_monochrome1_is_turned_over() -> None:
    given = image(1, 6, 5, photometric_interpretation="MONOCHROME1")
    found = InvertMonochrome1d("image")({"image": given})["image"]
    assert found.argmax() == given.argmin()
    assert (float(found.min()), float(found.max())) == pytest.approx((float(given.min()), float(given.max())), rel=1e-5)
    again = InvertMonochrome1d("image")({"image": found})["image"]
    assert torch.equal(again, found)


@pytest.mark.parametrize("named", [True, False])
def test_a_window_is_pydicoms(named: bool) -> None:
    given = image(1, 9, 9, window_center=40.0, window_width=30.0)
    made = Windowd("image", 40, 30) if named else Windowd("image")
    found = made({"image": given})["image"]
    header = Dataset()
    header.WindowCenter, header.WindowWidth = 40, 30
    header.BitsStored, header.PixelRepresentation, header.PhotometricInterpretation = 8, 0, "MONOCHROME2"
    reference = apply_windowing(given.numpy()[0], header) / 255.0
    np.testing.assert_allclose(found[0].numpy(), reference, atol=1e-5)


def test_an_image_without_a_window_is_stretched() -> None:
    found = Windowd("image")({"image": image(1, 9, 9)})["image"]
    assert (float(found.min()), float(found.max())) == pytest.approx((0.0, 1.0), abs=1e-5)


def scene(angle: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(5)
    picture = np.zeros((160, 160), np.float32)
    for x, y, radius in rng.integers((30, 30, 4), (130, 130, 14), (25, 3)):
        cv2.circle(picture, (int(x), int(y)), int(radius), float(rng.uniform(50, 255)), -1)
    turn = cv2.getRotationMatrix2D((79.5, 79.5), angle, 1.0)
    return cv2.warpAffine(picture, turn, (160, 160)).T


@pytest.mark.parametrize("detector", ["sift", "orb"])
def test_points_are_found_again_after_a_turn(detector: str) -> None:
    first, second = (feature_points(scene(angle), detector) for angle in (0.0, 30.0))  # type: ignore[arg-type]
    pairs = match(first, second)
    assert len(pairs) >= 15
    turn = cv2.getRotationMatrix2D((79.5, 79.5), 30.0, 1.0)
    moved = first.position[pairs[:, 0]] @ turn[:, :2].T + turn[:, 2]
    apart = np.linalg.norm(moved - second.position[pairs[:, 1]], axis=1)
    assert np.mean(apart < 3) > 0.8
    assert (np.diff(first.response) <= 0).all()


def test_points_have_their_place_in_millimetres() -> None:
    data = FeaturePointsd("image", most=20)({"image": MetaTensor(torch.from_numpy(scene()[None].copy()))})
    points = data["image_points"]
    assert 0 < len(points) <= 20
    affine = np.diag([0.5, 2.0, 1.0, 1.0])
    np.testing.assert_allclose(points.millimetres(affine)[:, :2], points.position * [0.5, 2.0], rtol=1e-6)


def test_an_image_without_any_structure_has_no_points() -> None:
    points = feature_points(np.full((64, 64), 3.0, np.float32))
    assert (len(points), points.descriptor.shape) == (0, (0, 128))
    assert match(points, points).shape == (0, 2)
