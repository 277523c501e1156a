"""The start of a file says what it is; what people keep without a preamble or file meta is understood too."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from storage.part10 import NotDicom, read_part10_header

CT = "1.2.840.10008.5.1.4.1.1.2"


def explicit(group: int, element: int, vr: bytes, value: str) -> bytes:
    data = value.encode() + b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, vr, len(data)) + data


def implicit(group: int, element: int, value: str) -> bytes:
    data = value.encode() + b"\0" * (len(value) % 2)
    return struct.pack("<HHI", group, element, len(data)) + data


META = explicit(2, 2, b"UI", CT) + explicit(2, 3, b"UI", "1.2.3") + explicit(2, 0x10, b"UI", "1.2.840.10008.1.2.4.70")
BODY = explicit(8, 0x16, b"UI", CT) + explicit(8, 0x18, b"UI", "1.2.3") + explicit(8, 0x60, b"CS", "CT")
IMPLICIT_BODY = implicit(8, 0x16, CT) + implicit(8, 0x18, "1.2.3") + implicit(8, 0x60, "CT")
PREAMBLE = bytes(128) + b"DICM"


@pytest.mark.parametrize(
    ("data", "syntax"),
    [
        (PREAMBLE + META + BODY, "1.2.840.10008.1.2.4.70"),
        (b"MZ".ljust(128, b"\xcc") + b"DICM" + META + BODY, "1.2.840.10008.1.2.4.70"),
        (PREAMBLE + explicit(2, 0, b"UL", "ABCD") + META + BODY, "1.2.840.10008.1.2.4.70"),
        (META + BODY, "1.2.840.10008.1.2.4.70"),
        (PREAMBLE + BODY, ExplicitVRLittleEndian),
        (BODY, ExplicitVRLittleEndian),
        (IMPLICIT_BODY, ImplicitVRLittleEndian),
    ],
)
def test_finds_uids_syntax_and_data_set(data: bytes, syntax: str) -> None:
    file = io.BytesIO(data)
    header = read_part10_header(file)
    assert (header.sop_class_uid, header.sop_instance_uid, header.transfer_syntax_uid) == (CT, "1.2.3", syntax)
    assert file.read() in (BODY, IMPLICIT_BODY)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x7fELF" + bytes(400),
        b"# a text that is long enough to be looked at, and no DICOM file at all\n" * 9,
        PREAMBLE,
        PREAMBLE + struct.pack("<HH2sHI", 2, 1, b"OB", 0, 0xFFFFFFF0) + b"x",
        PREAMBLE + explicit(8, 0x60, b"CS", "CT"),
    ],
)
def test_the_rest_is_no_dicom(data: bytes) -> None:
    with pytest.raises(NotDicom):
        read_part10_header(io.BytesIO(data))


@pytest.mark.real_data
def test_real_and_malformed_files_are_either_understood_or_refused(real_data: Path) -> None:
    files = [path for folder in ("malformed", "charsets", "fuzz") for path in sorted((real_data / folder).rglob("*")) if path.is_file()]
    understood = 0
    for path in files:
        with path.open("rb") as file:
            try:
                assert read_part10_header(file).sop_instance_uid
                understood += 1
            except NotDicom:
                continue
    assert understood > len(files) // 2
