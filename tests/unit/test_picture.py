"""Frames as pictures: the grayscale pipeline value by value, whether a frame is worked on whole or some rows at a time."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.transcode import Transcoder
from dicom_node.web.dicomweb import picture
from dicom_node.web.dicomweb.errors import Unprocessable
from dicom_node.web.dicomweb.metadata import in_utf_8
from dicom_node.web.dicomweb.picture import _gray, picture_of
from dicom_node.web.dicomweb.pixels import Pixels
from dicom_node.web.dicomweb.rendering_parameters import Rendering, Window

VALUES = np.random.default_rng(3).integers(-1000, 3000, (37, 11), dtype=np.int16)


def luts(**values: Any) -> Dataset:
    ds = Dataset()
    for name, value in {"BitsStored": 16, "PixelRepresentation": 1, **values}.items():
        setattr(ds, name, value)
    return ds


@pytest.mark.parametrize("strip", [1, 20, 1 << 20])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_gray_is_what_the_standard_says(monkeypatch: pytest.MonkeyPatch, strip: int, photometric: str) -> None:
    monkeypatch.setattr(picture, "STRIP", strip)
    hounsfield = VALUES * 2.0 - 24
    full = np.rint((hounsfield - hounsfield.min()) * (255 / np.ptp(hounsfield)))
    windowed = np.rint(255 * np.clip((hounsfield - (40 - 0.5)) / (400 - 1) + 0.5, 0, 1))
    for own, asked, expected in (
        ({}, None, full),
        ({}, Window(40, 400), windowed),
        ({"WindowCenter": "40", "WindowWidth": "400"}, None, windowed),
        ({"WindowCenter": ["40", "1"], "WindowWidth": ["400", "1"]}, None, windowed),
        ({"WindowCenter": "1", "WindowWidth": "1"}, Window(40, 400), windowed),
    ):
        shown = _gray(VALUES, luts(RescaleSlope="2", RescaleIntercept="-24", **own), asked, photometric)
        expected = expected if photometric == "MONOCHROME2" else 255 - expected
        assert np.abs(shown.astype(int) - expected).max() <= 1  # single precision may round the other way
        assert (shown != expected).mean() < 0.02


def test_a_voi_lut_is_applied_whole_or_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 16], list(np.linspace(0, 65535, 256).astype(int) // 2 * 2)
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    values = np.arange(400, dtype=np.uint16).reshape(40, 10)
    header = luts(PixelRepresentation=0, VOILUTSequence=[item])
    whole = _gray(values, header, None, "MONOCHROME2")
    assert (whole.min(), whole.max()) == (0, 255)
    assert (np.diff(whole.ravel()[:256].astype(int)) >= 0).all()
    monkeypatch.setattr(picture, "STRIP", 30)
    assert (_gray(values, header, None, "MONOCHROME2") == whole).all()


def test_an_even_image_is_black() -> None:
    assert not _gray(np.full((5, 4), 7, np.int16), luts(), None, "MONOCHROME2").any()


def test_a_large_frame_takes_little_more_than_itself() -> None:
    values = np.zeros((4096, 4096), np.uint16)
    tracemalloc.start()
    try:
        _gray(values, luts(RescaleSlope="2", RescaleIntercept="1", PixelRepresentation=0), Window(1, 4), "MONOCHROME2")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20  # 16 MiB are the picture


def test_a_frame_beyond_measure_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    header = luts(Rows=8192, Columns=4097, BitsAllocated=8)
    with pytest.raises(Unprocessable, match="too large"):
        picture_of(None, Pixels(header, 0x7FE00010, 0, 0), 1, Rendering(), Transcoder())  # type: ignore[arg-type]


def test_the_character_set_of_json_is_utf_8() -> None:
    mine = b'"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'
    for value in (b',"Value":["ISO_IR 100"]', b"", b',"Value":[null,"ISO 2022 IR 87"]', b',"Value":["a]\\"}"]'):
        source = b'"00080005":{"vr":"CS"' + value + b"}"
        for before, after in itertools.product((b"{", b'{"00081140":{"vr":"SQ","Value":[{'), (b"}", b',"00080008":{"vr":"CS"}}')):
            assert in_utf_8(before + source + after) == before + mine + after
    text = b'{"00204000":{"vr":"LT","Value":["\\"00080005\\":{\\"vr\\":\\"CS\\"}"]}}'
    assert in_utf_8(text) == text
