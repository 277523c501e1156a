"""Command sets against pynetdicom's, and what cannot be read."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dimse_messages import C_ECHO_RQ as EchoMessage
from pynetdicom.dimse_messages import C_STORE_RQ as StoreMessage
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dsutils import decode, encode

from dicom_node.dimse.errors import MalformedCommand
from dicom_node.dimse.message import (
    C_ECHO_RQ,
    C_STORE_RQ,
    decode_command,
    encode_command,
    encode_echo_request,
    encode_response,
    encode_store_request,
    frame_command,
    frame_command_split,
    us,
)

CT = "1.2.840.10008.5.1.4.1.1.2"


def as_dataset(data: bytes) -> Dataset:
    return decode(BytesIO(data), True, True)


def test_store_request_is_that_of_pynetdicom() -> None:
    primitive = C_STORE()
    primitive.MessageID, primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = 77, CT, "1.2.3"
    primitive.Priority = 0
    primitive.DataSet = BytesIO(b"12")
    message = StoreMessage()
    message.primitive_to_message(primitive)
    theirs = encode(message.command_set, True, True)
    assert theirs is not None
    ours = encode_store_request(77, CT, "1.2.3")
    assert as_dataset(ours) == as_dataset(theirs)
    assert len(ours) == len(theirs)
    command = decode_command(theirs)
    assert (command.field, command.message_id, command.sop_class_uid, command.sop_instance_uid) == (C_STORE_RQ, 77, CT, "1.2.3")
    assert command.has_data_set
    assert command.priority == 0


def test_echo_request_is_that_of_pynetdicom() -> None:
    primitive = C_ECHO()
    primitive.MessageID, primitive.AffectedSOPClassUID = 5, "1.2.840.10008.1.1"
    message = EchoMessage()
    message.primitive_to_message(primitive)
    theirs = encode(message.command_set, True, True)
    assert encode_echo_request(5) == theirs
    command = decode_command(encode_echo_request(5))
    assert command.field == C_ECHO_RQ
    assert not command.has_data_set
    assert not command.is_response


@given(status=st.integers(0, 0xFFFF), comment=st.text(max_size=100), message_id=st.integers(0, 0xFFFF))
def test_response_reads_back(status: int, comment: str, message_id: int) -> None:
    request = decode_command(encode_store_request(message_id, CT, "1.2.3"))
    data = encode_response(request, status, comment)
    answer = decode_command(data)
    assert answer.is_response
    assert (answer.field, answer.message_id, answer.status) == (0x8001, message_id, status)
    assert (answer.sop_class_uid, answer.sop_instance_uid, answer.has_data_set) == (CT, "1.2.3", False)
    assert len(answer.elements.get(0x0902, b"")) <= 64
    assert len(data) % 2 == 0
    assert int.from_bytes(answer.elements[0], "little") == len(data) - 12
    ds = as_dataset(data)
    assert ds.Status == status
    assert ds.MessageIDBeingRespondedTo == message_id


@pytest.mark.parametrize("padding", ["", "\0", " ", "\0\0", "  "])
def test_uid_padding_of_any_kind_is_removed(padding: str) -> None:
    command = decode_command(
        encode_command([(0x0002, (CT + padding).encode()), (0x0100, us(1)), (0x0110, us(1)), (0x0800, us(1)), (0x1000, b"1.02.3\0")])
    )
    assert command.sop_class_uid == CT
    assert command.sop_instance_uid == "1.02.3"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        encode_store_request(1, CT, "1.2.3")[:-1],
        encode_command([(0x0100, us(1)), (0x0110, us(1))]),
        encode_command([(0x0110, us(1)), (0x0800, us(1))]),
        encode_command([(0x0100, b""), (0x0110, us(1)), (0x0800, us(1))]),
        b"\x00\x08\x05\x00" + b"\0" * 4,
        b"\0\0\0\1\xff\xff\xff\xff",
    ],
)
def test_unreadable(data: bytes) -> None:
    with pytest.raises(MalformedCommand):
        decode_command(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        decode_command(data)
    except MalformedCommand:
        return


@pytest.mark.parametrize("max_length", [0, 1, 7, 12, 100, 20_000])
def test_a_command_fits_the_peers_maximum(max_length: int) -> None:
    command = encode_store_request(1, CT, "1.2.3")
    framed = frame_command_split(3, command, max_length)
    if max_length in (0, 20_000):
        assert framed == frame_command(3, command)
    position, joined, last = 0, b"", False
    while position < len(framed):
        assert not last
        length = int.from_bytes(framed[position + 2 : position + 6], "big")
        assert length <= max(max_length, 7) or not max_length
        assert framed[position + 10] == 3
        last = framed[position + 11] == 3
        joined += framed[position + 12 : position + 6 + length]
        position += 6 + length
    assert last
    assert joined == command


def test_a_comment_is_one_line_of_ascii() -> None:
    request = decode_command(encode_store_request(1, CT, "1.2.3"))
    assert decode_command(encode_response(request, 0xC000, "a\\b\r\nc\x1bü")).error_comment == "a b  c ?"
