"""Sources, predictions and contexts for tests of result objects."""

from __future__ import annotations

import dataclasses
import os
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset, config, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicom_node.results.context import EncodedObject, ResultContext
from dicom_node.results.files import part10
from dicom_node.results.uids import derived_uid, device_uid
from models.findings import Classification, Code, Measurement, ModelIdentity, Prediction, Segment, Timings

STUDY = "1.2.826.0.1.3680043.8.498.1"
SERIES = "1.2.826.0.1.3680043.8.498.1.1"
STARTED = 1_763_848_800.25  # 2025-11-22 22:00:00.25 UTC

STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
BRAIN = Code("12738006", "SCT", "Brain")
VOLUME = Code("118565006", "SCT", "Volume")
MILLILITRE = Code("ml", "UCUM", "milliliter")
MODEL = ModelIdentity(
    name="brain_extraction",
    version="1.0.2",
    manufacturer="Example maker",
    digest="0123456789abcdef" * 4,
    family=Code("123110", "DCM", "Artificial Intelligence"),
    intended_use="research",
    licence="MIT",
    parameters={"network": "unet"},
)


def headers(count: int = 8, rows: int = 24, columns: int = 20, **more: Any) -> list[Dataset]:
    """A small axial MR series, headers only, read back from bytes as a reader would hand them over."""
    made = []
    for index in range(count):
        header = Dataset()
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        header.SOPInstanceUID = f"{SERIES}.{index + 1}"
        header.StudyInstanceUID, header.SeriesInstanceUID = STUDY, SERIES
        header.FrameOfReferenceUID = f"{STUDY}.9"
        header.Modality, header.SeriesNumber, header.InstanceNumber = "MR", 3, index + 1
        header.PatientName, header.PatientID, header.PatientSex, header.PatientBirthDate = "Doe^Jane", "P1", "F", "19700101"
        header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20251122", "101500", "S1", "A1"
        header.ReferringPhysicianName, header.StudyDescription, header.PatientAge = "Ref^Erring", "Head", "055Y"
        header.Manufacturer, header.ManufacturerModelName, header.InstitutionName = "Scanner maker", "Magnet", "Hospital"
        header.Rows, header.Columns = rows, columns
        header.PixelSpacing, header.SliceThickness = [1.25, 1.25], 2
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.ImagePositionPatient = [-10, -20, 5 + 2 * index]
        for keyword, value in more.items():
            tag = tag_for_keyword(keyword) or 0
            header[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE)
        made.append(as_read(header))
    return made


def enhanced(count: int = 6, rows: int = 24, columns: int = 20) -> Dataset:
    """The same kind of series as one Enhanced MR object, its frames stored from the top down."""
    planes = headers(count, rows, columns)
    header = Dataset()
    for element in planes[0]:
        if element.keyword not in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            header.add(element)
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.1", f"{SERIES}.100"
    header.NumberOfFrames = count
    header.SharedFunctionalGroupsSequence = [Dataset()]
    frames = []
    for plane in reversed(planes):
        frame, position, orientation, measures = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = plane.ImagePositionPatient
        orientation.ImageOrientationPatient = plane.ImageOrientationPatient
        measures.PixelSpacing, measures.SliceThickness = plane.PixelSpacing, plane.SliceThickness
        frame.PlanePositionSequence = [position]
        frame.PlaneOrientationSequence = [orientation]
        frame.PixelMeasuresSequence = [measures]
        frames.append(frame)
    header.PerFrameFunctionalGroupsSequence = frames
    return as_read(header)


def as_read(header: Dataset) -> Dataset:
    """Through bytes and back, so that elements are raw as in a header that was just read."""
    buffer = BytesIO()
    header.save_as(buffer, implicit_vr=False, little_endian=True)
    buffer.seek(0)
    return dcmread(buffer, force=True)


