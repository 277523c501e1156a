"""Small data sets on disk: pictures, volumes and DICOM files that are made in a moment."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Image
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid


def noise(seed: int, shape: tuple[int, ...] = (40, 48)) -> np.ndarray:
    """Soft blobs, 8 bit, (rows, columns) or (x, y, z): another seed is another image."""
    chance = np.random.default_rng(seed)
    coarse = chance.random(tuple(max(2, each // 8) for each in shape))
    for axis, size in enumerate(shape):
        coarse = np.repeat(coarse, -(-size // coarse.shape[axis]), axis=axis).take(range(size), axis=axis)
    return (40 + 160 * coarse + 20 * chance.random(shape)).astype(np.uint8)


def picture(path: Path, values: np.ndarray) -> Path:
    """A PNG or JPEG, (rows, columns[, 3])."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def volume(path: Path, values: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 2.0)) -> Path:
    """A NIfTI file, (x, y, z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(Nifti1Image(values, np.diag([*spacing, 1.0])), path)
    return path


def radiograph(path: Path, values: np.ndarray, *, patient: str = "ID-4711", **elements: object) -> Path:
    """A CR image, (rows, columns)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Dataset()
    image.SOPClassUID = ComputedRadiographyImageStorage
    image.SOPInstanceUID, image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid(), generate_uid()
    image.PatientID, image.PatientName, image.Modality = patient, "Doe^Jane", "CR"
    image.PatientSex, image.PatientAge, image.ViewPosition = "F", "061Y", "PA"
    image.Rows, image.Columns = values.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelData = values.astype(np.uint8).tobytes()
    for name, value in elements.items():
        setattr(image, name, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.save_as(path, enforce_file_format=True)
    return path


def lungs(root: Path, count: int, *, per_subject: int = 1) -> Path:
    """A folder of pairs: images/ and labels/ with discs of growing size; the names bear subject and state."""
    rows, columns = np.mgrid[:40, :48]
    for number in range(count):
        disc = ((rows - 20) ** 2 + (columns - 24) ** 2 < (4 + number % 12) ** 2).astype(np.uint8)
        name = f"film_{number // per_subject:03d}_{number % per_subject}_{number % 2}.png"
        picture(root / "images" / name, noise(number))
        picture(root / "labels" / name, disc * 255)
    return root
