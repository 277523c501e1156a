"""Workitems by DIMSE (PS3.4 annex CC), with pynetdicom as manager, as performer and as watcher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from dicom_node.dimse.contexts import UPS_PULL, UPS_PUSH, UPS_WATCH
from dicom_node.dimse.message import (
    N_ACTION_RQ,
    N_CREATE_RQ,
    N_GET_RQ,
    RESPONSE,
    Command,
    decode_command,
    encode_command,
    encode_find_request,
    even,
    us,
)
from tests.dimse import IMPLICIT, p_data, pdv, raw_association, receive_pdu
from tests.node import StepNode, peer, running, settings
from tests.workitems_dimse import LOCK, PULL, PUSH, QUERY, WATCH, client, code, performed, workitem

CLIENT = peer("client", 1, title="CLIENT", more="may_manage_workitems = true") + peer("reader", 1, title="READER")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StepNode]:
    with running(settings(tmp_path / "node", more=CLIENT)) as started:
        yield started


def test_a_manager_creates_a_workitem_and_a_performer_claims_and_completes_it(node: StepNode) -> None:
    with client(node.port) as manager:
        uid = generate_uid()
        assert manager.create(uid=uid) == (0x0000, uid)
        assert manager.create(uid=uid)[0] == 0x0111
        status, shown = manager.get(uid, by=PUSH)
        assert (status, shown.ProcedureStepState, shown.PatientName) == (0x0000, "SCHEDULED", "Müller^Jörg")
        assert shown.ScheduledWorkitemCodeSequence[0].CodeValue == "SEG"
        assert manager.change(uid, performed(), LOCK) == 0xC310
        assert manager.state(uid, "COMPLETED") == 0xC310
        assert manager.state(uid, "SCHEDULED") == 0xC303
        assert manager.state(uid, "IN PROGRESS") == 0x0000
        assert manager.state(uid, "IN PROGRESS", "2.25.5") == 0xC302
        assert [manager.change(uid, performed(), lock) for lock in ("", "2.25.5")] == [0xC301, 0xC301]
        assert manager.state(uid, "COMPLETED", "2.25.5") == 0xC301
        assert manager.state(uid, "COMPLETED") == 0xC304
        assert manager.change(uid, performed(), LOCK) == 0x0000
        assert manager.state(uid, "COMPLETED") == 0x0000
        assert manager.state(uid, "COMPLETED") == 0xB306
        assert manager.state(uid, "CANCELED") == 0xC300
        assert manager.change(uid, performed(), LOCK) == 0xC300
        assert manager.act(uid, 2, WATCH) == 0xC311
        status, shown = manager.get(uid)
        assert (shown.ProcedureStepState, "TransactionUID" in shown) == ("COMPLETED", False)


def test_a_workitem_that_waits_is_canceled_by_request_and_one_in_progress_by_its_performer(node: StepNode) -> None:
    with client(node.port) as manager:
        (_, first), (_, second) = manager.create(), manager.create()
        assert manager.act(first, 2, PUSH, ReasonForCancellation="not needed") == 0x0000
        progress = manager.get(first)[1].ProcedureStepProgressInformationSequence[0]
        assert progress.ReasonForCancellation == "not needed"
        assert manager.act(first, 2, PUSH) == 0xB304
        manager.state(second, "IN PROGRESS")
        assert manager.act(second, 2, WATCH) == 0x0000
        assert manager.get(second)[1].ProcedureStepState == "IN PROGRESS"
        assert [manager.state(second, "CANCELED") for _ in range(2)] == [0x0000, 0xB304]


def test_what_is_wrong_with_a_request_has_the_status_of_the_standard(node: StepNode) -> None:
    with client(node.port) as manager:
        assert manager.create(workitem(ProcedureStepState="IN PROGRESS"))[0] == 0xC309
        assert manager.create(workitem(ScheduledProcedureStepPriority="URGENT"))[0] == 0x0106
        assert manager.create(workitem(ProcedureStepLabel=""))[0] == 0x0121
        assert manager.create(workitem(WorklistLabel=""))[0] == 0xB300
        missing = workitem()
        del missing.InputReadinessState
        assert manager.create(missing)[0] == 0x0120
        for status in (manager.state("2.25.404", "IN PROGRESS"), manager.get("2.25.404")[0], manager.change("2.25.404", performed())):
            assert status == 0xC307
        uid = manager.create()[1]
        fixed = Dataset()
        fixed.PatientID = "other"
        assert manager.change(uid, fixed) == 0x0105
        status, shown = manager.get(uid, 0x00741000, 0x00081195, 0x00400275)
        assert (status, [element.keyword for element in shown]) == (0x0001, ["ProcedureStepState"])
        assert manager.state(uid, "DONE") == 0x0106
        assert manager.act(uid, 1) == 0x0115
        assert manager.act(uid, 2, PULL) == 0x0123
        assert manager.act(uid, 0x0123, WATCH) == 0x0123
        assert manager.get(uid, by=QUERY)[0] == 0x0000


def test_a_peer_without_the_right_reads_workitems_and_changes_none(node: StepNode) -> None:
    with client(node.port) as manager:
        uid = manager.create()[1]
    with client(node.port, title="READER") as reader:
        assert reader.get(uid)[0] == 0x0000
        assert {reader.create()[0], reader.change(uid, performed()), reader.act(uid, 2, WATCH), reader.state(uid, "IN PROGRESS")} == {
            0x0124
        }
    with client(node.port, title="STRANGER") as stranger:
        assert (stranger.get(uid)[0], stranger.create()[0]) == (0x0124, 0x0124)


# --- malformed requests: none of them ends the association


def request(field: int, sop_class: str, *, uid: str = "", action: int | None = None, data: bytes | None = None, number: int = 1) -> bytes:
    elements = [(0x0003, even(sop_class.encode())), (0x0100, us(field)), (0x0110, us(number))]
    elements += [(0x0800, us(0x0101 if data is None else 1)), (0x1001, even(uid.encode()))]
    if action is not None:
        elements.append((0x1008, us(action)))
    pieces = [p_data(pdv(CONTEXTS.get(sop_class, 1), 3, encode_command(elements)))]
    if data is not None:
        step = 1 << 16
        for start in range(0, max(len(data), 1), step):
            last = 2 if start + step >= len(data) else 0
            pieces.append(p_data(pdv(CONTEXTS.get(sop_class, 1), last, data[start : start + step])))
    return b"".join(pieces)


CONTEXTS = {UPS_PUSH: 1, UPS_PULL: 3, UPS_WATCH: 5}
STATE = b"\x74\x00\x00\x10"


def answer(sock: Any) -> Command:
    kind, body = receive_pdu(sock)
    assert kind == 4
    return decode_command(body[6:])


def test_malformed_requests_are_answered_and_the_association_goes_on(node: StepNode) -> None:
    cases = [
        (request(N_CREATE_RQ, UPS_PUSH), 0x0120),
        (request(N_CREATE_RQ, UPS_PUSH, data=b"\x74\x00\x00\x10\xff\xff\x00\x00AB"), 0x0106),
        (request(N_CREATE_RQ, UPS_PUSH, data=STATE + b"\x02\x00\x00\x00\xff\xfe"), 0x0106),
        (request(N_CREATE_RQ, UPS_PUSH, data=bytes(5 << 20)), 0x0213),
        (request(N_CREATE_RQ, "1.2.840.10008.1.1", data=b""), 0x0118),
        (request(N_GET_RQ, UPS_PUSH, uid="2.25.1", data=b""), 0x0212),
        (request(N_GET_RQ, UPS_PUSH), 0x0106),
        (request(N_ACTION_RQ, UPS_PULL, uid="2.25.1", action=1), 0x0115),
        (request(N_ACTION_RQ, UPS_PULL, uid="2.25.1", action=0x0123), 0x0123),
        (request(N_ACTION_RQ, UPS_PULL, uid="2.25.1"), 0x0123),
        (request(N_CREATE_RQ, UPS_PULL, data=b""), 0x0211),
        (request(0x0150, UPS_PUSH, uid="2.25.1"), 0x0211),
    ]
    contexts = [(abstract, [IMPLICIT]) for abstract in CONTEXTS]
    with raw_association(node.port, contexts, calling_ae="CLIENT") as sock:
        got = []
        for sent, _ in cases:
            sock.sendall(sent)
            response = answer(sock)
            assert response.field & RESPONSE
            got.append(response.status)
        assert [f"{status:04X}" for status in got] == [f"{status:04X}" for _, status in cases]


def test_an_attribute_with_the_vr_of_another_is_refused(node: StepNode) -> None:
    explicit = [(UPS_PUSH, ["1.2.840.10008.1.2.1"])]
    with raw_association(node.port, explicit, calling_ae="CLIENT") as sock:
        sock.sendall(request(N_CREATE_RQ, UPS_PUSH, data=STATE + b"UI\x04\x002.25"))
        assert answer(sock).status == 0x0106


# --- C-FIND


def test_workitems_are_found_by_their_attributes_and_by_those_of_their_sequences(node: StepNode) -> None:
    with client(node.port) as manager:
        uids = [manager.create(workitem(ProcedureStepLabel=label, ScheduledProcedureStepPriority=priority))[1] for label, priority in KINDS]
        manager.create(workitem(ScheduledWorkitemCodeSequence=[code("OTHER")]))

        def found(**keys: Any) -> list[int]:
            return [uids.index(each.SOPInstanceUID) for each in manager.find(**keys) if each.SOPInstanceUID in uids]

        assert found(ProcedureStepState="SCHEDULED", SOPInstanceUID="") == [0, 1, 2]
        assert found(ProcedureStepLabel="b*", by=WATCH) == [1, 2]
        assert found(ScheduledProcedureStepPriority="LOW", ScheduledProcedureStepStartDateTime="20230101-", by=QUERY) == [2]
        assert found(SpecificCharacterSet="ISO_IR 192", PatientName="müller*") == [0, 1, 2]
        assert found(ScheduledProcedureStepStartDateTime="20250101-") == []
        wanted = Dataset()
        wanted.CodeValue = "SEG"
        rows = manager.find(ScheduledWorkitemCodeSequence=[wanted], PatientName="", SpecificCharacterSet="ISO_IR 192")
        assert [row.SOPInstanceUID for row in rows] == uids
        assert (rows[0].PatientName, rows[0].ScheduledWorkitemCodeSequence[0].CodeValue) == ("Müller^Jörg", "SEG")
        assert [element.keyword for element in rows[0].ScheduledWorkitemCodeSequence[0]] == ["CodeValue"]


EVERY = Dataset()
EVERY.ProcedureStepState = "SCHEDULED"
KINDS = [("a", "HIGH"), ("b", "HIGH"), ("bb", "LOW")]


def test_a_worklist_query_ends_when_it_is_canceled_and_says_when_there_is_more(tmp_path: Path) -> None:
    with running(settings(tmp_path / "node", more=CLIENT + "\n[query]\nmax_results = 40\n")) as node, client(node.port) as manager:
        for _ in range(41):
            manager.create()
        answers = [status.Status for status, _ in manager.association.send_c_find(EVERY, PULL)]
        assert (len(answers), answers[-1]) == (41, 0xB001)
        contexts = [(UPS_PULL, [IMPLICIT])]
        find = encode_find_request(7, UPS_PULL)
        data = b"\x74\x00\x00\x10\x00\x00\x00\x00"
        cancel = encode_command([(0x0100, us(0x0FFF)), (0x0120, us(7)), (0x0800, us(0x0101))])
        with raw_association(node.port, contexts, calling_ae="READER") as sock:
            sock.sendall(p_data(pdv(1, 3, find)) + p_data(pdv(1, 2, data)) + p_data(pdv(1, 3, cancel)))
            statuses = []
            while not statuses or statuses[-1] == 0xFF00:
                response = answer(sock)
                statuses.append(response.status)
                if response.has_data_set:
                    receive_pdu(sock)
            assert statuses[-1] == 0xFE00


def test_an_identifier_that_is_none_is_refused(node: StepNode) -> None:
    with client(node.port) as manager:
        wild = Dataset()
        wild.ProcedureStepLabel = "\\".join(["*x*"] * 500)
        statuses = [status.Status for status, _ in manager.association.send_c_find(wild, PULL)]
        assert statuses == [0xA900]
        assert manager.create()[0] == 0
    with client(node.port, title="STRANGER") as stranger:
        assert [status.Status for status, _ in stranger.association.send_c_find(EVERY, PULL)] == [0x0124]
