"""Images become a volume with the right values at the right place, whatever their order or encoding."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from models.volume import Volume, read_volume
from tests.imaging import AXIAL, as_file, as_files, series, values_of

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def rotation(angles: tuple[float, float, float]) -> list[float]:
    a, b, c = angles
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix = z @ y @ x
    return [*matrix[:, 0], *matrix[:, 1]]


def test_values_and_affine_of_an_axial_stack() -> None:
    values = values_of(5)
    volume = read_volume(as_files(series(values)))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, values)
    np.testing.assert_allclose(volume.affine_lps, [[0.7, 0, 0, -30], [0, 0.8, 0, -40], [0, 0, 1.5, 50], [0, 0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(volume.affine, [[-0.7, 0, 0, 30], [0, -0.8, 0, 40], [0, 0, 1.5, 50], [0, 0, 0, 1]], atol=1e-6)
    assert volume.spacing == pytest.approx((0.7, 0.8, 1.5))
    assert volume.voxel_ml == pytest.approx(0.7 * 0.8 * 1.5 / 1000)


@pytest.mark.parametrize(("orientation", "plane"), [(AXIAL, "axial"), (CORONAL, "coronal"), (SAGITTAL, "sagittal")])
def test_the_plane_has_a_name(orientation: tuple[float, ...], plane: str) -> None:
    assert read_volume(as_files(series(values_of(3), orientation=orientation))).plane == plane


def test_the_order_of_arrival_does_not_matter() -> None:
    images = series(values_of(9))
    expected = read_volume(as_files(images))
    random.Random(1).shuffle(images)
    shuffled = read_volume(as_files(images))
    np.testing.assert_array_equal(shuffled.array, expected.array)
    assert shuffled.sources == expected.sources
    assert [header.SOPInstanceUID for header in shuffled.headers] == list(shuffled.sources)
    assert shuffled.frame_numbers == (1,) * 9


def test_a_stack_numbered_downwards_is_turned_round() -> None:
    values = values_of(4)
    volume = read_volume(as_files(series(values, step=-2.0, SliceThickness="2")))
    np.testing.assert_array_equal(volume.array, values[::-1])
    assert np.linalg.det(volume.affine_lps[:3, :3]) > 0


@settings(max_examples=25, deadline=None)
@given(st.tuples(*(st.floats(-3.1, 3.1) for _ in range(3))), st.floats(0.3, 5.0), st.integers(2, 6))
def test_agrees_with_highdicom_at_any_angle(angles: tuple[float, float, float], step: float, slices: int) -> None:
    images = series(values_of(slices), orientation=rotation(angles), step=step)
    volume = read_volume(as_files(images))
    theirs = hd.get_volume_from_series(images)
    if np.dot(theirs.affine[:3, 0], volume.affine_lps[:3, 2]) < 0:
        theirs = theirs[::-1]
    np.testing.assert_allclose(theirs.affine[:, [2, 1, 0, 3]], volume.affine_lps, atol=1e-4)
    np.testing.assert_array_equal(theirs.array, volume.array)


def test_headers_carry_no_pixels() -> None:
    volume = read_volume(as_files(series(values_of(3))))
    assert all("PixelData" not in header and header.Rows == 12 for header in volume.headers)


def test_rescaling_gives_values_per_slice() -> None:
    values = values_of(3)
    images = series(values, RescaleSlope="2.5", RescaleIntercept="-100")
    images[1].RescaleSlope = "0.5"
    volume = read_volume(as_files(images))
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, values * np.array([2.5, 0.5, 2.5])[:, None, None] - 100)


def test_unused_high_bits_are_not_part_of_the_value() -> None:
    values = np.array([[[0x0FFF, 0x0001], [0x0800, 0x07FF]]] * 2, dtype=np.uint16)
    dirty = (values | 0xF000).astype(np.uint16)
    images = series(dirty.view(np.int16), BitsStored=12, HighBit=11, PixelRepresentation=0)
    np.testing.assert_array_equal(read_volume(as_files(images)).array, values)


def test_signs_are_extended_from_the_stored_bits() -> None:
    stored = np.array([[[0x0FFF, 0x0001], [0x0800, 0x07FF]]] * 2, dtype=np.int16)
    images = series(stored, BitsStored=12, HighBit=11, PixelRepresentation=1)
    np.testing.assert_array_equal(read_volume(as_files(images)).array[0], [[-1, 1], [-2048, 2047]])


def test_sixteen_unsigned_bits_do_not_wrap() -> None:
    values = np.full((2, 4, 4), 60000, dtype=np.uint16)
    images = series(values.view(np.int16), PixelRepresentation=0)
    assert read_volume(as_files(images)).array.max() == 60000


def test_eight_bits() -> None:
    images = series(values_of(2), BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)
    planes = values_of(2).astype(np.uint8)
    for image, plane in zip(images, planes, strict=True):
        image["PixelData"].VR = "OB"
        image.PixelData = plane.tobytes()
    np.testing.assert_array_equal(read_volume(as_files(images)).array, planes)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_syntaxes(syntax: str) -> None:
    values = values_of(3)
    np.testing.assert_array_equal(read_volume(as_files(series(values), syntax)).array, values)


def test_big_endian() -> None:
    values = values_of(3)
    images = series(values)
    for image, plane in zip(images, values, strict=True):
        image.PixelData = plane.astype(">i2").tobytes()
    np.testing.assert_array_equal(read_volume(as_files(images, ExplicitVRBigEndian)).array, values)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_syntaxes(syntax: str) -> None:
    values = values_of(3)
    images = series(values, PixelRepresentation=0)
    for image in images:
        image.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read_volume(as_files(images)).array, values)


def test_paths_streams_and_openers(tmp_path: Path) -> None:
    images = series(values_of(3))
    path = tmp_path / "1.dcm"
    path.write_bytes(as_file(images[0]).getvalue())
    content = as_file(images[2]).getvalue()
    volume = read_volume([path, as_file(images[1]), lambda: BytesIO(content)])
    np.testing.assert_array_equal(volume.array, values_of(3))


def enhanced(images: list[Dataset]) -> Dataset:
    return hd.legacy.LegacyConvertedEnhancedMRImage(images, hd.UID(), 2, hd.UID(), 1)


def same(one: Volume, other: Volume) -> None:
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_allclose(one.affine_lps, other.affine_lps, atol=1e-6)


def complete(images: list[Dataset]) -> list[Dataset]:
    for image in images:
        image.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
        image.Manufacturer, image.AcquisitionNumber = "Maker", 1
    return images


def test_an_enhanced_object_equals_its_single_frames() -> None:
    images = complete(series(values_of(6), orientation=rotation((0.1, 0.2, 0.3))))
    twin = enhanced(images)
    volume = read_volume([as_file(twin)])
    same(volume, read_volume(as_files(images)))
    assert volume.sources == (twin.SOPInstanceUID,)
    assert len(volume.headers) == 1
    assert sorted(volume.frame_numbers) == [1, 2, 3, 4, 5, 6]


def test_an_enhanced_object_rescales_each_frame() -> None:
    images = complete(series(values_of(4), RescaleSlope="3", RescaleIntercept="7", RescaleType="US"))
    same(read_volume([as_file(enhanced(images))]), read_volume(as_files(images)))


@pytest.mark.real_data
def test_a_real_enhanced_ct(real_data: Path) -> None:
    volume = read_volume([real_data / "multiframe" / "eCT_Supplemental.dcm"])
    assert volume.array.shape == (2, 512, 512)
    assert volume.spacing == pytest.approx((0.388672, 0.388672, 10.0))
    assert volume.array.min() == -1024


@pytest.mark.real_data
def test_a_real_enhanced_mr_against_highdicom(real_data: Path) -> None:
    path = real_data / "multiframe" / "6_1.dcm"
    volume = read_volume([path])
    theirs = hd.imread(path).get_volume(apply_modality_transform=True)
    if np.dot(theirs.affine[:3, 0], volume.affine_lps[:3, 2]) < 0:
        theirs = theirs[::-1]
    np.testing.assert_allclose(theirs.affine[:, [2, 1, 0, 3]], volume.affine_lps, atol=1e-3)
    np.testing.assert_allclose(theirs.array, volume.array)


@pytest.mark.real_data
def test_one_slice_in_many_transfer_syntaxes_gives_the_same_values(real_data: Path) -> None:
    read = 0
    reference = None
    for path in sorted((real_data / "transfer-syntax").rglob("*.dcm")):
        dataset = dcmread(path, stop_before_pixels=True)
        if dataset.file_meta.TransferSyntaxUID not in (RLELossless, ImplicitVRLittleEndian, JPEGLSLossless, DeflatedExplicitVRLittleEndian):
            continue
        if dataset.Modality != "CT" or dataset.Rows != 512:
            continue
        values = read_volume([path]).array
        reference = values if reference is None else reference
        np.testing.assert_array_equal(values, reference)
        read += 1
    assert read >= 2
