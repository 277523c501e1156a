"""Features agree with the digital phantom of the IBSI, with scikit-image and with geometry."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.color import rgb2lab
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.measure import label, regionprops

from models.features.colour import colour_features
from models.features.edges import edge_features
from models.features.extract import Extraction, extract
from models.features.glcm import glcm_features
from models.features.intensity import intensity_features
from models.features.region import FeaturesRefused, Region
from models.features.shape import shape_features
from models.features.texture import gabor_features, lbp_features

# The digital phantom of the IBSI reference manual (figure 5.1), 2 mm voxels, 0 outside the region; and its reference values.
PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ]
).transpose(2, 1, 0)
IBSI = {
    "intensity.mean": 2.15, "intensity.variance": 3.05, "intensity.skewness": 1.08, "intensity.kurtosis": -0.355,
    "intensity.median": 1, "intensity.percentile_10": 1, "intensity.percentile_90": 4, "intensity.interquartile_range": 3,
    "intensity.range": 5, "intensity.mean_absolute_deviation": 1.55, "intensity.robust_mean_absolute_deviation": 1.11,
    "intensity.median_absolute_deviation": 1.15, "intensity.coefficient_of_variation": 0.812,
    "intensity.quartile_coefficient_of_dispersion": 0.6, "intensity.energy": 567, "intensity.root_mean_square": 2.77,
    "histogram.entropy": 1.27, "histogram.uniformity": 0.512,
    "glcm.joint_maximum": 0.503, "glcm.joint_average": 2.14, "glcm.joint_variance": 3.1, "glcm.joint_entropy": 2.4,
    "glcm.difference_average": 1.43, "glcm.difference_variance": 3.06, "glcm.difference_entropy": 1.56, "glcm.sum_average": 4.29,
    "glcm.sum_variance": 7.07, "glcm.sum_entropy": 1.92, "glcm.angular_second_moment": 0.303, "glcm.contrast": 5.32,
    "glcm.dissimilarity": 1.43, "glcm.inverse_difference": 0.677, "glcm.normalised_inverse_difference": 0.851,
    "glcm.inverse_difference_moment": 0.618, "glcm.normalised_inverse_difference_moment": 0.898, "glcm.inverse_variance": 0.0604,
    "glcm.correlation": 0.157, "glcm.autocorrelation": 5.06, "glcm.cluster_tendency": 7.07, "glcm.cluster_shade": 16.6,
    "glcm.cluster_prominence": 145,
    "shape.volume_mesh": 556, "shape.volume_voxels": 592, "shape.surface_area": 388, "shape.surface_to_volume_ratio": 0.698,
    "shape.sphericity": 0.843, "shape.compactness_2": 0.599, "shape.maximum_3d_diameter": 13.1, "shape.major_axis_length": 11.4,
    "shape.minor_axis_length": 9.31, "shape.least_axis_length": 8.54, "shape.elongation": 0.816, "shape.flatness": 0.749,
}  # fmt: skip


def test_the_digital_phantom_has_its_reference_values() -> None:
    what = Extraction(classes=("intensity", "glcm", "shape"), bin_width=1.0)
    found = extract(PHANTOM[None].astype(float), PHANTOM, (2.0, 2.0, 2.0), what)
    for name, wanted in IBSI.items():
        assert found[name] == pytest.approx(wanted, rel=6e-3), name


def picture(shape: tuple[int, ...] = (48, 40), seed: int = 2) -> NDArray[np.float64]:
    return np.cumsum(np.random.default_rng(seed).normal(0, 10, shape), axis=0) + 100


def test_co_occurrence_is_scikit_images() -> None:
    region = Region.of(picture())
    levels, number = region.levels(None, 16)
    counted = graycomatrix(
        (levels - 1).astype(np.uint8), [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], number, symmetric=True, normed=True
    )
    found = glcm_features(region, bins=16)
    names = {"contrast": "contrast", "dissimilarity": "dissimilarity", "homogeneity": "inverse_difference_moment"}
    for theirs, ours in {**names, "ASM": "angular_second_moment", "correlation": "correlation"}.items():
        assert found[f"glcm.{ours}"] == pytest.approx(float(graycoprops(counted, theirs).mean()), rel=1e-9)


def test_local_binary_patterns_are_scikit_images_inside_the_mask() -> None:
    image = picture().round()
    mask = np.zeros(image.shape, bool)
    mask[5:30, 7:33] = True
    found = lbp_features(Region.of(image, mask))
    assert sum(found.values()) == pytest.approx(1.0)
    inside = image[5:30, 7:33]
    eight = ((inside - inside.min()) * (255 / (inside.max() - inside.min()))).round().astype(np.uint8)
    counts = np.bincount(local_binary_pattern(eight, 8, 1, method="uniform").astype(int).ravel(), minlength=10)
    np.testing.assert_allclose(list(found.values()), counts / counts.sum())


def test_gabor_filters_answer_to_their_own_wave() -> None:
    x, _ = np.meshgrid(np.arange(96), np.arange(96), indexing="ij")
    found = gabor_features(Region.of(np.sin(2 * np.pi * x / 8)))
    means = {name: value for name, value in found.items() if name.endswith("_mean")}
    assert max(means, key=lambda name: means[name]) == "gabor.8px_0deg_mean"
    flat = gabor_features(Region.of(np.full((32, 32), 9.0)))
    assert max(flat.values()) < 1e-4


def test_shape_of_a_disc_is_geometry_and_scikit_images() -> None:
    x, y = np.meshgrid(np.arange(120), np.arange(120), indexing="ij")
    mask = ((x - 60) / 40.0) ** 2 + ((y - 60) / 20.0) ** 2 <= 1
    found = shape_features(Region.of(np.zeros(mask.shape), mask, (1.0, 2.0)))  # a circle of 40 mm
    assert found["shape.area_mesh"] == pytest.approx(np.pi * 40**2, rel=0.01)
    assert 0.8 < found["shape.circularity"] <= 1.0  # the outline has the steps of the pixels
    assert found["shape.solidity"] == pytest.approx(1.0, abs=0.03)
    assert found["shape.maximum_diameter"] == pytest.approx(81, abs=2)  # from edge to edge of pixels of 1 x 2 mm
    assert found["shape.elongation"] == pytest.approx(1.0, abs=0.02)
    plain = shape_features(Region.of(np.zeros(mask.shape), mask))
    reference = regionprops(label(mask))[0]
    assert plain["shape.major_axis_length"] == pytest.approx(reference.axis_major_length, rel=2e-3)
    assert plain["shape.area_pixels"] == reference.area
    assert plain["shape.euler_number"] == reference.euler_number


def test_a_ramp_has_its_slope_as_gradient() -> None:
    x, _ = np.meshgrid(np.arange(40), np.arange(30), indexing="ij")
    found = edge_features(Region.of(3.0 * x, None, (2.0, 1.0)))
    assert found["edge.gradient_mean"] == pytest.approx(1.5)
    assert found["edge.orientation_0deg"] == pytest.approx(1.0)
    assert found["edge.orientation_entropy"] == pytest.approx(0.0)


def test_colour_is_scikit_images_lab_and_names_the_hue() -> None:
    values = np.random.default_rng(1).integers(0, 256, (3, 20, 20)).astype(float)
    found = colour_features(values)
    lab = rgb2lab(values.transpose(1, 2, 0) / 255)
    assert found["colour.lab_l_mean"] == pytest.approx(lab[..., 0].mean(), rel=2e-3)
    assert found["colour.lab_b_deviation"] == pytest.approx(lab[..., 2].std(), rel=1e-2)
    red = np.zeros((3, 8, 8))
    red[0] = 200
    assert colour_features(red)["colour.hue_0deg"] == pytest.approx(1.0)


def test_a_region_of_one_value_or_one_voxel_has_defined_features() -> None:
    constant = np.full((6, 6), 5.0)
    single = np.zeros((6, 6))
    single[2, 3] = 1
    for mask in (np.ones((6, 6)), single):
        found = extract(constant[None], mask)
        assert np.isfinite(list(found.values())).all(), [name for name, value in found.items() if not np.isfinite(value)]
    solid = np.zeros((5, 5, 5))
    solid[2, 2, 2] = 1
    found = extract(np.full((1, 5, 5, 5), 2.0), solid)
    assert np.isfinite(list(found.values())).all()


@pytest.mark.parametrize(
    ("image", "mask", "why"),
    [
        (np.full((1, 4, 4), np.nan), None, "not finite"),
        (np.zeros((1, 4, 4)), np.zeros((4, 4)), "mask is empty"),
        (np.zeros((1, 4, 4)), np.ones((4, 5)), "another size"),
        (np.zeros((2, 4, 4)), None, "one or three channels"),
    ],
)
def test_what_cannot_be_described_is_refused_with_the_reason(
    image: NDArray[np.float64], mask: NDArray[np.float64] | None, why: str
) -> None:
    with pytest.raises(FeaturesRefused, match=why):
        extract(image, mask)


def test_values_outside_the_mask_change_nothing() -> None:
    image = picture()
    mask = np.zeros(image.shape)
    mask[10:30, 10:30] = 1
    spoilt = np.where(mask > 0, image, np.nan)
    what = Extraction(classes=("intensity", "glcm"))
    assert extract(spoilt[None], mask, None, what) == extract(image[None], mask, None, what)
    assert intensity_features(Region.of(image, mask))["intensity.mean"] == pytest.approx(image[10:30, 10:30].mean())
