"""The tar member format: what real tar and our own reader make of it."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from storage.members import (
    BLOCK,
    OCTAL_LIMIT,
    BrokenMember,
    MemberInfo,
    file_meta,
    layout_of,
    member_name,
    padded,
    read_member,
    safe_name,
    ustar_header,
)

INFO = MemberInfo(
    study_uid="1.2",
    series_uid="1.2." + "9" * 60,
    sop_uid="1.3." + "8" * 60,
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    digest="ab" * 32,
    received_at=1_760_000_000.25,
    calling_ae='A\\"\x01\x02\x03\x04\x05\x06',
    called_ae="NODE",
    address="fe80::1",
    association_id="a-1",
)


def built(info: MemberInfo, data: bytes) -> bytes:
    layout = layout_of(info)
    length = len(layout.meta) + len(data)
    whole = layout.headers(digest=info.digest, received_at=info.received_at, length=length) + layout.meta + data
    return whole.ljust(padded(len(whole)), b"\0")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 10_000])
def test_a_member_comes_back_as_it_was(size: int) -> None:
    whole = built(INFO, b"x" * size) + bytes(2 * BLOCK)
    member = read_member(lambda length, offset: whole[offset : offset + length], 0)
    assert member is not None
    assert member.info == INFO
    assert member.name == member_name(INFO.series_uid, INFO.sop_uid)
    assert whole[member.offset + member.meta_length : member.offset + member.length] == b"x" * size
    assert read_member(lambda length, offset: whole[offset : offset + length], member.end) is None


def test_tar_reads_members_and_revisions(tmp_path: Path) -> None:
    emitted = replace(INFO, sop_uid="1.4", origin="emitted", run_key="f" * 64)
    path = tmp_path / "s.tar"
    path.write_bytes(built(INFO, b"one") + built(replace(INFO, revision=2), b"two") + built(emitted, b"three") + bytes(2 * BLOCK))
    done = subprocess.run(["tar", "xvf", path, "-C", tmp_path], capture_output=True, text=True, check=True)
    assert not done.stderr
    names = [member_name(INFO.series_uid, INFO.sop_uid), member_name(INFO.series_uid, INFO.sop_uid, 2), f"{INFO.series_uid}/1.4.dcm"]
    assert done.stdout.splitlines() == names
    assert [(tmp_path / name).read_bytes()[-3:] for name in names] == [b"one", b"two", b"ree"]


def test_sizes_beyond_octal(tmp_path: Path) -> None:
    layout = layout_of(INFO)
    length = OCTAL_LIMIT + 5
    path = tmp_path / "big.tar"
    with path.open("wb") as file:
        headers = layout.headers(digest=INFO.digest, received_at=1.0, length=length)
        file.write(headers)
        file.truncate(len(headers) + padded(length) + 2 * BLOCK)
        file.seek(len(headers) + padded(length))
        file.write(built(replace(INFO, sop_uid="1.5"), b"after") + bytes(2 * BLOCK))
    done = subprocess.run(["tar", "tvf", path], capture_output=True, text=True, check=True)
    assert str(length) in done.stdout
    assert "1.5.dcm" in done.stdout
    with path.open("rb") as file:
        import os

        member = read_member(lambda size, offset: os.pread(file.fileno(), size, offset), 0)
    assert member is not None
    assert member.length == length


@pytest.mark.parametrize("uid", ["../x", "/abs", "a\0b", "%2e", "C:\\", ".", "..", "1..2", "1.", "", "1" * 65, "é"])
def test_unsafe_names_become_digests(uid: str) -> None:
    name = safe_name(uid)
    assert name.startswith("x")
    assert name.isalnum()
    assert len(name) <= 64


def test_a_broken_member_is_told_apart_from_the_end() -> None:
    whole = bytearray(built(INFO, b"data"))
    for position in (10, 150, 600, 2048 - 500):
        broken = bytes(whole[:position]) + bytes([whole[position] ^ 1]) + bytes(whole[position + 1 :])
        try:
            member = read_member(lambda length, offset, data=broken: data[offset : offset + length], 0)
        except BrokenMember:
            continue
        assert member is not None
        assert member.info != INFO or member.name
    with pytest.raises(BrokenMember):
        read_member(lambda length, offset: b"\1" * length, 0)
    with pytest.raises(BrokenMember):
        read_member(lambda length, offset: ustar_header("a/b", 5)[offset : offset + length].ljust(length, b"\0"), 0)


def test_the_file_meta_is_what_pydicom_reads() -> None:
    from io import BytesIO

    from pydicom import dcmread

    meta = dcmread(BytesIO(file_meta("1.2.3", "1.4.55", "1.2.840.10008.1.2"))).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) == (
        "1.2.3",
        "1.4.55",
        "1.2.840.10008.1.2",
    )


def test_every_value_of_the_file_meta_has_an_even_length() -> None:
    meta = file_meta("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5", "1.2.840.10008.1.2.1")
    position, seen = 132, []
    while position < len(meta):
        group, element, vr, length = struct.unpack_from("<HH2sH", meta, position)
        position += 8
        if vr == b"OB":
            (length,) = struct.unpack_from("<I", meta, position)
            position += 4
        assert (group, length % 2) == (2, 0), f"(0002,{element:04x}) has {length} bytes"
        seen.append(element)
        position += length
    assert seen == sorted(seen)
    assert position == len(meta)
    (group_length,) = struct.unpack_from("<I", meta, 140)
    assert group_length == len(meta) - 144
