"""Command sets of the normalized services (PS3.7 chapter 10) as bytes."""

from __future__ import annotations

from struct import Struct
from typing import Final

from dicom_node.dimse.message import DATA_SET, N_ACTION_RQ, N_EVENT_REPORT_RQ, NO_DATA_SET, RESPONSE, Command, encode_command, even, us

# Statuses that only normalized services use (PS3.7 annex C).
NO_SUCH_SOP_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
INVALID_ARGUMENT: Final = 0x0115
NO_SUCH_SOP_CLASS: Final = 0x0118
NO_SUCH_ACTION: Final = 0x0123
MISTYPED_ARGUMENT: Final = 0x0212
RESOURCE_LIMITATION: Final = 0x0213

EVENT_TYPE: Final = 0x1002
ATTRIBUTE_IDENTIFIERS: Final = 0x1005
ACTION_TYPE: Final = 0x1008
_AFFECTED_CLASS: Final = 0x0002
_REQUESTED_CLASS: Final = 0x0003
_FIELD: Final = 0x0100
_MESSAGE_ID: Final = 0x0110
_MESSAGE_ID_RESPONDED: Final = 0x0120
_DATA_SET_TYPE: Final = 0x0800
_STATUS: Final = 0x0900
_COMMENT: Final = 0x0902
_AFFECTED_INSTANCE: Final = 0x1000
_REQUESTED_INSTANCE: Final = 0x1001
_TAG: Final = Struct("<HH")
_TYPE_OF: Final = {N_EVENT_REPORT_RQ: EVENT_TYPE, N_ACTION_RQ: ACTION_TYPE}


def type_id(command: Command) -> int | None:
    """The Event Type ID or Action Type ID of a request; None where there is none."""
    element = _TYPE_OF.get(command.field)
    value = command.elements.get(element, b"") if element is not None else b""
    return int.from_bytes(value[:2], "little") if len(value) >= 2 else None


def encode_action_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, action_type: int) -> bytes:
    """N-ACTION-RQ with a data set (PS3.7 table 10.3-7)."""
    return encode_command(
        [
            (_REQUESTED_CLASS, _uid(sop_class_uid)),
            (_FIELD, us(N_ACTION_RQ)),
            (_MESSAGE_ID, us(message_id)),
            (_DATA_SET_TYPE, us(DATA_SET)),
            (_REQUESTED_INSTANCE, _uid(sop_instance_uid)),
            (ACTION_TYPE, us(action_type)),
        ]
    )


def encode_event_report_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type: int) -> bytes:
    """N-EVENT-REPORT-RQ with a data set (PS3.7 table 10.3-1)."""
    return encode_command(
        [
            (_AFFECTED_CLASS, _uid(sop_class_uid)),
            (_FIELD, us(N_EVENT_REPORT_RQ)),
            (_MESSAGE_ID, us(message_id)),
            (_DATA_SET_TYPE, us(DATA_SET)),
            (_AFFECTED_INSTANCE, _uid(sop_instance_uid)),
            (EVENT_TYPE, us(event_type)),
        ]
    )


def attribute_identifiers(command: Command) -> list[int]:
    """The tags of an N-GET-RQ's Attribute Identifier List; none of them: every attribute is meant (PS3.7 table 10.3-3).

    Raises
    ------
    ValueError
        It holds a part of a tag.
    """
    value = command.elements.get(ATTRIBUTE_IDENTIFIERS, b"")
    if len(value) % 4:
        raise ValueError("the Attribute Identifier List holds a part of a tag")
    return [group << 16 | element for group, element in _TAG.iter_unpack(value)]


def encode_normalized_response(
    request: Command, status: int, comment: str = "", *, sop_instance_uid: str | None = None, has_data_set: bool = False
) -> bytes:
    """The response to a normalized request: Affected SOP Class and Instance UID and the type as they were asked for.

    ``sop_instance_uid`` is that of what an N-CREATE made, where the request named none.
    """
    elements = [
        (_AFFECTED_CLASS, _uid(request.sop_class_uid)),
        (_FIELD, us(request.field | RESPONSE)),
        (_MESSAGE_ID_RESPONDED, us(request.message_id)),
        (_DATA_SET_TYPE, us(DATA_SET if has_data_set else NO_DATA_SET)),
        (_STATUS, us(status)),
    ]
    if comment:
        elements.append((_COMMENT, even(comment[:64].encode("ascii", "replace"), b" ")))
    elements.append((_AFFECTED_INSTANCE, _uid(sop_instance_uid or request.sop_instance_uid)))
    kind = type_id(request)
    if kind is not None:
        elements.append((_TYPE_OF[request.field], us(kind)))
    return encode_command(elements)


def _uid(value: str) -> bytes:
    return even(value[:64].encode("ascii", "replace"))
