"""Bad input over real associations: each ends in a clear status, and the receiver goes on."""

from __future__ import annotations

import random
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, Identity, new_uid, template
from benchmarks.load import LoadError, Wire, message, store_command
from tests.conftest import data_folder
from tests.receiving import Receiving, receiving

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
SUCCESS = 0
REFUSALS = (0xA9, 0xC0, 0xC1, 0xB0)  # first byte of a status that blames the data set


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    folder = tmp_path_factory.mktemp("bad-input") / "node"
    folder.mkdir()
    with receiving(folder) as running:
        yield running


def split(raw: bytes) -> tuple[dict[int, bytes], bytes]:
    """Split a file into its meta elements (as bytes) and what follows them, trusting no length but those of group 0002."""
    at, meta = (132, {}) if raw[128:132] == b"DICM" else (0, {})
    while raw[at : at + 2] == b"\x02\x00":
        number, vr = struct.unpack_from("<H", raw, at + 2)[0], raw[at + 4 : at + 6]
        head = 12 if vr in LONG else 8
        length = struct.unpack_from("<I" if vr in LONG else "<H", raw, at + (8 if vr in LONG else 6))[0]
        if at + head + length > len(raw):
            break
        meta[number] = raw[at + head : at + head + length]
        at += head + length
    return meta, raw[at:]


