"""Command sets of the normalized services (PS3.7 chapter 10) as bytes: N-ACTION and N-EVENT-REPORT."""

from __future__ import annotations

from typing import Final

from dicom_node.dimse.message import DATA_SET, N_ACTION_RQ, N_EVENT_REPORT_RQ, NO_DATA_SET, RESPONSE, Command, encode_command, even, us

# Statuses that only normalized services use (PS3.7 annex C).
NO_SUCH_SOP_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
INVALID_ARGUMENT: Final = 0x0115
NO_SUCH_SOP_CLASS: Final = 0x0118
NO_SUCH_ACTION: Final = 0x0123
RESOURCE_LIMITATION: Final = 0x0213

EVENT_TYPE: Final = 0x1002
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
_TYPE_OF: Final = {N_EVENT_REPORT_RQ: EVENT_TYPE, N_ACTION_RQ: ACTION_TYPE}


def type_id(command: Command) -> int | None:
    """The Event Type ID or Action Type ID of a request; None where there is none."""
    value = command.elements.get(_TYPE_OF.get(command.field, 0), b"")
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


def encode_normalized_response(request: Command, status: int, comment: str = "") -> bytes:
    """The response to a normalized request, without a data set: Affected SOP Class and Instance UID and the type as they were asked for."""
    elements = [
        (_AFFECTED_CLASS, _uid(request.sop_class_uid)),
        (_FIELD, us(request.field | RESPONSE)),
        (_MESSAGE_ID_RESPONDED, us(request.message_id)),
        (_DATA_SET_TYPE, us(NO_DATA_SET)),
        (_STATUS, us(status)),
    ]
    if comment:
        elements.append((_COMMENT, even(comment[:64].encode("ascii", "replace"), b" ")))
    elements.append((_AFFECTED_INSTANCE, _uid(request.sop_instance_uid)))
    kind = type_id(request)
    if kind is not None:
        elements.append((_TYPE_OF[request.field], us(kind)))
    return encode_command(elements)


def _uid(value: str) -> bytes:
    return even(value[:64].encode("ascii", "replace"))
