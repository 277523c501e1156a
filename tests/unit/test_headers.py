"""The header scan: every split of a data set gives the same columns, and lengths that lie are noticed."""

from __future__ import annotations

import struct
import warnings
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from storage.errors import CannotUnderstand
from storage.headers import INFLATE_LIMIT, MAX_DEPTH, Header, HeaderScanner, is_uid
from storage.part10 import NotDicom, read_part10_header

EXPLICIT, IMPLICIT, BIG = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), str(ExplicitVRBigEndian)
DEFLATED = "1.2.840.10008.1.2.1.99"


def sample() -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2", "1.2.3", "1.2.4", "1.2.5"
    ds.PatientID, ds.PatientName, ds.Modality, ds.InstanceNumber = "P", "A^B", "MR", 7
    ds.Rows, ds.Columns, ds.BitsAllocated = 3, 5, 16
    inner = Dataset()
    inner.CodeValue, inner.StudyInstanceUID = "x", "9.9.9"
    outer = Dataset()
    outer.PurposeOfReferenceCodeSequence = Sequence([inner])
    outer["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    outer.is_undefined_length_sequence_item = True
    ds.ReferencedStudySequence = Sequence([outer, outer])
    ds["ReferencedStudySequence"].is_undefined_length = True
    ds.add_new(0x7FE00010, "OW", b"\1\2" * 15)
    return ds


def encoded(ds: Dataset, syntax: str) -> bytes:
    data = encode(ds, syntax == IMPLICIT, syntax != BIG)
    assert data is not None
    return bytes(data)


def scanned(data: bytes, syntax: str, cuts: list[int] | None = None) -> Header:
    scanner = HeaderScanner(syntax)
    edges = [0, *sorted(cuts or []), len(data)]
    for start, end in pairwise(edges):
        scanner.feed(memoryview(data)[start:end])
    scanner.finish()
    return Header(scanner.values, syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_columns(syntax: str) -> None:
    header = scanned(encoded(sample(), syntax), syntax)
    assert (header.study_uid, header.series_uid, header.sop_uid, header.sop_class_uid) == ("1.2.4", "1.2.5", "1.2.3", "1.2")
    assert header.instance() == ("7", "", 3, 5, 16, None)
    assert header.patient()["name"] == "A^B"
    assert header.series()["modality"] == "MR"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_split_gives_the_same(data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from([EXPLICIT, IMPLICIT, BIG]))
    whole = encoded(sample(), syntax)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=20))
    header = scanned(whole, syntax, cuts)
    assert (header.study_uid, header.series_uid, header.sop_uid) == ("1.2.4", "1.2.5", "1.2.3")
    assert header.instance() == ("7", "", 3, 5, 16, None)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_truncation_is_noticed_everywhere(syntax: str) -> None:
    whole = encoded(sample(), syntax)
    boundaries = 0
    for end in range(len(whole) - 1):
        try:
            scanned(whole[:end], syntax)
        except CannotUnderstand:
            continue
        boundaries += 1  # the end of an element of the top level after the UIDs, or zeros that may be padding
    assert boundaries <= 10


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + (struct.pack("<HI", 0, size) if vr in (b"SQ", b"OB", b"OW", b"UN") else struct.pack("<H", size)) + value


UIDS = (
    element(0x00080016, b"UI", b"1.2\0")
    + element(0x00080018, b"UI", b"1.3\0")
    + element(0x0020000D, b"UI", b"1.4\0")
    + element(0x0020000E, b"UI", b"1.5\0")
)


@pytest.mark.parametrize(
    "rest",
    [
        element(0x7FE00010, b"OW", b"abc", 0xFFFFFFF0),
        element(0x7FE00010, b"OB", b"", 0xFFFFFFFF),
        element(0x7FE00010, b"OB", struct.pack("<HHI", 0xFFFE, 0xE000, 100) + b"x", 0xFFFFFFFF),
        element(0x00400275, b"SQ", b"junkjunk", 0xFFFFFFFF),
        element(0x00400275, b"SQ", b"", 0xFFFFFFFF) * (MAX_DEPTH + 1),
        (element(0x00400275, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)) * 20_000,
        element(0x00400000, b"UL", b"", 0xFFFF),
    ],
)
def test_lengths_that_lie_are_refused(rest: bytes) -> None:
    with pytest.raises(CannotUnderstand):
        scanned(UIDS + rest, EXPLICIT)


def test_padding_after_the_last_element_is_let_pass() -> None:
    assert scanned(UIDS + bytes(100), EXPLICIT, [len(UIDS) + 50]).sop_uid == "1.3"


def test_deflated_is_read_and_a_bomb_costs_no_memory() -> None:
    import tracemalloc

    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = packer.compress(UIDS + element(0x7FE00010, b"OW", b"", 100 << 20)) + packer.compress(bytes(100 << 20)) + packer.flush()
    assert INFLATE_LIMIT > 100 << 20
    tracemalloc.start()
    header = scanned(data, DEFLATED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.series_uid == "1.5"
    assert peak < 8 << 20
    with pytest.raises(CannotUnderstand):
        scanned(data[:-10], DEFLATED)
    with pytest.raises(CannotUnderstand):
        scanned(b"\xff" * 100, DEFLATED)


@pytest.mark.parametrize(
    ("uid", "fine"), [("1.2", True), ("1.02.3", True), ("1..2", True), ("../x", False), ("..", False), ("a", False), ("1" * 65, False)]
)
def test_uids(uid: str, fine: bool) -> None:
    assert is_uid(uid) is fine


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["charsets", "malformed", "fuzz", "transfer-syntax"])
def test_real_files_are_read_or_refused(real_data: Path, folder: str) -> None:
    read = 0
    for path in sorted((real_data / folder).rglob("*")):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            try:
                found = read_part10_header(file)
            except NotDicom:
                continue
            data = file.read()
        answers = set()
        for step in (len(data) or 1, 4097, 61):
            if step == 61 and len(data) > 200_000:
                continue
            try:
                header = scanned(data, found.transfer_syntax_uid, list(range(step, len(data), step)))
                answers.add((header.study_uid, header.patient_id, header.patient()["name"], header.instance()))
                read += 1
            except CannotUnderstand as error:
                answers.add((str(error), "", "", ("", "", None, None, None, None)))
        assert len(answers) == 1, path.name
    assert read


@pytest.mark.real_data
def test_names_are_decoded_as_pydicom_does(real_data: Path) -> None:
    for path in sorted((real_data / "charsets").glob("*.dcm")):
        with path.open("rb") as file:
            found = read_part10_header(file)
            data = file.read()
        try:
            header = scanned(data, found.transfer_syntax_uid)
        except CannotUnderstand:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = str(dcmread(path, force=True).get("PatientName", ""))
        assert header.patient()["name"].rstrip("=^ ") == expected.rstrip("=^ "), path.name
