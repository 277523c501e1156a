"""Data sets between transfer syntaxes: exact, bounded, and in a process of its own that may die alone."""

from __future__ import annotations

import os
import signal
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from struct import pack

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataset import Dataset as DatasetType
from pydicom.sequence import Sequence
from pynetdicom.dsutils import encode

from dicom_node.pixels.codecs import CodecError, Layout, decode
from dicom_node.pixels.codecs import encode as encode_frame
from dicom_node.pixels.elements import Fragments, NotReadable, read, write
from dicom_node.pixels.frames import encapsulate, split
from dicom_node.pixels.recode import decode_frame, recode
from dicom_node.transcode import ChildrenBusy, TranscodeError, Transcoder, targets
from tests.dimse import EXPLICIT, IMPLICIT, until

BIG, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
JPEG_LS, JPEG_2000, HTJ2K, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5"
COMPRESSED = (JPEG_LS, JPEG_2000, HTJ2K, RLE)
LIMIT = 1 << 26


def image(
    rows: int = 7, columns: int = 5, *, bits: int = 16, stored: int = 12, signed: bool = False, frames: int = 1, samples: int = 1
) -> DatasetType:
    """A small image of values that use their whole range; odd sizes."""
    values = np.random.default_rng(1).integers(0, 1 << stored, (frames, rows, columns, samples)).astype(f"<u{bits // 8}")
    if signed:
        spare = bits - stored
        values = ((values.view(f"<i{bits // 8}") << spare) >> spare).view(f"<u{bits // 8}")
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientName = "1.2.840.10008.5.1.4.1.1.7", "1.2.3", "Test"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = samples, "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        ds.PlanarConfiguration = 0
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames, rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, stored, stored - 1, int(signed)
    raw = values.tobytes()
    ds.add_new(0x7FE00010, "OW" if bits > 8 else "OB", raw + bytes(len(raw) & 1))
    return ds


def encoded(ds: DatasetType, syntax: str = EXPLICIT) -> bytes:
    data = encode(ds, syntax == IMPLICIT, syntax != BIG)
    assert data is not None
    return data


@pytest.mark.parametrize("target", [IMPLICIT, BIG, DEFLATED, *COMPRESSED])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"bits": 8, "stored": 8},
        {"signed": True},
        {"frames": 3},
        {"bits": 8, "stored": 8, "samples": 3, "frames": 2},
        {"stored": 16, "signed": True},
    ],
    ids=["12 of 16 bits", "8 bits, odd length", "signed 12 of 16", "three frames", "two colour frames", "signed 16"],
)
def test_there_and_back_is_the_same(shape: dict[str, int], target: str) -> None:
    data = encoded(image(**shape))  # type: ignore[arg-type]
    there = recode(data, EXPLICIT, target, LIMIT)
    assert recode(there, target, EXPLICIT, LIMIT) == data


@pytest.mark.parametrize("syntax", [EXPLICIT, *COMPRESSED])
def test_every_frame_is_decoded_by_its_number(syntax: str) -> None:
    source = image(frames=3)
    data = recode(encoded(source), EXPLICIT, syntax, LIMIT) if syntax != EXPLICIT else encoded(source)
    frames = np.frombuffer(source.PixelData, "<u2").reshape(3, 7, 5)
    for number in (1, 2, 3):
        decoded = decode_frame(data, syntax, number, LIMIT)
        assert decoded.pixels == frames[number - 1].tobytes()
    for wrong in (0, 4):
        with pytest.raises(CodecError):
            decode_frame(data, syntax, wrong, LIMIT)


def test_values_of_every_kind_keep_their_bytes() -> None:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.add_new(0x00080018, "UI", "1.2.3")
    ds.add_new(0x00100010, "PN", "Bj\xf6rn")
    ds.add_new(0x00280030, "DS", ["1.50", "2.0"])
    ds.add_new(0x00280009, "AT", 0x00181063)
    ds.add_new(0x00186011, "SQ", Sequence([Dataset(), Dataset()]))
    ds[0x00186011].value[0].add_new(0x00186018, "UL", 70000)
    ds.add_new(0x00189087, "FD", 1.5)
    ds.add_new(0x00281101, "US", [256, 0, 16])
    ds.add_new(0x00281201, "OW", b"\1\2\3\4")
    data = encoded(ds)
    for syntax in (IMPLICIT, BIG, DEFLATED):
        back = recode(recode(data, EXPLICIT, syntax, LIMIT), syntax, EXPLICIT, LIMIT)
        assert read(back, EXPLICIT, LIMIT) == read(data, EXPLICIT, LIMIT)
    assert recode(data, EXPLICIT, BIG, LIMIT)[:4] == b"\x00\x08\x00\x05"


