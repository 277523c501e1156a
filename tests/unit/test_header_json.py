"""Header JSON: standard form, bulk marked and not carried, and nothing that breaks form stops it."""

from __future__ import annotations

import io
import zlib

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from storage.header_json import INFLATE_LIMIT, decode_header, encode_header


def part10(dataset: Dataset) -> io.BytesIO:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.3"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


def deflated(body: bytes) -> io.BytesIO:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.3"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.ImplementationClassUID = "1.2.3"
    file = io.BytesIO(bytes(128) + b"DICM")
    file.seek(132)
    write_file_meta_info(file, meta)
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    file.write(compressor.compress(body) + compressor.flush())
    file.seek(0)
    return file


def sample() -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Müller^Jürgen"
    dataset.Rows = 2
    dataset.PixelSpacing = ["0.5", "0.25"]
    item = Dataset()
    item.CodeValue = "T-D1100"
    item.add_new(0x00091010, "OB", bytes(4000))
    dataset.ProcedureCodeSequence = Sequence([item])
    dataset.add_new(0x00090010, "LO", "SOMEONE")
    dataset.add_new(0x00091001, "OB", bytes(2000))
    dataset.PixelData = bytes(8)
    dataset["PixelData"].VR = "OW"
    return dataset


def test_is_the_same_json_as_pydicoms_without_bulk() -> None:
    header = decode_header(encode_header(part10(sample()), ExplicitVRLittleEndian))
    assert header["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jürgen"}]}
    assert header["00280030"] == {"vr": "DS", "Value": [0.5, 0.25]}
    assert header["00081032"]["Value"][0]["00080100"] == {"vr": "SH", "Value": ["T-D1100"]}


def test_bulk_is_marked_by_its_place() -> None:
    header = decode_header(encode_header(part10(sample()), ExplicitVRLittleEndian))
    assert header["00091001"] == {"vr": "OB", "BulkDataURI": "00091001"}
    assert header["7FE00010"] == {"vr": "OW", "BulkDataURI": "7FE00010"}
    assert header["00081032"]["Value"][0]["00091010"] == {"vr": "OB", "BulkDataURI": "00081032/1/00091010"}


def test_a_deflated_header_is_read() -> None:
    plain = part10(sample()).getvalue()
    body = plain[plain.index(b"\x08\x00\x05\x00CS") :]
    header = decode_header(encode_header(deflated(body), DeflatedExplicitVRLittleEndian))
    assert header["00280010"] == {"vr": "US", "Value": [2]}


def test_a_deflated_bomb_is_not_inflated() -> None:
    assert decode_header(encode_header(deflated(bytes(INFLATE_LIMIT + 1)), DeflatedExplicitVRLittleEndian)) == {}


def test_a_value_that_breaks_its_vr_keeps_its_place_and_harms_no_other() -> None:
    data = part10(sample()).getvalue().replace(b"0.5\\0.25", b"zz\\#####")
    header = decode_header(encode_header(io.BytesIO(data), ExplicitVRLittleEndian))
    assert header["00280030"] == {"vr": "UN"}
    assert header["00280010"]["Value"] == [2]


@pytest.mark.parametrize("depth", [500, 20_000])
def test_deep_nesting_does_not_crash(depth: int) -> None:
    body = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    start = part10(Dataset()).getvalue()
    assert isinstance(decode_header(encode_header(io.BytesIO(start + body), ExplicitVRLittleEndian)), dict)


@pytest.mark.parametrize("data", [b"", b"x" * 10, bytes(200)])
def test_what_is_no_dicom_gives_an_empty_header(data: bytes) -> None:
    assert isinstance(decode_header(encode_header(io.BytesIO(data), ExplicitVRLittleEndian)), dict)


def test_agrees_with_pydicom_on_the_whole_sample() -> None:
    file = part10(sample())
    ours = decode_header(encode_header(file, ExplicitVRLittleEndian))
    file.seek(0)
    theirs = dcmread(file, stop_before_pixels=True).to_json_dict(1024, lambda element: "x")
    assert {tag: value for tag, value in ours.items() if "BulkDataURI" not in str(value)} == {
        tag: value for tag, value in theirs.items() if "BulkDataURI" not in str(value)
    }
