"""Images that form no volume are refused with a stable code and a sentence that names no patient."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, RLELossless, UltrasoundMultiFrameImageStorage, generate_uid

from models.errors import GeometryRefused, NotApplicable, Refusal
from models.spec import GeometrySpec
from models.suitability import check_volume
from models.volume import read_volume
from tests.imaging import as_file, as_files, series, values_of

Change = Callable[[list[Dataset]], list[Dataset] | None]


def each(**attributes: object) -> Change:
    def change(images: list[Dataset]) -> None:
        for image in images:
            for keyword, value in attributes.items():
                setattr(image, keyword, value)

    return change


def one(**attributes: object) -> Change:
    def change(images: list[Dataset]) -> None:
        for keyword, value in attributes.items():
            setattr(images[3], keyword, value)

    return change


def without(*indices: int) -> Change:
    return lambda images: [image for index, image in enumerate(images) if index not in indices]


def twice(images: list[Dataset]) -> list[Dataset]:
    again = series(values_of(8))
    for copy, image in zip(again, images, strict=True):
        copy.SeriesInstanceUID, copy.FrameOfReferenceUID = image.SeriesInstanceUID, image.FrameOfReferenceUID
    return images + again


def shift(axis: int, by: Callable[[int], float]) -> Change:
    def change(images: list[Dataset]) -> None:
        for index, image in enumerate(images):
            image.ImagePositionPatient[axis] = f"{image.ImagePositionPatient[axis] + by(index):.4f}"

    return change


def drop(keyword: str) -> Change:
    def change(images: list[Dataset]) -> None:
        delattr(images[2], keyword)

    return change


def localizer(images: list[Dataset]) -> None:
    for image in images[:3]:
        image.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


CASES: list[tuple[str, Change, Refusal, str]] = [
    ("missing slice", without(4), Refusal.MISSING_SLICES, "1 slice is missing: the first gap is after slice 4 of 7"),
    ("missing slices", without(2, 3, 5), Refusal.MISSING_SLICES, "3 slices are missing"),
    ("two echoes", twice, Refusal.DUPLICATE_SLICES, "8 of 16 images repeat"),
    ("localizer", localizer, Refusal.MIXED_ORIENTATION, "2 different orientations"),
    ("uneven", shift(2, lambda i: 0.6 if i == 4 else 0.0), Refusal.UNEVEN_SPACING, "unevenly spaced"),
    ("tilt", shift(1, lambda i: 0.4 * i), Refusal.GANTRY_TILT, "tilt of 14.9 degrees"),
    ("sideways", shift(0, lambda i: 3.0 if i == 4 else 0.0), Refusal.UNEVEN_SPACING, "beside the axis"),
    ("few", without(*range(1, 8)), Refusal.TOO_FEW_SLICES, "1 slices; the model needs at least 5"),
    ("frames of reference", one(FrameOfReferenceUID=generate_uid()), Refusal.MIXED_FRAME_OF_REFERENCE, "2 different frames"),
    ("series", one(SeriesInstanceUID=generate_uid()), Refusal.MIXED_SERIES, "different series"),
    ("classes", one(SOPClassUID=CTImageStorage), Refusal.MIXED_OBJECTS, "different kinds"),
    ("size", one(Rows=10, Columns=12), Refusal.MIXED_SIZE, "same number of rows"),
    ("spacing", one(PixelSpacing=[1, 1]), Refusal.MIXED_SPACING, "same Pixel Spacing"),
    ("colour", one(PhotometricInterpretation="RGB", SamplesPerPixel=3), Refusal.NOT_MONOCHROME, "not monochrome (RGB"),
    ("palette", one(PhotometricInterpretation="PALETTE COLOR"), Refusal.NOT_MONOCHROME, "PALETTE"),
    ("no position", drop("ImagePositionPatient"), Refusal.NO_GEOMETRY, "incomplete"),
    ("no spacing", drop("PixelSpacing"), Refusal.NO_GEOMETRY, "incomplete"),
    ("zero spacing", each(PixelSpacing=[0, 0]), Refusal.NO_GEOMETRY, "Pixel Spacing"),
    ("oblique axes", each(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), Refusal.NO_GEOMETRY, "perpendicular"),
    ("no pixels", drop("PixelData"), Refusal.NOT_AN_IMAGE, "no pixels"),
    ("short pixels", one(PixelData=b"\0\0"), Refusal.PIXEL_DATA_BROKEN, "image 4"),
    ("odd bits", one(BitsAllocated=12), Refusal.PIXEL_DATA_BROKEN, "12 bits"),
    ("cine", each(SOPClassUID=UltrasoundMultiFrameImageStorage, NumberOfFrames=2), Refusal.UNSUPPORTED_MULTIFRAME, "multi-frame"),
    ("too large", each(Rows=65535, Columns=65535), Refusal.TOO_LARGE, "more memory"),
]


@pytest.mark.parametrize(("change", "code", "sentence"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_refused_with_code_and_sentence(change: Change, code: Refusal, sentence: str) -> None:
    images = series(values_of(8))
    images = change(images) or images
    with pytest.raises(GeometryRefused) as refused:
        read_volume(as_files(images), min_slices=5)
    assert refused.value.code is code
    assert sentence in refused.value.sentence
    assert "Doe" not in str(refused.value)


def test_nothing_to_read() -> None:
    with pytest.raises(GeometryRefused) as refused:
        read_volume([])
    assert refused.value.code is Refusal.NO_IMAGES


@pytest.mark.parametrize("content", [b"", b"not DICOM at all" * 20, bytes(128) + b"DICM\x02\0\0\0UL\x04\0zzzz"])
def test_no_dicom(content: bytes) -> None:
    with pytest.raises(GeometryRefused) as refused:
        read_volume([BytesIO(content)])
    assert refused.value.code in (Refusal.UNREADABLE, Refusal.NOT_AN_IMAGE)


def test_a_missing_file_is_a_refusal() -> None:
    def absent() -> BytesIO:
        raise FileNotFoundError("segment is gone")

    with pytest.raises(GeometryRefused) as refused:
        read_volume([absent])
    assert refused.value.code is Refusal.UNREADABLE


def test_lying_size_is_refused_before_it_is_decoded() -> None:
    images = series(values_of(2))
    for image in images:
        image.compress(RLELossless, generate_instance_uid=False)
        image.Rows = image.Columns = 65535
    with pytest.raises(GeometryRefused) as refused:
        read_volume(as_files(images))
    assert refused.value.code is Refusal.TOO_LARGE


def test_a_deflated_bomb_is_not_inflated() -> None:
    image = series(np.zeros((1, 2000, 2000), np.int16))[0]
    file = as_file(image, DeflatedExplicitVRLittleEndian)
    assert len(file.getvalue()) < 20_000
    with pytest.raises(GeometryRefused) as refused:
        read_volume([file], max_bytes=4_000_000)
    assert refused.value.code is Refusal.TOO_LARGE


def test_a_broken_codestream_is_a_refusal() -> None:
    images = series(values_of(2), PixelRepresentation=0)
    for image in images:
        image.compress(RLELossless, generate_instance_uid=False)
    images[1].PixelData = images[1].PixelData[:40] + bytes(len(images[1].PixelData) - 40)
    with pytest.raises(GeometryRefused) as refused:
        read_volume(as_files(images))
    assert refused.value.code is Refusal.PIXEL_DATA_BROKEN


def test_enhanced_frames_that_are_not_described() -> None:
    image = series(values_of(1))[0]
    image.SOPClassUID, image.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.4.1", 3
    image.PixelData = bytes(12 * 10 * 2 * 3)
    image.PerFrameFunctionalGroupsSequence = DicomSequence([Dataset()])
    with pytest.raises(GeometryRefused) as refused:
        read_volume([as_file(image)])
    assert refused.value.code is Refusal.NO_GEOMETRY


def test_rounding_of_positions_is_no_reason() -> None:
    images = series(values_of(40), step=1.0)
    for index, image in enumerate(images):
        image.ImagePositionPatient[2] = f"{50 + index + (0.01 if index % 2 else -0.01):.2f}"
    assert read_volume(as_files(images)).array.shape[0] == 40


def test_refusals_survive_the_way_between_processes() -> None:
    refusal = pickle.loads(pickle.dumps(GeometryRefused(Refusal.GANTRY_TILT, "tilted")))
    assert (refusal.code, refusal.sentence) == (Refusal.GANTRY_TILT, "tilted")
    assert pickle.loads(pickle.dumps(NotApplicable("why", "code"))).code == "code"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (GeometrySpec(max_slices=7), "too-many-slices"),
        (GeometrySpec(planes=("coronal",)), "wrong-plane"),
        (GeometrySpec(max_spacing=1.0), "voxels-too-large"),
        (GeometrySpec(min_extent=(100, 100, 100)), "field-of-view-too-small"),
        (GeometrySpec(max_extent=(5, 5, 5)), "field-of-view-too-large"),
    ],
)
def test_a_sound_volume_that_the_model_is_not_for(limits: GeometrySpec, code: str) -> None:
    volume = read_volume(as_files(series(values_of(8))))
    with pytest.raises(NotApplicable) as refused:
        check_volume(limits, volume)
    assert refused.value.code == code
    check_volume(GeometrySpec(), volume)
