"""Association PDUs (PS3.8 9.3) to and from small frozen types.

pynetdicom has the same PDUs as classes; decoding, negotiating and answering the 120 contexts that common senders
propose took it about 14 ms, which one association per instance cannot pay. The tests hold both to the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

from dicom_node.dimse.errors import REASON_INVALID_PARAMETER, ProtocolError

ASSOCIATE_RQ: Final = 1
ASSOCIATE_AC: Final = 2
ASSOCIATE_RJ: Final = 3
P_DATA: Final = 4
RELEASE_RQ: Final = 5
RELEASE_RP: Final = 6
ABORT: Final = 7

IMPLEMENTATION_CLASS_UID: Final = "2.25.309477082441411176053179536836556028423"
IMPLEMENTATION_VERSION: Final = "DICOM_NODE_0.1"

_item = Struct(">BxH")
_u16 = Struct(">H")
_u32 = Struct(">L")

RELEASE_RQ_PDU: Final = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
RELEASE_RP_PDU: Final = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"


class ProposedContext(NamedTuple):
    """A presentation context as proposed."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


class ContextResult(NamedTuple):
    """A presentation context as answered; the transfer syntax counts only where ``result`` is 0."""

    id: int
    result: int
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """User identity (PS3.7 D.3.3.7). Never logged."""

    kind: int
    response_requested: bool
    primary: bytes = field(repr=False)
    secondary: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class UserInformation:
    """The user information item of both A-ASSOCIATE PDUs (PS3.7 D.3.3)."""

    max_length: int = 0
    implementation_class_uid: str = IMPLEMENTATION_CLASS_UID
    implementation_version: str = IMPLEMENTATION_VERSION
    async_window: tuple[int, int] | None = None
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    identity: UserIdentity | None = None
    extended: Mapping[str, bytes] = field(default_factory=dict)
    """Service class application information by SOP class (PS3.7 D.3.3.5)."""


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """A-ASSOCIATE-RQ."""

    called_ae: str
    calling_ae: str
    contexts: tuple[ProposedContext, ...]
    user: UserInformation
    application_context: str = "1.2.840.10008.3.1.1.1"
    protocol_version: int = 1
    raw_titles: bytes = b""
    """Both titles and the reserved field as received: an A-ASSOCIATE-AC sends them back unchanged."""


@dataclass(frozen=True, slots=True)
class AssociateAccept:
    """A-ASSOCIATE-AC."""

    contexts: tuple[ContextResult, ...]
    user: UserInformation


