"""SEG and SR objects as labels: names and codes, grids, overlaps, and objects that are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dicom_node.datasets.labels import label_map, read_segments, report_labels
from dicom_node.results.encode import encode
from dicom_node.results.files import part10
from models.findings import Classification, Code
from models.volume import SourceFrame, Volume
from tests.results_cases import BRAIN, classification, context, ellipsoid, enhanced, headers, prediction, segment, volume


def volume_of(sources: list[Any], frames: int | None = None) -> Volume:
    """What a reader would make of the sources; only grid and UIDs count here."""
    count = frames or len(sources)
    of = [sources[min(index, len(sources) - 1)] for index in range(count)]
    places = tuple(SourceFrame(str(each.SOPInstanceUID), index + 1 if frames else 1) for index, each in enumerate(of))
    return Volume(np.zeros((count, 24, 20), np.int16), np.eye(4), tuple(sources), places)


def seg(sources: list[Any], *masks: Any, **more: Any) -> bytes:
    found = prediction(sources, [segment(mask, number, f"part {number}") for number, mask in enumerate(masks, 1)], [], **more)
    return part10(encode(found, sources, context(sources, kinds=("SEG",)))[0])


def test_segments_by_label_in_the_order_of_the_classes() -> None:
    sources = headers()
    large, small = ellipsoid(8, 24, 20), ellipsoid(8, 24, 20, scale=0.15)
    read = read_segments(seg(sources, large, small))
    assert read.names == ("Part 1", "Part 2")
    assert read.sources == {str(each.SOPInstanceUID) for each in sources}
    expected = large.astype(np.uint8)
    expected[small] = 2
    np.testing.assert_array_equal(label_map(read, volume_of(sources), ("part 1", "Part 2")), expected)
    np.testing.assert_array_equal(label_map(read, volume_of(sources), ("Part 2",)), small.astype(np.uint8))


def test_a_type_by_its_code() -> None:
    sources = headers()
    mask = ellipsoid(8, 24, 20)
    found = label_map(read_segments(seg(sources, mask)), volume_of(sources), (f"{BRAIN.value}^SCT",))
    np.testing.assert_array_equal(found, mask.astype(np.uint8))


def test_frames_of_an_enhanced_object() -> None:
    source = enhanced(6)
    mask = ellipsoid(6, 24, 20)
    mask[4:] = False
    content = seg([source], mask, frame_numbers=(1, 2, 3, 4, 5, 6))
    np.testing.assert_array_equal(label_map(read_segments(content), volume_of([source], 6), ("Part 1",)), mask.astype(np.uint8))


def test_a_fraction_counts_from_one_half_on() -> None:
    sources = headers()
    inside = ellipsoid(8, 24, 20)
    fraction = inside * np.float32(0.4)
    fraction[4] = inside[4] * np.float32(0.7)
    found = prediction(sources, [segment(inside, probability=fraction)], [])
    read = read_segments(part10(encode(found, sources, context(sources, kinds=("SEG",)))[0]))
    np.testing.assert_array_equal(label_map(read, volume_of(sources), ("Brain",)), (fraction > 0.5).astype(np.uint8))


def test_what_is_not_there_is_named() -> None:
    sources = headers()
    read = read_segments(seg(sources, ellipsoid(8, 24, 20)))
    with pytest.raises(ValueError, match="none of the classes Heart; it has Part 1"):
        label_map(read, volume_of(sources), ("Heart",))
    wrong = replace(volume_of(sources), array=np.zeros((8, 10, 10), np.int16))
    with pytest.raises(ValueError, match="another size"):
        label_map(read, wrong, ("Part 1",))


def test_codes_and_numbers_of_a_report() -> None:
    sources = headers()
    grade = Classification(Code("111101", "DCM", "Image Quality"), "quality", Code("122742", "DCM", "Poor image quality"), None, None, True)
    found = prediction(sources, measurements=[volume(12.5), volume(7.25, of=None)], classifications=[classification(False), grade])
    objects = encode(found, sources, context(sources))
    images, labels = report_labels(part10(objects[-1]))
    assert str(sources[0].SOPInstanceUID) in images
    assert labels == {
        "brain: Volume": 12.5,
        "Cardiomegaly": 0.0,
        "Probability": 0.125,
        "Image Quality=Poor image quality": 1.0,
        "Volume": 7.25,
    }


@pytest.mark.parametrize("content", [b"", b"no DICOM", bytes(128) + b"DICM" + b"\0" * 50])
def test_objects_that_cannot_be_read_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_segments(content)
    with pytest.raises(ValueError, match="cannot be read"):
        report_labels(content)
