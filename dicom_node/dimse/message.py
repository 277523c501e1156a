"""Command sets (PS3.7 6.3 and annex E) as bytes: group 0000, implicit VR little endian.

Nothing here knows a socket. A command set comes in as the bytes of its PDVs and becomes a :class:`Command`;
an answer leaves as the bytes of one P-DATA-TF PDU.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from dicom_node.dimse.errors import MalformedCommand

C_STORE_RQ: Final = 0x0001
C_GET_RQ: Final = 0x0010
C_FIND_RQ: Final = 0x0020
C_MOVE_RQ: Final = 0x0021
C_ECHO_RQ: Final = 0x0030
N_EVENT_REPORT_RQ: Final = 0x0100
N_GET_RQ: Final = 0x0110
N_SET_RQ: Final = 0x0120
N_ACTION_RQ: Final = 0x0130
N_CREATE_RQ: Final = 0x0140
C_CANCEL_RQ: Final = 0x0FFF
RESPONSE: Final = 0x8000
NO_DATA_SET: Final = 0x0101
DATA_SET: Final = 0x0001
MAX_COMMAND: Final = 65_536
"""Longest command set taken, in bytes; real ones have some hundred."""

_GROUP_LENGTH: Final = 0x0000
_AFFECTED_CLASS: Final = 0x0002
_REQUESTED_CLASS: Final = 0x0003
_FIELD: Final = 0x0100
_MESSAGE_ID: Final = 0x0110
_MESSAGE_ID_RESPONDED: Final = 0x0120
_MOVE_DESTINATION: Final = 0x0600
_PRIORITY: Final = 0x0700
_DATA_SET_TYPE: Final = 0x0800
_STATUS: Final = 0x0900
_COMMENT: Final = 0x0902
_AFFECTED_INSTANCE: Final = 0x1000
_REQUESTED_INSTANCE: Final = 0x1001
_REMAINING: Final = 0x1020
_COMPLETED: Final = 0x1021
_FAILED: Final = 0x1022
_WARNING: Final = 0x1023
_ORIGINATOR: Final = 0x1030
_ORIGINATOR_ID: Final = 0x1031

_unpack_element = Struct("<LL").unpack_from
_pack_element = Struct("<HHL").pack
_unpack_us = Struct("<H").unpack_from
_pack_us = Struct("<HHLH").pack
_pack_ul = Struct("<HHLL").pack
_pack_response = Struct("<HHLHHHLHHHLH").pack  # message id responded, data set type, status
_pack_pdu = Struct(">BBLLBB").pack

_COMMAND_LAST: Final = 0x03
_DATA_LAST: Final = 0x02
_LONGEST: Final = 262_144


class SubOperations(NamedTuple):
    """The sub-operations of a retrieve: how many are to come, and how the others ended."""

    remaining: int = 0
    completed: int = 0
    failed: int = 0
    warning: int = 0


class Command(NamedTuple):
    """One command set.

    ``message_id`` is the Message ID of a request and the Message ID Being Responded To of a response.
    ``elements`` has every element as received, by element number.
    """

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool
    elements: dict[int, bytes]

    @property
    def is_response(self) -> bool:
        return bool(self.field & RESPONSE) and self.field != C_CANCEL_RQ

    @property
    def status(self) -> int:
        return _us(self.elements, _STATUS)

    @property
    def priority(self) -> int:
        return _us(self.elements, _PRIORITY, 0)

    @property
    def move_destination(self) -> str:
        return text_value(self.elements.get(_MOVE_DESTINATION, b""))

    @property
    def sub_operations(self) -> SubOperations:
        """The counts of a C-MOVE or C-GET response; one that is not there is 0."""
        return SubOperations(*(_us(self.elements, each, 0) for each in (_REMAINING, _COMPLETED, _FAILED, _WARNING)))

    @property
    def error_comment(self) -> str:
        return text_value(self.elements.get(_COMMENT, b""))


def decode_command(data: bytes) -> Command:
    """Read a command set.

    Raises
    ------
    MalformedCommand
        Lengths that do not fit, an element outside group 0000, or no Command Field, Message ID or Data Set Type.
    """
    elements: dict[int, bytes] = {}
    position, end = 0, len(data)
    while position < end:
        if end - position < 8:
            raise MalformedCommand("command set ends inside an element")
        tag, length = _unpack_element(data, position)
        if tag & 0xFFFF:
            raise MalformedCommand("command set has an element outside group 0000")
        position += 8
        if length > end - position:
            raise MalformedCommand("command set has an element longer than itself")
        elements[tag >> 16] = data[position : position + length]
        position += length
    field = _us(elements, _FIELD)
    message_id = 0
    if field & RESPONSE or field == C_CANCEL_RQ:
        message_id = _us(elements, _MESSAGE_ID_RESPONDED)
    else:
        message_id = _us(elements, _MESSAGE_ID)
    return Command(
        field,
        message_id,
        uid_value(elements.get(_AFFECTED_CLASS) or elements.get(_REQUESTED_CLASS, b"")),
        uid_value(elements.get(_AFFECTED_INSTANCE) or elements.get(_REQUESTED_INSTANCE, b"")),
        _us(elements, _DATA_SET_TYPE) != NO_DATA_SET,
        elements,
    )


def _us(elements: dict[int, bytes], element: int, default: int | None = None) -> int:
    value = elements.get(element)
    if value is None and default is not None:
        return default
    if value is None or len(value) < 2:
        raise MalformedCommand(f"command set without a value of (0000,{element:04X})")
    return int(_unpack_us(value)[0])


def uid_value(raw: bytes) -> str:
    """Decode a UID, its padding removed, whatever was used as padding."""
    return raw.decode("ascii", "backslashreplace").strip(" \0")


def text_value(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace").strip(" \0")


def encode_command(elements: list[tuple[int, bytes]]) -> bytes:
    """Write a command set from element numbers and values, in ascending order, with its group length."""
    body = b"".join(_pack_element(0, element, len(value)) + value for element, value in elements)
    return _pack_ul(0, _GROUP_LENGTH, 4, len(body)) + body


def even(value: bytes, pad: bytes = b"\0") -> bytes:
    """Pad a value to even length."""
    return value + pad if len(value) & 1 else value


def us(value: int) -> bytes:
    return value.to_bytes(2, "little")


@lru_cache(maxsize=512)
def _response_head(request_field: int, sop_class_uid: str) -> bytes:
    head = b""
    if sop_class_uid:
        value = even(sop_class_uid.encode("ascii", "replace"))
        head = _pack_element(0, _AFFECTED_CLASS, len(value)) + value
    return head + _pack_us(0, _FIELD, 2, request_field | RESPONSE)


def encode_response(request: Command, status: int, comment: str = "", *, has_data_set: bool = False) -> bytes:
    """Write the command set that answers a request.

    ``comment`` becomes Error Comment (0000,0902), an LO of at most 64 characters.
    """
    body = _response_head(request.field, request.sop_class_uid) + _pack_response(
        0, _MESSAGE_ID_RESPONDED, 2, request.message_id,
        0, _DATA_SET_TYPE, 2, DATA_SET if has_data_set else NO_DATA_SET,
        0, _STATUS, 2, status,
    )  # fmt: skip
    if comment:
        value = _comment_value(comment)
        body += _pack_element(0, _COMMENT, len(value)) + value
    if request.field == C_STORE_RQ and request.sop_instance_uid:
        value = even(request.sop_instance_uid.encode("ascii", "replace"))
        body += _pack_element(0, _AFFECTED_INSTANCE, len(value)) + value
    return _pack_ul(0, _GROUP_LENGTH, 4, len(body)) + body


def _comment_value(comment: str) -> bytes:
    """An LO: one line, no backslash, 64 characters, and ASCII because a command set names no character set."""
    text = "".join(c if c.isprintable() and c != "\\" else " " for c in comment[:64])
    return even(text.encode("ascii", "replace"), b" ")


@lru_cache(maxsize=512)
def _request_head(field: int, sop_class_uid: str) -> bytes:
    value = even(sop_class_uid.encode("ascii"))
    return _pack_element(0, _AFFECTED_CLASS, len(value)) + value + _pack_us(0, _FIELD, 2, field)


def encode_echo_request(message_id: int) -> bytes:
    body = (
        _request_head(C_ECHO_RQ, "1.2.840.10008.1.1")
        + _pack_us(0, _MESSAGE_ID, 2, message_id)
        + _pack_us(0, _DATA_SET_TYPE, 2, NO_DATA_SET)
    )
    return _pack_ul(0, _GROUP_LENGTH, 4, len(body)) + body


def encode_retrieve_response(
    request: Command, status: int, counts: SubOperations, comment: str = "", *, has_data_set: bool = False, remaining: bool = False
) -> bytes:
    """Write the response to a C-MOVE or C-GET; ``remaining`` says whether that count is in it, as in pending and canceled ones it is."""
    body = encode_response(request, status, comment, has_data_set=has_data_set)[12:]
    elements = zip((_REMAINING, _COMPLETED, _FAILED, _WARNING), counts)
    body += b"".join(_pack_us(0, element, 2, min(count, 0xFFFF)) for element, count in elements if remaining or element != _REMAINING)
    return _pack_ul(0, _GROUP_LENGTH, 4, len(body)) + body


def encode_retrieve_request(message_id: int, sop_class_uid: str, *, destination: str | None = None, priority: int = 0) -> bytes:
    """Write a C-MOVE-RQ to a destination, or a C-GET-RQ where there is none; its identifier follows."""
    body = _request_head(C_GET_RQ if destination is None else C_MOVE_RQ, sop_class_uid) + _pack_us(0, _MESSAGE_ID, 2, message_id)
    if destination is not None:
        value = even(destination.encode("ascii", "replace"), b" ")
        body += _pack_element(0, _MOVE_DESTINATION, len(value)) + value
    body += _pack_us(0, _PRIORITY, 2, priority) + _pack_us(0, _DATA_SET_TYPE, 2, DATA_SET)
    return _pack_ul(0, _GROUP_LENGTH, 4, len(body)) + body


def encode_find_request(message_id: int, sop_class_uid: str, *, priority: int = 0) -> bytes:
    """Write a C-FIND-RQ; its identifier follows."""
    body = _request_head(C_FIND_RQ, sop_class_uid) + _pack_us(0, _MESSAGE_ID, 2, message_id)
    body += _pack_us(0, _PRIORITY, 2, priority) + _pack_us(0, _DATA_SET_TYPE, 2, DATA_SET)
    return _pack_ul(0, _GROUP_LENGTH, 4, len(body)) + body


def encode_store_request(
    message_id: int, sop_class_uid: str, sop_instance_uid: str, priority: int = 0, *, originator: tuple[str, int] | None = None
) -> bytes:
    """Write a C-STORE-RQ; ``originator`` is the AE title and the Message ID of the C-MOVE that it belongs to."""
    value = even(sop_instance_uid.encode("ascii"))
    body = (
        _request_head(C_STORE_RQ, sop_class_uid)
        + _pack_us(0, _MESSAGE_ID, 2, message_id)
        + _pack_us(0, _PRIORITY, 2, priority)
        + _pack_us(0, _DATA_SET_TYPE, 2, DATA_SET)
        + _pack_element(0, _AFFECTED_INSTANCE, len(value))
        + value
    )
    if originator is not None:
        title = even(originator[0].encode("ascii", "replace"), b" ")
        body += _pack_element(0, _ORIGINATOR, len(title)) + title + _pack_us(0, _ORIGINATOR_ID, 2, originator[1])
    return _pack_ul(0, _GROUP_LENGTH, 4, len(body)) + body


def frame_command(context_id: int, command: bytes) -> bytes:
    """One P-DATA-TF PDU that holds one whole command set."""
    length = len(command)
    return _pack_pdu(4, 0, length + 6, length + 2, context_id, _COMMAND_LAST) + command


def frame_data_set(context_id: int, data: bytes, max_length: int) -> bytes:
    """A short data set in as many P-DATA-TF PDUs as the peer's maximum length asks for; longest fragment 256 KiB."""
    step = max(min(max_length or _LONGEST, _LONGEST) - 6 & ~1, 2)
    parts = []
    for start in range(0, len(data) or 1, step):
        piece = data[start : start + step]
        control = _DATA_LAST if start + step >= len(data) else 0
        parts.append(_pack_pdu(4, 0, len(piece) + 6, len(piece) + 2, context_id, control) + piece)
    return b"".join(parts)


def frame_command_split(context_id: int, command: bytes, max_length: int) -> bytes:
    """A command set in as many PDUs as the peer's maximum length asks for."""
    if not max_length or len(command) + 6 <= max_length:
        return frame_command(context_id, command)
    step = max(max_length - 6, 1)
    parts = []
    for start in range(0, len(command), step):
        piece = command[start : start + step]
        control = _COMMAND_LAST if start + step >= len(command) else 0x01
        parts.append(_pack_pdu(4, 0, len(piece) + 6, len(piece) + 2, context_id, control) + piece)
    return b"".join(parts)
