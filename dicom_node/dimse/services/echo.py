"""Verification (PS3.4 annex A)."""

from __future__ import annotations

from dicom_node.dimse.association import UNRECOGNIZED_OPERATION, Acceptor, Message
from dicom_node.dimse.message import C_ECHO_RQ

SUCCESS = 0x0000


class EchoService:
    """Answers C-ECHO; needs nothing and touches nothing."""

    def handle(self, association: Acceptor, message: Message) -> None:
        known = message.command.field == C_ECHO_RQ
        association.respond(message, SUCCESS if known else UNRECOGNIZED_OPERATION)
