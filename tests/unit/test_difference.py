"""Two data sets side by side."""

from __future__ import annotations

import io

from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from storage.difference import Difference, compare
from tests.unit.test_header_json import part10


def dataset(**changes: object) -> Dataset:
    result = Dataset()
    result.SOPInstanceUID = "1.2.3"
    result.StudyDescription = "Head"
    item = Dataset()
    item.CodeValue = "A"
    result.ProcedureCodeSequence = Sequence([item])
    result.Rows = 4
    result.PixelData = bytes(400)
    result["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        setattr(result, keyword, value)
    return result


def test_equal_data_sets_do_not_differ() -> None:
    assert compare(part10(dataset()), part10(dataset())) == []


def test_each_attribute_that_differs_is_named() -> None:
    offered = dataset(StudyDescription="Neck", Columns=4)
    del offered.Rows
    offered.ProcedureCodeSequence[0].CodeValue = "B"
    assert compare(part10(dataset()), part10(offered)) == [
        Difference("(0008,1030)", "StudyDescription", "Head", "Neck"),
        Difference("(0008,1032)[1].(0008,0100)", "CodeValue", "A", "B"),
        Difference("(0028,0010)", "Rows", "4", None),
        Difference("(0028,0011)", "Columns", None, "4"),
    ]


def test_pixels_differ_by_digest() -> None:
    (found,) = compare(part10(dataset()), part10(dataset(PixelData=b"\1" * 400)))
    assert found.keyword == "PixelData"
    assert found.existing is not None
    assert found.existing.startswith("400 bytes, SHA-256 ")
    assert found.existing != found.offered


def test_a_sequence_that_lost_an_item_is_named() -> None:
    (found,) = compare(part10(dataset()), part10(dataset(ProcedureCodeSequence=Sequence([]))))
    assert found == Difference("(0008,1032)", "ProcedureCodeSequence", "1 items", "0 items")


def test_what_cannot_be_read_differs_from_everything() -> None:
    found = compare(part10(dataset()), io.BytesIO(b"no dicom"))
    assert {difference.keyword for difference in found} >= {"SOPInstanceUID", "Rows", "PixelData"}
    assert str(ExplicitVRLittleEndian)
