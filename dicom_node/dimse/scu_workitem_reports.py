"""UPS Event on an association of our own: we are its provider (role selection, PS3.7 D.3.3.4), the subscriber takes what we report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dicom_node.dimse.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, UPS_EVENT
from dicom_node.dimse.errors import ContextNotAccepted, ProtocolError
from dicom_node.dimse.json_dataset import encode
from dicom_node.dimse.message import RESPONSE, decode_command, frame_command_split, frame_data_set
from dicom_node.dimse.scu import Requestor
from dicom_node.dimse.services.workitem_reports import event_report
from storage.workitem_events import Notice

CONTEXTS: Final[list[tuple[str, Sequence[str]]]] = [(UPS_EVENT, [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])]
PROVIDER_ROLE: Final = {UPS_EVENT: (False, True)}


class ReportAssociation:
    """An association on which a subscriber is told of events; raises ContextNotAccepted where it takes none."""

    def __init__(self, association: Requestor) -> None:
        accepted = {syntax: cid for (uid, syntax), cid in association.accepted.items() if uid == UPS_EVENT}
        if not accepted:
            raise ContextNotAccepted(UPS_EVENT)
        self._connection = association.connection
        self._max_pdu = association.max_pdu
        self._syntax, self._context_id = next(iter(accepted.items()))
        self._message_id = 0

    def report(self, notice: Notice) -> int:
        """Send an N-EVENT-REPORT and return the status that answers it; raises DimseError where the association is lost."""
        self._message_id = self._message_id % 0xFFFF + 1
        data = encode(notice.content, self._syntax)
        head = frame_command_split(self._context_id, event_report(notice)(self._message_id), self._max_pdu)
        self._connection.send(head + frame_data_set(self._context_id, data, self._max_pdu))
        received_on, raw = self._connection.read_command()
        command = decode_command(raw)
        if not command.field & RESPONSE or command.message_id != self._message_id or received_on != self._context_id:
            raise ProtocolError("a response to something else")
        if command.has_data_set:
            self._drop_data_set()
        return command.status

    def _drop_data_set(self) -> None:
        self._connection.expect_data_set()
        last = False
        while not last:
            _, last = self._connection.read_data(self._context_id)
