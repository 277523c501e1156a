"""Workitems by DIMSE as independent programs speak it: pynetdicom as manager, performer and watcher."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association

from dicom_node.dimse.contexts import UPS_EVENT as EVENT
from dicom_node.dimse.contexts import UPS_PULL as PULL
from dicom_node.dimse.contexts import UPS_PUSH as PUSH
from dicom_node.dimse.contexts import UPS_QUERY as QUERY
from dicom_node.dimse.contexts import UPS_WATCH as WATCH
from tests.dimse import until

LOCK = "2.25.77"
GLOBAL, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"


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


def performed(output: Sequence[Dataset] = ()) -> Dataset:
    """What a performer says of its work, as an N-SET."""
    item = Dataset()
    item.PerformedStationNameCodeSequence = [code("S")]
    item.PerformedProcedureStepStartDateTime = item.PerformedProcedureStepEndDateTime = "20240101"
    item.PerformedWorkitemCodeSequence = [code("SEG")]
    item.OutputInformationSequence = list(output)
    dataset = Dataset()
    dataset.UnifiedProcedureStepPerformedProcedureSequence = [item]
    return dataset


@dataclass
class Events:
    """N-EVENT-REPORTs as they came in; ``status`` answers them."""

    got: list[tuple[str, int, Dataset]] = field(default_factory=list)
    status: Callable[[], int] = lambda: 0x0000

    def handle(self, event: Any) -> tuple[int, None]:
        status = self.status()
        if status == 0:
            request = event.request
            self.got.append((str(request.AffectedSOPInstanceUID), int(request.EventTypeID), event.event_information))
        return status, None

    def states(self, uid: str) -> list[str]:
        return [str(dataset.ProcedureStepState) for got, kind, dataset in self.got if got == uid and kind == 1]

    def await_state(self, uid: str, state: str) -> None:
        until(lambda: state in self.states(uid))


class Checkpoint(threading.Event):
    """Where pynetdicom halts the thread that listens, while a request of ours awaits its response.

    Its own may let that thread by at the very moment when it is to halt: the thread then takes the response for itself, about once in
    two thousand requests. Here ``clear`` comes back only when the thread has halted.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self._halted = threading.Event()
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self._halted.set()
        return super().wait(timeout)

    def clear(self) -> None:
        self._halted.clear()
        super().clear()
        while self._association.is_alive() and not self._halted.wait(0.05):
            pass


class Client:
    """An association of one AE; each method answers with the status."""

    def __init__(self, association: Association) -> None:
        self.association = association
        association._reactor_checkpoint = Checkpoint(association)

    def create(self, dataset: Dataset | None = None, uid: str | None = None) -> tuple[int, str]:
        uid = uid or generate_uid()
        status, _ = self.association.send_n_create(dataset or workitem(), PUSH, uid, meta_uid=PUSH)
        return int(status.Status), uid

    def get(self, uid: str, *tags: int, by: Any = PULL) -> tuple[int, Dataset]:
        wanted: list[Any] = list(tags)
        status, dataset = self.association.send_n_get(wanted, PUSH, uid, meta_uid=by)
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

    def watch(self, uid: str, aet: str = "CLIENT", action: int = 3, **more: str) -> int:
        lock = {"DeletionLock": "FALSE"} if action == 3 else {}
        return self.act(uid, action, WATCH, ReceivingAE=aet, **{**lock, **more})

    def find(self, by: Any = PULL, **keys: Any) -> list[Dataset]:
        dataset = Dataset()
        for name, value in keys.items():
            setattr(dataset, name, value)
        answers = list(self.association.send_c_find(dataset, by))
        assert [status.Status for status, _ in answers[-1:]] == [0x0000], answers[-1]
        return [found for _, found in answers[:-1] if found is not None]


@contextlib.contextmanager
def client(port: int, *, title: str = "CLIENT", events: Events | None = None) -> Iterator[Client]:
    """An AE with an association; one that takes events on it where ``events`` is given."""
    ae = AE(title)
    for abstract in (PUSH, PULL, WATCH, QUERY, *([EVENT] if events else [])):
        ae.add_requested_context(abstract)
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, events.handle)] if events else []
    association = ae.associate("127.0.0.1", port, ae_title="NODE", evt_handlers=handlers)
    assert association.is_established
    try:
        yield Client(association)
    finally:
        association.release()


@contextlib.contextmanager
def listening(events: Events, *, title: str = "CLIENT", port: int = 0) -> Iterator[int]:
    """The subscriber's own receiver, where events come on associations that the node asks for, with the node as provider."""
    ae = AE(title)
    ae.add_supported_context(EVENT, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, events.handle)])
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
