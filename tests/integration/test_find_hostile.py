"""C-FIND against requests made to be expensive, and stored values that no VR can hold."""

from __future__ import annotations

import io
import json
import socket
import time
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.filereader import read_dataset

from dicom_node.dimse import pdu
from dicom_node.dimse.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND
from dicom_node.dimse.identifier import MAX_VALUES, IdentifierRefused, RowEncoder, parse
from dicom_node.dimse.message import decode_command, encode_find_request, frame_command, frame_data_set
from storage.matching import MAX_TERMS
from storage.query import Column
from tests.dimse import receive_pdu, request_pdu
from tests.node import StepNode, peer, running, settings

QUERIER = peer("querier", 104, title="QUERIER")
LEVELS = ("STUDY", "SERIES", "IMAGE")
LEVEL = b"\x08\x00\x52\x00\x06\0\0\0STUDY "


def element(group: int, number: int, value: bytes) -> bytes:
    value += b" " * (len(value) & 1)
    return group.to_bytes(2, "little") + number.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value


def uids(count: int) -> bytes:
    return b"\\".join(b"2.25.%d" % number for number in range(count))


def open_association(node: StepNode) -> tuple[socket.socket, int]:
    sock = socket.create_connection(("127.0.0.1", node.port), timeout=30)
    sock.sendall(request_pdu([(STUDY_ROOT_FIND, [IMPLICIT_VR_LITTLE_ENDIAN])], calling_ae="QUERIER"))
    kind, body = receive_pdu(sock)
    assert kind == pdu.ASSOCIATE_AC
    return sock, pdu.parse_associate_accept(body).user.max_length


def ask(sock: socket.socket, longest: int, identifier: bytes) -> list[int]:
    """The statuses of the answers to one request."""
    sock.sendall(frame_command(1, encode_find_request(1, STUDY_ROOT_FIND)) + frame_data_set(1, LEVEL + identifier, longest))
    statuses: list[int] = []
    while not statuses or statuses[-1] in (0xFF00, 0xFF01):
        command = decode_command(receive_pdu(sock)[1][6:])
        statuses.append(command.status)
        if command.has_data_set:
            receive_pdu(sock)
    return statuses


def test_what_is_too_much_is_refused_at_once_and_the_association_goes_on(tmp_path: Path) -> None:
    lists = [element(0x0008, number, uids(5_000)) for number in (0x0016, 0x0018)]
    names = element(0x0010, 0x0010, b"\\".join([b"*a*"] * 9_000))
    with running(settings(tmp_path / "node", more=QUERIER)) as node:
        sock, longest = open_association(node)
        with sock:
            began = time.monotonic()
            assert ask(sock, longest, element(0x0020, 0x000D, uids(1_000_000))) == [0xA700]
            assert ask(sock, longest, b"".join(lists)) == [0xA900]
            assert ask(sock, longest, names) == [0xA900]
            assert time.monotonic() - began < 10
            assert ask(sock, longest, element(0x0020, 0x000D, uids(MAX_TERMS))) == [0]
            assert ask(sock, longest, element(0x0010, 0x0010, b"\\".join([b"*a*"] * MAX_VALUES))) == [0]


@pytest.mark.parametrize(
    "keys",
    [
        element(0x0008, 0x1032, b"\xfe\xff\x00\xe0\0\0\0\0" * 100_000),
        element(0x0010, 0x0020, b"\\".join([b"A"] * (MAX_VALUES + 1))),
        b"".join(element(0x0018, number, b"\\".join([b"A"] * MAX_VALUES)) for number in range(0x1000, 0x1010)),
        b"".join(element(0x0020, number, uids(MAX_TERMS // 2 + 1)) for number in (0x000D, 0x000E)),
    ],
    ids=["items", "values of a key", "values of all keys", "UIDs of two keys"],
)
def test_lists_beyond_measure_are_no_identifier(keys: bytes) -> None:
    with pytest.raises(IdentifierRefused):
        parse(LEVEL + keys, IMPLICIT_VR_LITTLE_ENDIAN, LEVELS)


def read(data: bytes, syntax: str) -> Dataset:
    return read_dataset(io.BytesIO(data), syntax == IMPLICIT_VR_LITTLE_ENDIAN, True)


@pytest.mark.parametrize("syntax", [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN])
def test_an_item_with_values_that_break_form_does_not_end_the_query(syntax: str) -> None:
    inner = {"00280009": {"vr": "AT", "Value": ["00181063"]}, "00080100": {"vr": "SH", "Value": ["é"]}}
    item = {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 6"]},
        "00080050": {"vr": "SH", "Value": ["A"]},
        "00080201": {"vr": "SH"},
        "00181063": {"vr": "DS", "Value": ["none"]},
        "00200013": {"vr": "IS", "Value": ["one", 2]},
        "00280010": {"vr": "US", "Value": [70_000]},
        "00281201": {"vr": "OW", "InlineBinary": "AQIDBA=="},
        "00400275": {"vr": "SQ", "Value": [inner, {}]},
    }
    encoder = RowEncoder([Column(0x00280009, "AT"), Column(0x00400275, "SQ")], [], ["ISO 2022 IR 100"], syntax)
    ds = read(encoder.encode(("00181063\\00540010", json.dumps([item]))), syntax)
    assert ds.SpecificCharacterSet == "ISO_IR 100"
    assert [int(tag) for tag in ds.FrameIncrementPointer] == [0x00181063, 0x00540010]
    (found,) = ds.RequestAttributesSequence
    assert "SpecificCharacterSet" not in found
    assert (found.AccessionNumber, found.Rows) == ("A", None)
    assert bytes(found.get_item(0x00181063).value) == b"none"
    assert bytes(found.get_item(0x00200013).value) == b"one\\2 "
    assert bytes(found.get_item(0x00281201).value) == b"\1\2\3\4"
    first, second = found.RequestAttributesSequence
    assert (first.CodeValue, int(first.FrameIncrementPointer), len(second)) == ("é", 0x00181063, 0)


def test_an_attribute_tag_as_a_key_is_read_as_the_index_holds_it() -> None:
    (key,) = parse(LEVEL + element(0x0028, 0x0009, b"\x18\x00\x63\x10"), IMPLICIT_VR_LITTLE_ENDIAN, LEVELS).keys[1:]
    assert key.value == "00181063"
