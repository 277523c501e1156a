"""Errors of the DICOM network layer.

::

    DimseError
    ├── ConnectFailed            TCP: nobody listens, no route, no name
    ├── TlsFailed                TLS: certificate, protocol, no handshake
    ├── Timeout                  a deadline passed; ``step`` says in what
    ├── AssociationRejected      the peer said no, and why
    ├── AssociationAborted       the peer aborted
    │   └── ConnectionLost       the peer went away without a word
    ├── AssociationReleased      the peer released while an answer was awaited
    ├── ContextNotAccepted       the peer takes no such SOP class or transfer syntax
    ├── IdentifierTooLong        a request's identifier is beyond what is read; the association goes on
    └── ProtocolError            the peer broke PS3.7 or PS3.8; answered by an A-ABORT
        └── MalformedCommand     a command set that cannot be read

Every one carries ``step``, the part that failed: ``tcp``, ``tls``, ``association``, ``echo``, ``store`` or ``receive``.
"""

from __future__ import annotations

from typing import Final

ABORT_BY_USER: Final = 0
ABORT_BY_PROVIDER: Final = 2

REASON_NOT_SPECIFIED: Final = 0
REASON_UNRECOGNIZED_PDU: Final = 1
REASON_UNEXPECTED_PDU: Final = 2
REASON_UNRECOGNIZED_PARAMETER: Final = 4
REASON_UNEXPECTED_PARAMETER: Final = 5
REASON_INVALID_PARAMETER: Final = 6

_REJECT_REASONS: Final = {
    (1, 1): "no reason given",
    (1, 2): "application context not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


class DimseError(Exception):
    """Anything that went wrong on an association."""

    step = "association"

    def __init__(self, message: str, *, step: str | None = None) -> None:
        super().__init__(message)
        if step is not None:
            self.step = step


class ConnectFailed(DimseError):
    """No TCP connection."""

    step = "tcp"


class TlsFailed(DimseError):
    """No TLS session on the TCP connection."""

    step = "tls"


class Timeout(DimseError):
    """A deadline passed."""


class AssociationRejected(DimseError):
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        self.result = result
        self.source = source
        self.reason = reason
        kind = "transient" if result == 2 else "permanent"
        text = _REJECT_REASONS.get((source, reason), f"reason {reason}")
        super().__init__(f"association rejected ({kind}): {text}")

    @property
    def transient(self) -> bool:
        return self.result == 2


class AssociationAborted(DimseError):
    """A-ABORT (PS3.8 9.3.8)."""

    def __init__(self, source: int = ABORT_BY_USER, reason: int = REASON_NOT_SPECIFIED, message: str = "") -> None:
        self.source = source
        self.reason = reason
        super().__init__(message or f"association aborted by the peer (source {source}, reason {reason})")


class ConnectionLost(AssociationAborted):
    """The connection ended without release or abort."""

    def __init__(self, message: str = "connection closed by the peer") -> None:
        super().__init__(ABORT_BY_PROVIDER, REASON_NOT_SPECIFIED, message)


class AssociationReleased(DimseError):
    """A-RELEASE-RQ where it was not expected, or as the regular end on the acceptor's side."""


class ContextNotAccepted(DimseError):
    """No accepted presentation context for a SOP class in a transfer syntax."""

    def __init__(self, sop_class_uid: str, transfer_syntax_uid: str = "") -> None:
        self.sop_class_uid = sop_class_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        what = sop_class_uid + (f" in {transfer_syntax_uid}" if transfer_syntax_uid else "")
        super().__init__(f"the peer accepted no presentation context for {what}")


class IdentifierTooLong(DimseError):
    """An identifier beyond what is read of one; to be answered with a failure status."""


class ProtocolError(DimseError):
    """The peer broke the protocol; ``reason`` goes into the A-ABORT."""

    def __init__(self, message: str, reason: int = REASON_INVALID_PARAMETER) -> None:
        self.reason = reason
        super().__init__(message, step="receive")


class MalformedCommand(ProtocolError):
    """A command set that cannot be read."""
