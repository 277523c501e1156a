"""Synthetic image series with a known geometry, as files in memory."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def values_of(slices: int, rows: int = 12, columns: int = 10, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 2000, (slices, rows, columns)).astype(np.int16)


def series(
    values: NDArray[Any],
    *,
    orientation: Iterable[float] = AXIAL,
    spacing: tuple[float, float] = (0.8, 0.7),
    step: float = 1.5,
    origin: tuple[float, float, float] = (-30.0, -40.0, 50.0),
    **attributes: Any,
) -> list[Dataset]:
    """Single-frame MR images of ``values`` (slices, rows, columns), stacked along the normal."""
    cosines = np.asarray(list(orientation), dtype=float)
    normal = np.cross(cosines[:3], cosines[3:])
    study, group, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    images = []
    for index, plane in enumerate(values):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, group, frame_of_reference
        image.Modality, image.PatientName, image.PatientID = "MR", "Doe^Jane", "P1"
        image.PatientBirthDate = image.PatientSex = image.AccessionNumber = image.ReferringPhysicianName = image.StudyID = ""
        image.StudyDate, image.StudyTime, image.SeriesNumber, image.InstanceNumber = "20250102", "101112", 1, index + 1
        image.ImagePositionPatient = [format_number_as_ds(float(part)) for part in np.asarray(origin) + index * step * normal]
        image.ImageOrientationPatient = [format_number_as_ds(float(part)) for part in cosines]
        image.PixelSpacing, image.SliceThickness = [str(part) for part in spacing], format_number_as_ds(float(abs(step)))
        image.Rows, image.Columns = plane.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.PixelData = plane.astype("<i2").tobytes()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
        images.append(image)
    return images


def as_file(image: Dataset, syntax: UID | None = None) -> BytesIO:
    """The image as a Part 10 file in memory."""
    if syntax is not None:
        image.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    image.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


def as_files(images: Iterable[Dataset], syntax: UID | None = None) -> list[BytesIO]:
    return [as_file(image, syntax) for image in images]
