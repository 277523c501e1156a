"""Workitems by DIMSE (PS3.4 annex CC), with pynetdicom as manager, as performer and as watcher."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
)

from dicom_node.dimse.contexts import UPS_PULL, UPS_PUSH, UPS_WATCH
from dicom_node.dimse.message import N_ACTION_RQ, N_CREATE_RQ, N_GET_RQ, RESPONSE, Command, decode_command, encode_command, even, us
from tests.dimse import IMPLICIT, p_data, pdv, raw_association, receive_pdu
from tests.node import StepNode, peer, running, settings

PUSH, PULL, WATCH, QUERY = UnifiedProcedureStepPush, UnifiedProcedureStepPull, UnifiedProcedureStepWatch, UnifiedProcedureStepQuery
CLIENT = peer("client", 1, title="CLIENT", more="may_manage_workitems = true") + peer("reader", 1, title="READER")
LOCK = "2.25.77"


def workitem(**more: Any) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.TransactionUID = ""
    dataset.PatientName = "Müller^Jörg"
    dataset.ScheduledProcedureStepStartDateTime = "20240101120000"
    dataset.InputReadinessState = "READY"
    dataset.ProcedureStepState = "SCHEDULED"
    dataset.ScheduledProcedureStepPriority = "HIGH"
    dataset.WorklistLabel = "brains"
    dataset.ProcedureStepLabel = "segment"
    dataset.ScheduledWorkitemCodeSequence = [code("SEG")]
    for name, value in more.items():
        setattr(dataset, name, value)
    return dataset


def code(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "L", value.lower()
    return item


def performed() -> Dataset:
    """What a performer says of its work, as an N-SET."""
    item = Dataset()
    item.PerformedStationNameCodeSequence = [code("S")]
    item.PerformedProcedureStepStartDateTime = item.PerformedProcedureStepEndDateTime = "20240101"
    item.PerformedWorkitemCodeSequence = [code("SEG")]
    item.OutputInformationSequence = []
    dataset = Dataset()
    dataset.UnifiedProcedureStepPerformedProcedureSequence = [item]
    return dataset


class Client:
    """An association of one AE; each method answers with the status."""

    def __init__(self, association: Association) -> None:
        self.association = association

    def create(self, dataset: Dataset | None = None, uid: str | None = None) -> tuple[int, str]:
        uid = uid or generate_uid()
        status, _ = self.association.send_n_create(dataset or workitem(), PUSH, uid, meta_uid=PUSH)
        return int(status.Status), uid

    def get(self, uid: str, *tags: int, by: Any = PULL) -> tuple[int, Dataset]:
        status, dataset = self.association.send_n_get(list(tags), PUSH, uid, meta_uid=by)
        return int(status.Status), dataset or Dataset()

    def change(self, uid: str, dataset: Dataset, lock: str = "") -> int:
        if lock:
            dataset.TransactionUID = lock
        status, _ = self.association.send_n_set(dataset, PUSH, uid, meta_uid=PULL)
        return int(status.Status)

    def act(self, uid: str, action: int, by: Any = PULL, **values: str) -> int:
        dataset = Dataset()
        for name, value in values.items():
            setattr(dataset, name, value)
        status, _ = self.association.send_n_action(dataset if values else None, action, PUSH, uid, meta_uid=by)
        return int(status.Status)

    def state(self, uid: str, state: str, lock: str = LOCK) -> int:
        return self.act(uid, 1, ProcedureStepState=state, TransactionUID=lock)


@contextlib.contextmanager
def client(node: StepNode, *, title: str = "CLIENT") -> Iterator[Client]:
    ae = AE(title)
    for abstract in (PUSH, PULL, WATCH, QUERY):
        ae.add_requested_context(abstract)
    association = ae.associate("127.0.0.1", node.port, ae_title="NODE")
    assert association.is_established
    try:
        yield Client(association)
    finally:
        association.release()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StepNode]:
    with running(settings(tmp_path / "node", more=CLIENT)) as started:
        yield started


def test_a_manager_creates_a_workitem_and_a_performer_claims_and_completes_it(node: StepNode) -> None:
    with client(node) as manager:
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
    with client(node) as manager:
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
    with client(node) as manager:
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
    with client(node) as manager:
        uid = manager.create()[1]
    with client(node, title="READER") as reader:
        assert reader.get(uid)[0] == 0x0000
        assert {reader.create()[0], reader.change(uid, performed()), reader.act(uid, 2, WATCH), reader.state(uid, "IN PROGRESS")} == {
            0x0124
        }
    with client(node, title="STRANGER") as stranger:
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
