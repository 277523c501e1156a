"""Data sets of storage commitment: read as pydicom writes them, written as pydicom reads them, and refused where they lie."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from dicom_node.dimse.references import (
    Reference,
    References,
    TooManyReferences,
    UnreadableReferences,
    decode_references,
    encode_references,
)

IMPLICIT, EXPLICIT, BIG, DEFLATED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
SYNTAXES = pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
uids = st.from_regex(r"1(\.[1-9][0-9]{0,8}){1,6}", fullmatch=True)
references = st.builds(Reference, uids, uids)
everything = st.builds(
    References, uids, st.lists(references, max_size=5), st.lists(st.tuples(references, st.integers(0, 0xFFFF)), min_size=1, max_size=3)
)


def written(dataset: Dataset, syntax: str, *, undefined: bool = False) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == IMPLICIT
    if undefined:
        for element in dataset:
            if element.VR == "SQ":
                element.is_undefined_length = True
                for item in element.value:
                    item.is_undefined_length_sequence_item = True
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def read(data: bytes, syntax: str) -> Dataset:
    return read_dataset(BytesIO(data), syntax == IMPLICIT, True)


def item(reference: Reference) -> Dataset:
    dataset = Dataset()
    dataset.ReferencedSOPClassUID, dataset.ReferencedSOPInstanceUID = reference
    return dataset


@SYNTAXES
@given(value=everything, undefined=st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_pydicom_writes_is_read(value: References, undefined: bool, syntax: str) -> None:
    dataset = Dataset()
    dataset.TransactionUID = value.transaction_uid
    dataset.RetrieveAETitle = "ELSEWHERE"
    dataset.ReferencedSOPSequence = [item(each) for each in value.instances]
    failed = [item(reference) for reference, _ in value.failed]
    for each, (_, reason) in zip(failed, value.failed, strict=True):
        each.FailureReason = reason
        each.ReferencedSOPSequence = [item(Reference("1.2", "1.3"))]  # something nested that is none of ours
    dataset.FailedSOPSequence = failed
    assert decode_references(written(dataset, syntax, undefined=undefined), syntax, limit=100) == value


@SYNTAXES
@given(value=everything)
@settings(max_examples=60, deadline=None)
def test_what_is_written_pydicom_reads(value: References, syntax: str) -> None:
    dataset = read(encode_references(value, syntax, report=True), syntax)
    assert dataset.TransactionUID == value.transaction_uid
    found = [Reference(each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID) for each in dataset.get("ReferencedSOPSequence", [])]
    assert found == value.instances
    assert [each.FailureReason for each in dataset.FailedSOPSequence] == [reason for _, reason in value.failed]
    tags = [int(element.tag) for element in dataset]
    assert tags == sorted(tags)


@SYNTAXES
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_bytes_that_lie_are_refused_or_read_and_nothing_else(data: st.DataObject, syntax: str) -> None:
    whole = bytearray(encode_references(data.draw(everything), syntax, report=True))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        found = decode_references(bytes(whole[:cut]), syntax, limit=100)
    except UnreadableReferences:
        return
    assert found.transaction_uid


@SYNTAXES
def test_a_limit_and_what_is_missing(syntax: str) -> None:
    many = References("1.2", [Reference("1.2", f"1.{number}") for number in range(11)])
    with pytest.raises(TooManyReferences):
        decode_references(encode_references(many, syntax, report=False), syntax, limit=10)
    assert len(decode_references(encode_references(many, syntax, report=False), syntax, limit=11).instances) == 11
    for broken in (b"", written(item(Reference("1.2", "1.3")), syntax)):
        with pytest.raises(UnreadableReferences, match="no Transaction UID"):
            decode_references(broken, syntax, limit=10)


@pytest.mark.parametrize("syntax", [BIG, DEFLATED])
def test_a_syntax_that_is_not_read_is_named(syntax: str) -> None:
    with pytest.raises(UnreadableReferences, match="Little Endian"):
        decode_references(b"", syntax, limit=10)


@SYNTAXES
def test_deep_nesting_ends(syntax: str) -> None:
    sequence = b"\x08\x00\x99\x11" + (b"SQ\0\0" if syntax == EXPLICIT else b"") + b"\xff\xff\xff\xff"
    bomb = (sequence + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 5000
    with pytest.raises(UnreadableReferences):
        decode_references(bomb, syntax, limit=10)