def test_a_value_too_long_for_its_length_field_becomes_un() -> None:
    data = pack("<HHL", 0x0008, 0x0058, 70_000) + b"1.2\\" * 17_500
    elements = read(recode(data, IMPLICIT, EXPLICIT, LIMIT), EXPLICIT, LIMIT)
    assert (elements[0].vr, len(elements[0].value)) == (b"UN", 70_000)  # type: ignore[arg-type]


def test_tables_that_say_whose_fragments_are_whose() -> None:
    fragments = Fragments(memoryview(each) for each in (pack("<2L", 0, 24), b"aaaaaaaa", b"bb", b"cccc"))
    assert split([], Fragments([memoryview(pack("<2L", 0, 26)), *fragments[1:]]), 2) == [b"aaaaaaaabb", b"cccc"]
    with pytest.raises(NotReadable):
        split([], fragments, 2)
    assert split([], fragments, 1) == [b"aaaaaaaabbcccc"]
    elements: list = []  # type: ignore[type-arg]
    encapsulate(elements, [b"abc", b"de"])
    assert [bytes(each) for each in elements[0].value] == [pack("<2L", 0, 12), b"abc\0", b"de"]


def deep(levels: int) -> bytes:
    return (
        pack("<HHL", 0x0008, 0x1140, 0xFFFFFFFF) * 1
        + (pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + pack("<HHL", 0x0008, 0x1140, 0xFFFFFFFF)) * levels
    )


@pytest.mark.parametrize(
    "data",
    [b"\x08\x00", deep(20_000), pack("<HHL", 0x0008, 0x0018, 0xFFFFFFF0) + b"1.2", pack("<HHL", 0x7FE0, 0x0010, 0xFFFFFFFF)],
    ids=["cut", "nested", "length past the end", "no end"],
)
def test_what_is_no_data_set_is_refused(data: bytes) -> None:
    with pytest.raises(NotReadable):
        recode(data, IMPLICIT, EXPLICIT, LIMIT)


def test_a_deflated_bomb_and_sizes_that_lie() -> None:
    deflater = zlib.compressobj(wbits=-15)
    bomb = deflater.compress(bytes(1 << 28)) + deflater.flush()
    with pytest.raises(NotReadable, match="limit"):
        recode(bomb, DEFLATED, EXPLICIT, LIMIT)
    small = image()
    small.Rows = small.Columns = 65535
    for target in COMPRESSED:
        with pytest.raises(CodecError, match="limit"):
            recode(encoded(small), EXPLICIT, target, LIMIT)
    compressed = recode(encoded(image()), EXPLICIT, JPEG_LS, LIMIT)
    taller = compressed.replace(b"\x28\x00\x10\x00US\x02\x00\x07\x00", b"\x28\x00\x10\x00US\x02\x00\x09\x00")
    with pytest.raises(CodecError, match="data set says"):
        recode(taller, JPEG_LS, EXPLICIT, LIMIT)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_data_set_ends_in_a_refusal_or_a_data_set(data: st.DataObject) -> None:
    good = bytearray(_SAMPLES[data.draw(st.sampled_from(sorted(_SAMPLES)))])
    syntax = data.draw(st.sampled_from([IMPLICIT, EXPLICIT, BIG]))
    for _ in range(data.draw(st.integers(1, 5))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        elements = read(bytes(good[: data.draw(st.integers(0, len(good)))]), syntax, LIMIT)
    except NotReadable:
        return
    assert len(write(elements, EXPLICIT)) >= 8 * len(elements)


_SAMPLES = {syntax: encoded(image(frames=2), syntax) for syntax in (IMPLICIT, EXPLICIT, BIG)}
_SAMPLES["rle"] = recode(_SAMPLES[EXPLICIT], EXPLICIT, RLE, LIMIT)


def test_overlays_in_unused_bits_are_not_lost() -> None:
    ds = image()
    ds.add_new(0x60000010, "US", 7)
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 12)
    for target in (JPEG_LS, JPEG_2000, HTJ2K):
        with pytest.raises(CodecError, match="overlay"):
            recode(encoded(ds), EXPLICIT, target, LIMIT)
    assert recode(recode(encoded(ds), EXPLICIT, RLE, LIMIT), RLE, EXPLICIT, LIMIT) == encoded(ds)