def printable(raw: bytes) -> str:
    """An AE title fit for a log line and a comparison: padding removed, everything odd escaped."""
    text = raw.decode("ascii", "backslashreplace").strip(" \0")
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _uid(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace").strip(" \0")


def _items(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    while position < end:
        if end - position < 4:
            raise ProtocolError("PDU ends inside an item", REASON_INVALID_PARAMETER)
        kind, length = _item.unpack_from(data, position)
        position += 4
        if length > end - position:
            raise ProtocolError("PDU has an item longer than itself", REASON_INVALID_PARAMETER)
        yield kind, position, position + length
        position += length


def parse_associate_request(body: bytes) -> AssociateRequest:
    """Read an A-ASSOCIATE-RQ from the bytes behind its PDU header.

    Raises
    ------
    ProtocolError
        Lengths that do not fit, or something that must be there is not.
    """
    version, called, calling, _reserved = _fixed_part(body)
    contexts: list[ProposedContext] = []
    user, application = UserInformation(implementation_class_uid="", implementation_version=""), ""
    for kind, start, end in _items(body, 68, len(body)):
        if kind == 0x20:
            contexts.append(_proposed_context(body, start, end))
        elif kind == 0x50:
            user = _user_information(body, start, end)
        elif kind == 0x10:
            application = _uid(body[start:end])
    return AssociateRequest(printable(called), printable(calling), tuple(contexts), user, application, version, body[4:68])


def _fixed_part(body: bytes) -> tuple[int, bytes, bytes, bytes]:
    if len(body) < 68:
        raise ProtocolError("A-ASSOCIATE PDU too short", REASON_INVALID_PARAMETER)
    version = _u16.unpack_from(body, 0)[0]
    return version, body[4:20], body[20:36], body[36:68]


def _proposed_context(data: bytes, start: int, end: int) -> ProposedContext:
    if end - start < 4:
        raise ProtocolError("presentation context too short", REASON_INVALID_PARAMETER)
    abstract, transfer = "", []
    for kind, first, last in _items(data, start + 4, end):
        if kind == 0x40:
            transfer.append(_uid(data[first:last]))
        elif kind == 0x30:
            abstract = _uid(data[first:last])
    return ProposedContext(data[start], abstract, tuple(transfer))


def _user_information(data: bytes, start: int, end: int) -> UserInformation:
    max_length, class_uid, version = 0, "", ""
    window: tuple[int, int] | None = None
    roles: dict[str, tuple[bool, bool]] = {}
    identity: UserIdentity | None = None
    extended: dict[str, bytes] = {}
    for kind, first, last in _items(data, start, end):
        value = data[first:last]
        if kind == 0x51 and len(value) >= 4:
            max_length = _u32.unpack_from(value)[0]
        elif kind == 0x52:
            class_uid = _uid(value)
        elif kind == 0x53 and len(value) >= 4:
            window = (_u16.unpack_from(value)[0], _u16.unpack_from(value, 2)[0])
        elif kind == 0x54:
            roles.update(_role(value))
        elif kind == 0x55:
            version = printable(value)
        elif kind == 0x56:
            extended.update(_extended(value))
        elif kind == 0x58:
            identity = _identity(value)
    return UserInformation(max_length, class_uid, version, window, roles, identity, extended)


def _role(value: bytes) -> dict[str, tuple[bool, bool]]:
    length = _u16.unpack_from(value)[0] if len(value) >= 2 else 0
    if len(value) < 4 + length:
        raise ProtocolError("role selection item too short", REASON_INVALID_PARAMETER)
    return {_uid(value[2 : 2 + length]): (bool(value[2 + length]), bool(value[3 + length]))}


def _extended(value: bytes) -> dict[str, bytes]:
    length = _u16.unpack_from(value)[0] if len(value) >= 2 else 0
    if len(value) < 2 + length or not length:
        raise ProtocolError("extended negotiation item too short", REASON_INVALID_PARAMETER)
    return {_uid(value[2 : 2 + length]): value[2 + length :]}


def _identity(value: bytes) -> UserIdentity:
    try:
        length = _u16.unpack_from(value, 2)[0]
        second = _u16.unpack_from(value, 4 + length)[0]
    except (StructError, IndexError) as error:
        raise ProtocolError("user identity item too short", REASON_INVALID_PARAMETER) from error
    start = 6 + length
    return UserIdentity(value[0], bool(value[1]), value[4 : 4 + length], value[start : start + second])


def parse_associate_accept(body: bytes) -> AssociateAccept:
    """Read an A-ASSOCIATE-AC from the bytes behind its PDU header."""
    _fixed_part(body)
    contexts: list[ContextResult] = []
    user = UserInformation()
    for kind, start, end in _items(body, 68, len(body)):
        if kind == 0x21:
            contexts.append(_context_result(body, start, end))
        elif kind == 0x50:
            user = _user_information(body, start, end)
    return AssociateAccept(tuple(contexts), user)


def _context_result(data: bytes, start: int, end: int) -> ContextResult:
    if end - start < 4:
        raise ProtocolError("presentation context too short", REASON_INVALID_PARAMETER)
    transfer = ""
    for kind, first, last in _items(data, start + 4, end):
        if kind == 0x40:
            transfer = _uid(data[first:last])
    return ContextResult(data[start], data[start + 2], transfer)


def _item_bytes(kind: int, value: bytes) -> bytes:
    return _item.pack(kind, len(value)) + value


def _title(title: str) -> bytes:
    return title.encode("ascii", "replace")[:16].ljust(16)


def _encode_user(user: UserInformation) -> bytes:
    parts = [_item_bytes(0x51, _u32.pack(user.max_length)), _item_bytes(0x52, user.implementation_class_uid.encode())]
    if user.async_window is not None:
        parts.append(_item_bytes(0x53, _u16.pack(user.async_window[0]) + _u16.pack(user.async_window[1])))
    for uid, (scu, scp) in user.roles.items():
        parts.append(_item_bytes(0x54, _u16.pack(len(uid)) + uid.encode() + bytes((scu, scp))))
    for uid, information in user.extended.items():
        parts.append(_item_bytes(0x56, _u16.pack(len(uid)) + uid.encode() + information))
    if user.implementation_version:
        parts.append(_item_bytes(0x55, user.implementation_version.encode()[:16]))
    return _item_bytes(0x50, b"".join(parts))


def _pdu(kind: int, body: bytes) -> bytes:
    return bytes((kind, 0)) + _u32.pack(len(body)) + body


def encode_associate_request(request: AssociateRequest) -> bytes:
    contexts = b"".join(
        _item_bytes(
            0x20,
            bytes((context.id, 0, 0, 0))
            + _item_bytes(0x30, context.abstract_syntax.encode())
            + b"".join(_item_bytes(0x40, uid.encode()) for uid in context.transfer_syntaxes),
        )
        for context in request.contexts
    )
    titles = _title(request.called_ae) + _title(request.calling_ae) + bytes(32)
    application = _item_bytes(0x10, request.application_context.encode())
    return _pdu(ASSOCIATE_RQ, b"\x00\x01\x00\x00" + titles + application + contexts + _encode_user(request.user))


def encode_associate_accept(request: AssociateRequest, contexts: Sequence[ContextResult], user: UserInformation) -> bytes:
    items = b"".join(
        _item_bytes(0x21, bytes((context.id, 0, context.result, 0)) + _item_bytes(0x40, context.transfer_syntax.encode("ascii", "replace")))
        for context in contexts
    )
    application = _item_bytes(0x10, request.application_context.encode())
    return _pdu(ASSOCIATE_AC, b"\x00\x01\x00\x00" + request.raw_titles + application + items + _encode_user(user))


def encode_associate_reject(result: int, source: int, reason: int) -> bytes:
    return bytes((ASSOCIATE_RJ, 0, 0, 0, 0, 4, 0, result, source, reason))


def encode_abort(source: int, reason: int) -> bytes:
    return bytes((ABORT, 0, 0, 0, 0, 4, 0, 0, source, reason))