def corpus() -> list[Path]:
    folder = data_folder()
    if folder is None:
        return []
    found = [path for name in ("malformed", "charsets", "fuzz") for path in sorted((folder / name).rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix not in {".md", ".txt", ".json", ".gz", ".csv", ""} or path.name.startswith("TC")]


def text(value: bytes) -> str:
    return value.rstrip(b"\x00 ").decode("ascii", "replace")


def send_raw(port: int, data: bytes, sop_class: str, sop_instance: str, syntax: str) -> tuple[int, str]:
    """C-STORE these bytes; an aborted association counts as status -1."""
    wire = Wire("127.0.0.1", port, contexts=[(sop_class, [syntax])], timeout=30)
    try:
        if not wire.accepted.get(1):
            return -2, "context not accepted"
        return wire.store(data, sop_class=sop_class, sop_instance=sop_instance)
    except LoadError as problem:
        return -1, str(problem)
    finally:
        wire.close()


def still_there(node: Receiving) -> bool:
    """Does the receiver answer a C-ECHO and store a proper instance?"""
    with Wire("127.0.0.1", node.port, contexts=[("1.2.840.10008.1.1", [IMPLICIT_VR_LITTLE_ENDIAN])], timeout=10) as wire:
        echoed = wire.echo() == SUCCESS
    return echoed and store_one(node)[1] == SUCCESS


def identity(kind: str = "small") -> Identity:
    source = random.Random()
    return Identity(kind, new_uid(source), new_uid(source), new_uid(source), 1)


def store_one(node: Receiving, kind: str = "small") -> tuple[Identity, int]:
    one = identity(kind)
    with Wire("127.0.0.1", node.port, timeout=30) as wire:
        return one, wire.store(template(kind).instance(one), sop_instance=one.sop)[0]


def stored(node: Receiving, sop: str) -> bytes:
    found = node.archive.open_instance(sop)
    return found.read()[found.meta_length :]


def assert_sound(node: Receiving) -> None:
    """Every segment is a tar file whose members are as long as they say."""
    for path in node.root.rglob("*.tar"):
        with tarfile.open(path) as segment:
            for member in segment:
                inside = segment.extractfile(member)
                assert inside is not None
                assert len(inside.read()) == member.size


@pytest.mark.real_data
@pytest.mark.parametrize("path", corpus(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_malformed_file_gets_a_clear_answer(node: Receiving, path: Path) -> None:
    meta, data = split(path.read_bytes())
    syntax = text(meta.get(0x0010, b"")) or IMPLICIT_VR_LITTLE_ENDIAN
    sop_class = text(meta.get(0x0002, b"")) or CT_IMAGE_STORAGE
    sop = text(meta.get(0x0003, b"")) or "2.25.77"
    try:
        status, comment = send_raw(node.port, data, sop_class, sop, syntax)
    except (ValueError, TypeError, UserWarning):  # a UID so broken that no A-ASSOCIATE-RQ can carry it: send under one that can
        status, comment = send_raw(node.port, data, CT_IMAGE_STORAGE, "2.25.78", EXPLICIT_VR_LITTLE_ENDIAN)
    if status == -2:
        status, comment = send_raw(node.port, data, CT_IMAGE_STORAGE, sop, EXPLICIT_VR_LITTLE_ENDIAN)
    assert status == SUCCESS or status >> 8 in REFUSALS, f"{status:04X} {comment}"
    assert len(comment) <= 64
    if status == SUCCESS:
        assert stored(node, sop) == data
    assert still_there(node)


PATH_LIKE = [
    "../../../../tmp/escaped",
    "/tmp/escaped",
    "..",
    "1.2.3/../../4",
    "1.2.3\x00.4",
    "%2e%2e%2fescaped",
    "C:\\escaped",
    "1.2.3;rm -rf",
    "1.2.\r\n3",
    "a" * 64,
    "1." * 40,
]


@pytest.mark.parametrize("uid", PATH_LIKE, ids=repr)
@pytest.mark.parametrize("where", ["sop", "series", "study"])
def test_a_uid_that_is_a_path_stays_inside_the_archive(node: Receiving, uid: str, where: str) -> None:
    before = {path for path in node.root.parent.parent.rglob("*") if not path.is_relative_to(node.root.parent)}
    one = identity()
    data = template("small").instance(one)
    real = getattr(one, where).encode()
    padded = uid.encode() + b"\x00" * (len(uid) % 2)
    data = data.replace(b"UI" + struct.pack("<H", len(real)) + real, b"UI" + struct.pack("<H", len(padded)) + padded)
    sop = uid if where == "sop" else one.sop
    status, comment = send_raw(node.port, data, CT_IMAGE_STORAGE, sop, EXPLICIT_VR_LITTLE_ENDIAN)
    assert status >> 8 in REFUSALS, f"{status:04X} {comment}"
    assert {path for path in node.root.parent.parent.rglob("*") if not path.is_relative_to(node.root.parent)} == before
    assert not any("escaped" in path.name or ".." in path.name for path in node.root.rglob("*"))
    assert still_there(node)


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 600, 1300, 2000, -4000, -1])
def test_a_truncated_data_set_is_not_acknowledged(node: Receiving, keep: int) -> None:
    one = identity()
    data = template("small").instance(one)
    data = data[:keep] if keep >= 0 else data[: len(data) + keep]
    status, comment = send_raw(node.port, data, CT_IMAGE_STORAGE, one.sop, EXPLICIT_VR_LITTLE_ENDIAN)
    assert status >> 8 in REFUSALS, f"{status:04X} {comment}"
    assert still_there(node)


@pytest.mark.parametrize("length", [0xFFFFFFF0, 0x7FFFFFFF, 0xFFFFFFFF, 8193, 100])
def test_a_pixel_length_that_lies_is_not_acknowledged(node: Receiving, length: int) -> None:
    one = identity()
    data = bytearray(template("small").instance(one))
    at = data.index(b"\xe0\x7f\x10\x00OW\x00\x00") + 8
    data[at : at + 4] = struct.pack("<I", length)
    status, comment = send_raw(node.port, bytes(data), CT_IMAGE_STORAGE, one.sop, EXPLICIT_VR_LITTLE_ENDIAN)
    assert status >> 8 in REFUSALS, f"{status:04X} {comment}"
    assert still_there(node)


def high_water() -> int:
    """Return the peak resident bytes since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def reset_high_water() -> int:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return high_water()


def test_a_deflated_bomb_does_not_fill_the_memory(node: Receiving) -> None:
    assert still_there(node)
    one = identity()
    data = template("small").instance(one)
    at = data.index(b"\xe0\x7f\x10\x00OW\x00\x00")
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    size = 600 << 20
    packed = [compressor.compress(data[:at] + b"\xe0\x7f\x10\x00OW\x00\x00" + struct.pack("<I", size))]
    zeros = bytes(1 << 20)
    packed += [compressor.compress(zeros) for _ in range(600)]
    packed.append(compressor.flush())
    bomb = b"".join(packed)
    before = reset_high_water()
    status, comment = send_raw(node.port, bomb, CT_IMAGE_STORAGE, one.sop, DEFLATED)
    assert status == SUCCESS or status >> 8 in REFUSALS, f"{status:04X} {comment}"
    assert high_water() - before < 64 << 20
    if status == SUCCESS:
        assert stored(node, one.sop) == bomb
    assert still_there(node)


@pytest.mark.parametrize("tail", [b"", b"\x00"])
def test_a_broken_deflated_stream_is_not_acknowledged(node: Receiving, tail: bytes) -> None:
    one = identity()
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = compressor.compress(template("small").instance(one)) + compressor.flush()
    status, comment = send_raw(node.port, packed[: len(packed) // 2] + tail, CT_IMAGE_STORAGE, one.sop, DEFLATED)
    assert status >> 8 in REFUSALS, f"{status:04X} {comment}"
    assert still_there(node)


@pytest.mark.parametrize("at", ["first", "last"])
@pytest.mark.parametrize("defined", [True, False])
def test_nesting_20000_deep_is_survived(node: Receiving, at: str, defined: bool) -> None:
    depth = 20_000
    if defined:
        nested = b""
        for _ in range(depth // 40):  # defined lengths grow with the square: a tenth of the bytes, the same recursion for a reader
            item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(nested)) + nested
            nested = b"\x40\x00\x75\x02SQ\x00\x00" + struct.pack("<I", len(item)) + item
    else:
        opening = b"\x40\x00\x75\x02SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        nested = opening * depth + b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00" * depth
    one = identity()
    data = template("small").instance(one)
    if at == "first":  # before the UIDs that the index needs: (0008,1110) is out of order, but then everything here is rude
        nested = nested.replace(b"\x40\x00\x75\x02", b"\x08\x00\x10\x11")
        cut = data.index(b"\x08\x00\x15\x11") if b"\x08\x00\x15\x11" in data else data.index(b"\x10\x00\x10\x00PN")
    else:
        cut = data.index(b"\xe0\x7f\x10\x00OW\x00\x00")
    data = data[:cut] + nested + data[cut:]
    before = reset_high_water()
    status, comment = send_raw(node.port, data, CT_IMAGE_STORAGE, one.sop, EXPLICIT_VR_LITTLE_ENDIAN)
    assert status == SUCCESS or status >> 8 in REFUSALS, f"{status:04X} {comment}"
    assert high_water() - before < 64 << 20
    assert still_there(node)


def test_an_association_that_dies_mid_instance_leaves_nothing(node: Receiving) -> None:
    one = identity("ct")
    wire = Wire("127.0.0.1", node.port)
    whole = message(1, store_command(CT_IMAGE_STORAGE, one.sop), template("ct").instance(one), wire.pdu_length)
    wire.socket.sendall(whole[: len(whole) // 2])
    wire.close()
    small, status = store_one(node)
    assert status == SUCCESS
    assert stored(node, small.sop) == template("small").instance(small)
    assert node.database_rows(one.sop) == 0
    assert_sound(node)


def test_a_study_in_which_every_slice_is_a_duplicate(node: Receiving) -> None:
    source = random.Random()
    study, series = new_uid(source), new_uid(source)
    slices = [Identity("small", study, series, new_uid(source), number) for number in range(1, 21)]
    for _ in range(2):
        with Wire("127.0.0.1", node.port) as wire:
            answers = {wire.store(template("small").instance(one), sop_instance=one.sop)[0] for one in slices}
        assert answers == {SUCCESS}
        assert node.revision(study) == len(slices)
    assert len(node.archive.instances(study)) == len(slices)


def test_other_bytes_under_a_known_uid_are_a_conflict(node: Receiving) -> None:
    one, status = store_one(node)
    assert status == SUCCESS
    other = bytearray(template("small").instance(one))
    other[-1] ^= 1
    status, comment = send_raw(node.port, bytes(other), CT_IMAGE_STORAGE, one.sop, EXPLICIT_VR_LITTLE_ENDIAN)
    assert status >> 12 == 0xC
    assert comment
    assert stored(node, one.sop) == template("small").instance(one)


def test_the_command_and_the_data_set_must_name_the_same_instance(node: Receiving) -> None:
    one, other = identity(), identity()
    status, _ = send_raw(node.port, template("small").instance(one), CT_IMAGE_STORAGE, other.sop, EXPLICIT_VR_LITTLE_ENDIAN)
    assert status >> 8 == 0xA9
    assert node.database_rows(one.sop) == node.database_rows(other.sop) == 0


def test_nothing_was_written_outside_the_archive_and_all_segments_are_sound(node: Receiving) -> None:
    inside = {path.name for path in node.root.parent.iterdir()}
    assert inside <= {"archive", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm"}
    assert_sound(node)