def ellipsoid(frames: int, rows: int, columns: int, scale: float = 0.35) -> NDArray[np.bool_]:
    z, y, x = np.ogrid[:frames, :rows, :columns]
    depth, height, width = (z - frames / 2) / frames, (y - rows / 2) / rows, (x - columns / 2) / columns
    radius = (depth**2 + height**2 + width**2) / scale**2
    inside: NDArray[np.bool_] = radius < 1
    return inside


def segment(mask: NDArray[np.bool_], number: int = 1, name: str = "brain", probability: NDArray[np.float32] | None = None) -> Segment:
    return Segment(number, name.capitalize(), STRUCTURE, BRAIN, mask, (230, 120, 90), name, probability)


def volume(value: float = 1234.5, of: int | None = 1) -> Measurement:
    return Measurement(VOLUME, value, MILLILITRE, of)


def classification(positive: bool = True) -> Classification:
    value = Code("10828004", "SCT", "Positive") if positive else Code("260385009", "SCT", "Negative")
    return Classification(Code("89138009", "SCT", "Cardiomegaly"), "cardiomegaly", value, 0.875 if positive else 0.125, 0.5, positive)


def prediction(
    sources: Sequence[Dataset],
    segments: Sequence[Segment] | None = None,
    measurements: Sequence[Measurement] | None = None,
    classifications: Sequence[Classification] = (),
    frame_numbers: tuple[int, ...] | None = None,
    model: ModelIdentity = MODEL,
) -> Prediction:
    """A brain with its volume, on the grid of the sources, unless told otherwise."""
    first = sources[0]
    count = len(frame_numbers) if frame_numbers else len(sources)
    if segments is None:
        segments = [segment(ellipsoid(count, int(first.Rows), int(first.Columns)))]
    return Prediction(
        model=model,
        segments=tuple(segments),
        measurements=(volume(),) if measurements is None else tuple(measurements),
        classifications=tuple(classifications),
        sources=tuple(str(header.SOPInstanceUID) for header in sources),
        frame_numbers=frame_numbers or (1,) * len(sources),
        device="cpu",
        timings=Timings(),
    )


def context(sources: Sequence[Dataset] = (), **more: Any) -> ResultContext:
    base = ResultContext(
        run_key="run-key-1",
        study_uid=str(sources[0].StudyInstanceUID) if sources else STUDY,
        bundle="brain_extraction",
        device_uid=device_uid("archive-1", MODEL.digest),
        software_version="0.1.0",
        started_at=STARTED,
        station="DICOMNODE",
    )
    return dataclasses.replace(base, **more)


def read(encoded: EncodedObject) -> Dataset:
    return dcmread(BytesIO(part10(encoded)))


def of_kind(objects: Sequence[EncodedObject], kind: str) -> EncodedObject:
    found = [item for item in objects if item.kind == kind]
    assert len(found) == 1
    return found[0]


def write(objects: Sequence[EncodedObject], folder: Path) -> list[Path]:
    paths = []
    for index, item in enumerate(objects):
        paths.append(folder / f"{item.kind}{index}.dcm")
        paths[-1].write_bytes(part10(item))
    return paths


def unpacked(archive: Path, folder: Path) -> Path:
    """A tar of real images, unpacked once per folder."""
    target = folder / archive.name.split(".")[0]
    if not target.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
    return target


def series_in(folder: Path) -> list[tuple[Path, Dataset]]:
    """Images below a folder with their headers, in volume order."""
    found: list[tuple[Path, Dataset]] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            if os.path.getsize(path) < 132 or file.read(132)[128:] != b"DICM":
                continue
            file.seek(0)
            header = dcmread(file, stop_before_pixels=True)
        if "ImagePositionPatient" in header:
            found.append((path, header))
    orientation = np.array([float(v) for v in found[0][1].ImageOrientationPatient])
    normal = np.cross(orientation[:3], orientation[3:])
    found.sort(key=lambda pair: float(normal @ np.array([float(v) for v in pair[1].ImagePositionPatient])))
    return found


def fresh_uid(text: str) -> str:
    return derived_uid("test", text)
