"""Synthetic instances for the load: encoded once, given new UIDs in place.

An instance has 98 elements in Explicit VR Little Endian, like a CT slice from a scanner. Only four values differ between two instances of
a kind: the three UIDs and the instance number. So what was sent can be rebuilt byte for byte from its UIDs, and nothing has to be kept.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
UID_LENGTH = 44  # "2.25." and 39 digits: even, so that no padding moves what follows

KINDS = {"ct": (512, 512), "small": (64, 64)}


def new_uid(source: random.Random) -> str:
    """Return a UID of exactly `UID_LENGTH` characters."""
    return f"2.25.{source.randrange(10**38, 3 * 10**38)}"


@dataclass(frozen=True)
class Identity:
    """What tells one sent instance from another of its kind."""

    kind: str
    study: str
    series: str
    sop: str
    number: int


@dataclass(frozen=True)
class Template:
    """An encoded data set and where its differing values stand."""

    kind: str
    data: bytes = field(repr=False)
    study_at: int
    series_at: int
    sop_at: int
    number_at: int

    def patch(self, buffer: bytearray, base: int, identity: Identity) -> None:
        """Write `identity` into `buffer`, where the data set's first fragment starts at `base`."""
        for at, value in (
            (self.sop_at, identity.sop),
            (self.study_at, identity.study),
            (self.series_at, identity.series),
            (self.number_at, f"{identity.number:08d}"),
        ):
            raw = value.encode()
            buffer[base + at : base + at + len(raw)] = raw

    def instance(self, identity: Identity) -> bytes:
        """Return the data set's bytes as they are sent for `identity`."""
        buffer = bytearray(self.data)
        self.patch(buffer, 0, identity)
        return bytes(buffer)


def _code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def _data_set(rows: int, columns: int) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    ds.InstanceCreationDate, ds.InstanceCreationTime = "20260401", "101500.123000"
    ds.SOPClassUID, ds.SOPInstanceUID = CT_IMAGE_STORAGE, "2.25." + "1" * 39
    for name in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, name, "20260401")
    for name in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(ds, name, "101500.123000")
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "BENCH0001", "CT", "Bench Systems"
    ds.InstitutionName, ds.InstitutionAddress = "Benchmark Hospital", "1 Example Street"
    ds.ReferringPhysicianName, ds.StationName = "REFERRER^BENCH", "BENCHCT1"
    ds.StudyDescription, ds.SeriesDescription = "Thorax^Routine (Adult)", "Thorax 1.0 I70f"
    ds.ProcedureCodeSequence = _code("CTTHOR", "99BENCH", "CT Thorax")
    ds.InstitutionalDepartmentName, ds.PhysiciansOfRecord = "Radiology", "RECORD^BENCH"
    ds.PerformingPhysicianName, ds.OperatorsName = "PERFORM^BENCH", "OPERATOR^BENCH"
    ds.ManufacturerModelName, ds.DerivationDescription = "Bench 64", "none"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CT_IMAGE_STORAGE, "2.25." + "4" * 39
    ds.ReferencedImageSequence = Sequence([reference])
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "BENCH^LOAD", "BENCH0001", "19700101"
    ds.PatientSex, ds.PatientAge, ds.PatientSize, ds.PatientWeight = "O", "056Y", "1.75", "75"
    ds.BodyPartExamined, ds.ScanOptions, ds.SliceThickness, ds.KVP = "CHEST", "HELICAL MODE", "1.0", "120"
    ds.DataCollectionDiameter, ds.DeviceSerialNumber, ds.SoftwareVersions = "500", "00001", ["bench", "1.0"]
    ds.ProtocolName, ds.ReconstructionDiameter = "ThoraxRoutine", "350"
    ds.DistanceSourceToDetector, ds.DistanceSourceToPatient = "1040", "570"
    ds.GantryDetectorTilt, ds.TableHeight, ds.RotationDirection = "0", "150", "CW"
    ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure, ds.FilterType = "500", "200", "100", "0"
    ds.GeneratorPower, ds.FocalSpots, ds.DateOfLastCalibration = "24", ["1.2"], "20260331"
    ds.TimeOfLastCalibration, ds.ConvolutionKernel, ds.PatientPosition = "070000.000000", "I70f", "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25." + "2" * 39, "2.25." + "3" * 39
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", "2", "1", "00000001"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = ["-175", "-175", "100"], ["1", "0", "0", "0", "1", "0"]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator, ds.SliceLocation = "2.25." + "5" * 39, "", "100"
    ds.ImageComments = "load"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", rows, columns
    ds.PixelSpacing, ds.BitsAllocated, ds.BitsStored, ds.HighBit = ["0.68", "0.68"], 16, 12, 11
    ds.PixelRepresentation, ds.SmallestImagePixelValue, ds.LargestImagePixelValue = 0, 0, 4095
    ds.WindowCenter, ds.WindowWidth, ds.RescaleIntercept, ds.RescaleSlope = "40", "400", "-1024", "1"
    ds.WindowCenterWidthExplanation, ds.RescaleType, ds.RequestedProcedureDescription = "WINDOW1", "HU", "CT Thorax"
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20260401", "101400.000000"
    ds.PerformedProcedureStepID, ds.PerformedProcedureStepDescription = "PPS1", "CT Thorax"
    block = ds.private_block(0x0029, "BENCH PRIVATE 1", create=True)
    block.add_new(0x01, "LO", "vendor")
    block.add_new(0x02, "OB", bytes(160))
    rng = np.random.default_rng(7)
    ds.PixelData = rng.integers(0, 4096, (rows, columns), dtype="<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def encode_explicit(ds: Dataset) -> bytes:
    """Return the data set in Explicit VR Little Endian, without file meta."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, ds)
    return out.getvalue()


@cache
def template(kind: str) -> Template:
    """Return the template of `kind`: "ct" (about 525 kB) or "small" (about 10 kB)."""
    ds = _data_set(*KINDS[kind])
    data = encode_explicit(ds)
    return Template(
        kind,
        data,
        study_at=data.index(ds.StudyInstanceUID.encode()),
        series_at=data.index(ds.SeriesInstanceUID.encode()),
        sop_at=data.index(ds.SOPInstanceUID.encode()),
        number_at=data.index(b" \x00\x13\x00IS\x08\x00") + 8,
    )


def multi_frame(size: int) -> tuple[bytes, int]:
    """Return the head of one multi-frame data set and the pixel bytes that must follow it, so that it has about `size` bytes."""
    ds = _data_set(512, 512)
    frames = size // (512 * 512 * 2)
    ds.SOPClassUID, ds.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.7.3", frames
    ds.PixelData = b""
    head = encode_explicit(ds)
    pixels = frames * 512 * 512 * 2
    return head[:-4] + pixels.to_bytes(4, "little"), pixels


def part10(data: bytes, sop_class: str, sop_instance: str, transfer_syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    """Return a Part 10 file of the data set's bytes, for senders that read files."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import write_file_meta_info

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, sop_instance
    meta.TransferSyntaxUID, meta.ImplementationClassUID = transfer_syntax, "2.25.1"
    meta.FileMetaInformationVersion = b"\x00\x01"
    out = BytesIO()
    write_file_meta_info(out, meta)
    return bytes(128) + b"DICM" + out.getvalue() + data
