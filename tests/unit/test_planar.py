"""Single 2-D images: read without geometry, predicted, and measured as far as the size of a pixel is known."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from models import training
from models.bundle import load_bundle, validate_bundle
from models.datasets.loading import load
from models.datasets.protocol import Item
from models.errors import BundleInvalid, GeometryRefused, NotApplicable, Refusal
from models.findings import Prediction
from models.planar import PixelPlane, PixelSize, pixel_size
from models.predict import Predictor, run_model
from models.preprocess import Preprocessing
from models.reader import Axes, VolumeReader
from models.spec import parse_spec
from models.suitability import check_volume
from models.volume import read_volume
from tests.imaging import as_file, as_files, series, values_of
from tests.planar_bundle import planar_bundle, radiograph, shadows

EQUAL = {"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.2, 0.1]}
SIZES: list[tuple[dict[str, Any], PixelSize | None]] = [
    ({}, None),
    ({"PixelSpacing": [0.2, 0.1]}, PixelSize(0.2, 0.1, PixelPlane.UNSTATED)),
    ({"ImagerPixelSpacing": [0.2, 0.1]}, PixelSize(0.2, 0.1, PixelPlane.DETECTOR)),
    ({"NominalScannedPixelSpacing": [0.2, 0.1]}, PixelSize(0.2, 0.1, PixelPlane.DETECTOR)),
    (EQUAL, PixelSize(0.2, 0.1, PixelPlane.DETECTOR)),
    ({**EQUAL, "PixelSpacing": [0.18, 0.09]}, PixelSize(0.18, 0.09, PixelPlane.PATIENT)),
    ({**EQUAL, "PixelSpacingCalibrationType": "FIDUCIAL"}, PixelSize(0.2, 0.1, PixelPlane.PATIENT)),
    ({"PixelSpacing": [0.0, 0.1]}, None),
    ({"PixelSpacing": None}, None),
]


@pytest.mark.parametrize(("attributes", "size"), SIZES)
def test_the_size_of_a_pixel_goes_with_the_plane_it_holds_in(attributes: dict[str, Any], size: PixelSize | None) -> None:
    assert pixel_size(radiograph(**attributes)) == size


def test_an_image_with_a_place_in_the_patient_has_its_size_there() -> None:
    (image,) = series(values_of(1))
    assert pixel_size(image) == PixelSize(0.8, 0.7, PixelPlane.PATIENT)


def test_a_radiograph_is_one_slice_without_a_place() -> None:
    volume = read_volume([as_file(radiograph(PixelSpacing=[0.2, 0.1]))], dimensions=2)
    assert volume.planar
    np.testing.assert_array_equal(volume.array, shadows()[None])
    np.testing.assert_array_equal(volume.affine, np.diag([0.1, 0.2, 1, 1]))
    assert volume.headers[0].get("PixelData") is None


def test_a_model_of_volumes_refuses_it_as_before() -> None:
    with pytest.raises(GeometryRefused, match="incomplete") as refused:
        read_volume([as_file(radiograph())])
    assert refused.value.code == Refusal.NO_GEOMETRY


@pytest.mark.parametrize(
    ("views", "code"),
    [
        (("PA", "LL"), None),
        (("", "LL"), None),
        (("PA", ""), None),
        (("PA", "PA"), Refusal.SEVERAL_IMAGES),
        (("LL", "RL"), Refusal.WRONG_VIEW),
        (("LL",), Refusal.WRONG_VIEW),
        (("",), None),
    ],
)
def test_of_several_views_the_one_that_the_model_takes(views: tuple[str, ...], code: Refusal | None) -> None:
    images = [radiograph(ViewPosition=view) for view in views]
    if code is None:
        taken = read_volume(as_files(images), dimensions=2, views=("PA", "AP"))
        expected = next((i for i in images if i.ViewPosition == "PA"), None) or next(i for i in images if not i.ViewPosition)
        assert taken.sources == (expected.SOPInstanceUID,)
        return
    with pytest.raises(GeometryRefused) as refused:
        read_volume(as_files(images), dimensions=2, views=("PA", "AP"))
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"NumberOfFrames": 2}, Refusal.UNSUPPORTED_MULTIFRAME),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, Refusal.NOT_MONOCHROME),
        ({"Rows": 0}, Refusal.NOT_AN_IMAGE),
        ({"Rows": 4000}, Refusal.PIXEL_DATA_BROKEN),
    ],
)
def test_what_is_no_single_monochrome_image_is_refused(attributes: dict[str, Any], code: Refusal) -> None:
    with pytest.raises(GeometryRefused) as refused:
        read_volume([as_file(radiograph(**attributes))], dimensions=2)
    assert refused.value.code == code


@pytest.mark.parametrize("axes", ["xyz", "zyx"])
def test_masks_return_to_the_pixels_they_came_from(axes: str, tmp_path: Path) -> None:
    bundle = load_bundle(planar_bundle(tmp_path, axes=axes))
    assert validate_bundle(bundle) == []
    found = run_model(bundle, [as_file(radiograph(PixelSpacing=[0.2, 0.1]))])
    dim, bright = (segment.mask for segment in found.segments)
    np.testing.assert_array_equal(dim[0], shadows() == 500)
    np.testing.assert_array_equal(bright[0], shadows() == 1000)


def areas(found: Prediction) -> list[tuple[float, str, str | None]]:
    return [(round(m.value, 6), m.unit.value, m.method.value if m.method else None) for m in found.measurements]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({**EQUAL, "PixelSpacingCalibrationType": "GEOMETRY"}, [(0.0512, "cm2", None), (0.1536, "cm2", None)]),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, [(0.0512, "cm2", "113941"), (0.1536, "cm2", "113941")]),
        ({"PixelSpacing": [0.2, 0.1]}, [(0.0512, "cm2", "calibration-not-stated"), (0.1536, "cm2", "calibration-not-stated")]),
        ({}, [(256.0, "{pixels}", None), (768.0, "{pixels}", None)]),
    ],
)
def test_an_area_says_where_it_holds(attributes: dict[str, Any], expected: list[tuple[float, str, str | None]], tmp_path: Path) -> None:
    assert areas(run_model(load_bundle(planar_bundle(tmp_path)), [as_file(radiograph(**attributes))])) == expected


def test_no_area_of_what_was_not_found(tmp_path: Path) -> None:
    found = run_model(load_bundle(planar_bundle(tmp_path)), [as_file(radiograph(np.minimum(shadows(), 600)))])
    assert [segment.empty for segment in found.segments] == [True, False]
    assert [m.segment for m in found.measurements] == [2]


def test_pixels_too_coarse_for_the_model(tmp_path: Path) -> None:
    bundle = load_bundle(planar_bundle(tmp_path))
    limits = bundle.dicom.geometry.model_copy(update={"max_spacing": 0.5})
    with pytest.raises(NotApplicable, match=r"0\.70 mm"):
        check_volume(limits, read_volume([as_file(radiograph(PixelSpacing=[0.7, 0.2]))], dimensions=2))
    check_volume(limits, read_volume([as_file(radiograph())], dimensions=2))
    with pytest.raises(GeometryRefused, match="takes 2-D images"):
        Predictor(bundle).predict(read_volume(as_files(series(values_of(3)))))


def test_transforms_see_how_the_values_are_meant() -> None:
    volume = read_volume([as_file(radiograph(PhotometricInterpretation="MONOCHROME1"))], dimensions=2)
    array, meta = VolumeReader(Axes()).get_data(volume)
    assert array.shape == meta["spatial_shape"] == (64, 128)
    assert (meta["photometric_interpretation"], meta["modality"]) == ("MONOCHROME1", "CR")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('quantity = "area"', "dimensions = 3"),
        ('quantity = "volume"\nunit = { value = "mm", scheme = "UCUM", meaning = "millimeter" }', "the unit of a volume"),
        ('quantity = "length"', "quantity"),
    ],
)
def test_quantities_and_units_that_do_not_fit_are_refused(wrong: str, said: str, tmp_path: Path) -> None:
    text = (planar_bundle(tmp_path) / "dicom.toml").read_text().replace("dimensions = 2", "").replace('quantity = "area"', wrong, 1)
    with pytest.raises(BundleInvalid, match=said):
        parse_spec(text)


@pytest.mark.real_data
def test_the_real_chest_film(real_data: Path) -> None:
    path = real_data / "singles" / "nih-rsna_CR_chest_1024_jpeg.dcm"
    volume = read_volume([path], dimensions=2, views=("PA", "AP"))
    header: Dataset = dcmread(path)
    assert volume.pixel == PixelSize(0.168, 0.168, PixelPlane.UNSTATED)
    np.testing.assert_array_equal(volume.array[0], header.pixel_array)


@pytest.mark.real_data
def test_training_and_serving_see_the_same_film(real_data: Path) -> None:
    """The network gets the same numbers from a data set's loading and from the node's reading of the stored image."""
    path = real_data / "singles" / "nih-rsna_CR_chest_1024_jpeg.dcm"
    bundle = load_bundle("cxr_lungs")
    predictor = Predictor(bundle)
    predictor.load()
    assert predictor._stages is not None
    served = predictor._stages.preprocess(read_volume([path], dimensions=2))["image"]
    loaded = load(Item(id="film", subject="somebody", image=(path,))).image
    trained = Preprocessing.from_bundle(bundle).image()({"image": loaded})["image"]
    assert served.shape == trained.shape == (1, 256, 256)
    np.testing.assert_array_equal(np.asarray(served), np.asarray(trained))
    np.testing.assert_allclose(served.affine, trained.affine)


def test_the_shipped_film_model_serves_with_the_steps_of_its_training() -> None:
    configured = tomllib.loads((Path(training.__file__).parent / "configs" / "cxr_lungs.toml").read_text())["preprocessing"]
    assert Preprocessing.from_bundle(load_bundle("cxr_lungs")).digest == Preprocessing.from_config(configured).digest