def test_an_encoder_never_gives_what_does_not_come_back() -> None:
    layout = Layout(4, 4, 1, 16, 12, 11, False, "MONOCHROME2")
    beyond = np.full((4, 4), 0xF00F, np.uint16)  # bits above High Bit
    for syntax in COMPRESSED:
        try:
            back, _ = decode(encode_frame(beyond, syntax, layout), syntax, layout)
        except CodecError:
            continue
        assert np.array_equal(back, beyond)


# ------------------------------------------------------------------ the process


@pytest.fixture
def transcoder() -> Iterator[Transcoder]:
    transcoder = Transcoder(children=1, limit=LIMIT, deadline=20)
    yield transcoder
    transcoder.close()


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "dicom_node.pixels.child" in each.cmdline()]


def test_a_child_works_and_stays_and_goes(transcoder: Transcoder) -> None:
    data = encoded(image())
    assert transcoder.transcode(transcoder.transcode(data, EXPLICIT, JPEG_LS), JPEG_LS, EXPLICIT) == data
    (child,) = children()
    frame = transcoder.decode_frame(data, EXPLICIT, 1)
    assert frame.array().shape == (7, 5)
    assert frame.array().tobytes() == image().PixelData
    assert [each.pid for each in children()] == [child.pid]
    with pytest.raises(TranscodeError, match="ends inside"):
        transcoder.transcode(b"\x08\x00\x05", EXPLICIT, IMPLICIT)
    assert [each.pid for each in children()] == [child.pid]
    transcoder.close()
    until(lambda: not children())


def test_a_child_that_dies_is_replaced(transcoder: Transcoder) -> None:
    data = encoded(image())
    transcoder.transcode(data, EXPLICIT, IMPLICIT)
    (child,) = children()
    child.kill()
    child.wait(5)
    assert transcoder.transcode(data, EXPLICIT, IMPLICIT)
    (second,) = children()
    os.kill(second.pid, signal.SIGSTOP)
    killer = threading.Timer(0.3, second.kill)
    killer.start()
    with pytest.raises(TranscodeError, match="ended"):
        transcoder.transcode(data, EXPLICIT, IMPLICIT)
    killer.join()
    assert transcoder.transcode(data, EXPLICIT, IMPLICIT)


def test_a_child_that_hangs_is_ended_at_the_deadline() -> None:
    transcoder = Transcoder(children=1, limit=LIMIT, deadline=0.5)
    try:
        data = encoded(image())
        transcoder.transcode(data, EXPLICIT, IMPLICIT)
        (child,) = children()
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(TranscodeError, match="too long"):
            transcoder.transcode(data, EXPLICIT, IMPLICIT)
        assert not psutil.pid_exists(child.pid)
    finally:
        transcoder.close()


def test_work_waits_for_a_child_only_so_long() -> None:
    transcoder = Transcoder(children=1, limit=LIMIT, deadline=20, wait=0.05)
    data = encoded(image())
    try:
        transcoder.transcode(data, EXPLICIT, IMPLICIT)
        (child,) = children()
        os.kill(child.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as other:
            working = other.submit(transcoder.transcode, data, EXPLICIT, IMPLICIT)
            until(lambda: not transcoder._pool._free)
            with pytest.raises(ChildrenBusy, match="busy"):
                transcoder.transcode(data, EXPLICIT, IMPLICIT)
            os.kill(child.pid, signal.SIGCONT)
            assert working.result(20)
        assert transcoder.transcode(data, EXPLICIT, IMPLICIT)
    finally:
        transcoder.close()


def test_what_a_syntax_can_become() -> None:
    assert targets(EXPLICIT)[0] == IMPLICIT
    assert targets(JPEG_2000)[:2] == (EXPLICIT, IMPLICIT)
    assert JPEG_2000 not in targets("1.2.840.10008.1.2.4.50")
    assert targets("1.2.840.10008.1.2.4.100") == ()  # MPEG-2
