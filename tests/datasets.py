"""Small data sets, encoded without any library, for tests that store thousands of them."""

from __future__ import annotations

import struct

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")


def element(group: int, number: int, vr: str, value: str | bytes) -> bytes:
    """One element in explicit VR little endian."""
    data = value.encode() if isinstance(value, str) else value
    if len(data) % 2:
        data += b"\0" if vr in ("UI", "OB", "UN") else b" "
    tag, name = struct.pack("<HH", group, number), vr.encode()
    if name in LONG:
        return tag + name + b"\0\0" + struct.pack("<I", len(data)) + data
    return tag + name + struct.pack("<H", len(data)) + data


def dataset(
    study_uid: str,
    series_uid: str,
    sop_uid: str,
    *,
    pixels: bytes = b"\1\2" * 50,
    patient_id: str = "P1",
    sop_class: str = CT,
    modality: str = "CT",
    number: int = 1,
    description: str = "",
) -> bytes:
    """A CT slice, or what is needed of one, in explicit VR little endian."""
    return b"".join(
        [
            element(8, 0x05, "CS", "ISO_IR 100"),
            element(8, 0x16, "UI", sop_class),
            element(8, 0x18, "UI", sop_uid),
            element(8, 0x20, "DA", "20250102"),
            element(8, 0x30, "TM", "101112"),
            element(8, 0x50, "SH", "ACC"),
            element(8, 0x60, "CS", modality),
            element(8, 0x1030, "LO", description or "Head"),
            element(0x10, 0x10, "PN", "Doe^Jane"),
            element(0x10, 0x20, "LO", patient_id),
            element(0x20, 0x0D, "UI", study_uid),
            element(0x20, 0x0E, "UI", series_uid),
            element(0x20, 0x13, "IS", str(number)),
            element(0x28, 0x10, "US", struct.pack("<H", 10)),
            element(0x28, 0x11, "US", struct.pack("<H", 5)),
            element(0x28, 0x100, "US", struct.pack("<H", 16)),
            element(0x7FE0, 0x10, "OW", pixels),
        ]
    )


def part10(data: bytes, sop_class: str, sop_uid: str, syntax: str = EXPLICIT, preamble: bytes = bytes(128)) -> bytes:
    """A Part 10 file around an encoded data set."""
    meta = b"".join(
        [
            element(2, 1, "OB", b"\0\1"),
            element(2, 2, "UI", sop_class),
            element(2, 3, "UI", sop_uid),
            element(2, 0x10, "UI", syntax),
            element(2, 0x12, "UI", "1.2.3.4.5"),
        ]
    )
    return preamble + b"DICM" + element(2, 0, "UL", struct.pack("<I", len(meta))) + meta + data
