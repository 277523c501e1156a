"""What rules may match on, from headers as scanners write them."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_node.work.attributes import attributes_of


def test_one_value_that_breaks_its_vr_hides_no_other() -> None:
    header = Dataset()
    header.SequenceName = "tfl3d"
    rows = Tag(0x0028, 0x0010)
    header[rows] = RawDataElement(rows, "US", 3, b"\1\2\3", 0, False, True)
    header.EchoTime = "2.3"
    assert attributes_of(header) == {"SequenceName": "tfl3d", "EchoTime": "2.3"}
