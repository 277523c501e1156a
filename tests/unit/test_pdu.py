"""Association PDUs against pynetdicom's classes, and bytes that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import build_context
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import StoragePresentationContexts, negotiate_as_acceptor

from dicom_node.dimse import pdu
from dicom_node.dimse.contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES, Negotiator, answer_roles
from dicom_node.dimse.errors import ProtocolError

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"


def their_request() -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "CALLING", "CALLED"
    contexts = [build_context(CT, [IMPLICIT, EXPLICIT]), build_context(MR, [JPEG]), build_context("1.2.3.4", [IMPLICIT])]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    length, uid, version = MaximumLengthNotification(), ImplementationClassUIDNotification(), ImplementationVersionNameNotification()
    length.maximum_length_received, uid.implementation_class_uid, version.implementation_version_name = 16384, "1.2.3", "THEIRS"
    window, role, identity = AsynchronousOperationsWindowNegotiation(), SCP_SCU_RoleSelectionNegotiation(), UserIdentityNegotiation()
    window.maximum_number_operations_invoked, window.maximum_number_operations_performed = 5, 3
    role.sop_class_uid, role.scu_role, role.scp_role = CT, True, True
    identity.user_identity_type, identity.primary_field, identity.secondary_field = 2, b"name", b"secret"
    primitive.user_information = [length, uid, version, window, role, identity]
    request = A_ASSOCIATE_RQ()
    request.from_primitive(primitive)
    return bytes(request.encode())


def test_reads_what_pynetdicom_writes() -> None:
    request = pdu.parse_associate_request(their_request()[6:])
    assert (request.calling_ae, request.called_ae) == ("CALLING", "CALLED")
    assert request.contexts == (
        pdu.ProposedContext(1, CT, (IMPLICIT, EXPLICIT)),
        pdu.ProposedContext(3, MR, (JPEG,)),
        pdu.ProposedContext(5, "1.2.3.4", (IMPLICIT,)),
    )
    assert (request.user.max_length, request.user.implementation_class_uid) == (16384, "1.2.3")
    assert (request.user.implementation_version, request.user.async_window) == ("THEIRS", (5, 3))
    assert request.user.roles == {CT: (True, True)}
    assert request.user.identity == pdu.UserIdentity(2, False, b"name", b"secret")
    assert "secret" not in repr(request)


def test_pynetdicom_reads_what_we_write() -> None:
    proposed = (pdu.ProposedContext(1, CT, (IMPLICIT, EXPLICIT)), pdu.ProposedContext(3, MR, (JPEG,)))
    ours = pdu.encode_associate_request(pdu.AssociateRequest("CALLED", "CALLING", proposed, pdu.UserInformation(max_length=9)))
    request = A_ASSOCIATE_RQ()
    request.decode(ours)
    assert request.encode() == ours
    assert (request.called_ae_title, request.calling_ae_title) == ("CALLED", "CALLING")
    assert [item.abstract_syntax for item in request.presentation_context] == [CT, MR]
    assert request.user_information.maximum_length == 9


def test_pynetdicom_reads_our_accept_and_agrees_with_it() -> None:
    request = pdu.parse_associate_request(their_request()[6:])
    results = Negotiator([CT, MR]).answer(request.contexts)
    assert [result.result for result in results] == [0, 0, 3]
    user = pdu.UserInformation(max_length=131072, async_window=(1, 1), roles=answer_roles(request.user.roles, [CT]))
    data = pdu.encode_associate_accept(request, results, user)
    accept = A_ASSOCIATE_AC()
    accept.decode(data)
    assert accept.encode() == data
    assert {item.context_id: item.result for item in accept.presentation_context} == {1: 0, 3: 0, 5: 3}
    again = pdu.parse_associate_accept(data[6:])
    assert list(again.contexts) == results
    assert again.user.async_window == (1, 1)
    assert again.user.roles == {CT: (True, False)}


def test_negotiation_of_every_context_is_that_of_pynetdicom() -> None:
    theirs_supported = [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in STORAGE_CLASSES]
    proposed = [build_context(context.abstract_syntax, [JPEG, EXPLICIT, "1.2.3.4"]) for context in StoragePresentationContexts]
    proposed += [build_context("1.2.3.4", [IMPLICIT]), build_context(CT, ["1.2.3.4"])]
    for number, context in enumerate(proposed):
        context.context_id = 2 * number + 1
    theirs, _ = negotiate_as_acceptor(proposed, theirs_supported)
    ours = Negotiator(STORAGE_CLASSES).answer(
        [pdu.ProposedContext(c.context_id, c.abstract_syntax, tuple(c.transfer_syntax)) for c in proposed]
    )
    assert [(r.id, r.result, r.transfer_syntax) for r in ours] == [(c.context_id, c.result, c.transfer_syntax[0]) for c in theirs]


def test_reject_and_abort_are_pynetdicoms() -> None:
    reject = A_ASSOCIATE_RJ()
    reject.decode(pdu.encode_associate_reject(2, 3, 2))
    assert (reject.result, reject.source, reject.reason_diagnostic) == (2, 3, 2)
    abort = A_ABORT_RQ()
    abort.decode(pdu.encode_abort(2, 6))
    assert (abort.source, abort.reason_diagnostic) == (2, 6)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"  NODE  ", "NODE"),
        (b"NODE\0\0", "NODE"),
        (b"A\r\nB", "A\\x0d\\x0aB"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"\xc4\xff", "\\xc4\\xff"),
        (b" " * 16, ""),
    ],
)
def test_titles_are_printable(raw: bytes, text: str) -> None:
    assert pdu.printable(raw) == text


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (pdu.parse_associate_request, pdu.parse_associate_accept):
        try:
            parse(data)
        except ProtocolError:
            continue


@given(data=st.data())
def test_a_damaged_request_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(their_request()[6:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        pdu.parse_associate_request(bytes(body[: data.draw(st.integers(0, len(body)))]))
    except ProtocolError:
        return
