"""Where a file's data set starts and what it says it is (PS3.10): enough to store it without parsing it.

Files that people have: with preamble, without one, with a missing group length, without file meta. What is no DICOM file at all is told
apart by `NotDicom`, so that an import can count it and go on.
"""

from __future__ import annotations

import os
import struct
import warnings
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from storage.header_json import UNREADABLE

LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
META_LIMIT = 64 * 1024
FIRST_GROUPS = (0x0002, 0x0004, 0x0008)


class NotDicom(Exception):
    """The file is not DICOM, or says too little about itself to be stored; the text says which."""


@dataclass(frozen=True)
class Part10Header:
    """What an archive needs to take the file: SOP Class and Instance UID, transfer syntax, offset of the data set's first byte."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset_offset: int


def read_part10_header(file: BinaryIO) -> Part10Header:
    """Read the file meta group, or guess what it would say; leaves `file` at the first byte of the data set.

    Raises
    ------
    NotDicom
        No DICOM file, or its SOP Class, SOP Instance or transfer syntax cannot be known.
    """
    start = _meta_start(file)
    meta, offset = _read_meta(file, start)
    syntax = meta.get(0x0010) or _guess_syntax(file, offset)
    class_uid, instance_uid = meta.get(0x0002, ""), meta.get(0x0003, "")
    if not class_uid or not instance_uid:
        found = _uids_of_dataset(file, offset, syntax)
        class_uid, instance_uid = class_uid or found[0], instance_uid or found[1]
    if not class_uid or not instance_uid:
        raise NotDicom("names no SOP Class or no SOP Instance")
    file.seek(offset)
    return Part10Header(class_uid, instance_uid, syntax, offset)


def _meta_start(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(132)
    if head[128:132] == b"DICM":
        return 132
    if len(head) < 16:
        raise NotDicom("no DICOM file")
    group, element = struct.unpack_from("<HH", head)
    if group not in FIRST_GROUPS or element > 0x0100:
        raise NotDicom("no DICOM file")
    return 0


def _read_meta(file: BinaryIO, start: int) -> tuple[dict[int, str], int]:
    """The text values of group 0002 by element number, and the offset after it (explicit VR little endian; group length not trusted)."""
    values: dict[int, str] = {}
    file.seek(start)
    data = file.read(META_LIMIT)
    position = 0
    while position + 8 <= len(data):
        group, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        if group != 0x0002:
            break
        position += 8
        if vr in LONG_VRS:
            (length,) = struct.unpack_from("<I", data.ljust(position + 4, b"\0"), position)
            position += 4
        if position + length > len(data):
            raise NotDicom("file meta runs past the end of the file")
        values[element] = data[position : position + length].decode("ascii", "replace").strip("\0 ")
        position += length
    return values, start + position


def _guess_syntax(file: BinaryIO, offset: int) -> str:
    file.seek(offset)
    head = file.read(8)
    if len(head) < 8:
        raise NotDicom("holds no data set")
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    big_endian = explicit and head[:2] == b"\0\x08"
    if not explicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian)


def _uids_of_dataset(file: BinaryIO, offset: int, syntax: str) -> tuple[str, str]:
    file.seek(offset, os.SEEK_SET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings show values
        try:
            dataset = read_dataset(file, syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian, stop_when=_after_sop_instance)
            return str(dataset.get("SOPClassUID", "") or ""), str(dataset.get("SOPInstanceUID", "") or "")
        except UNREADABLE:
            return "", ""


def _after_sop_instance(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) > 0x00080018
