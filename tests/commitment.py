"""Storage commitment as independent programs speak it: pynetdicom as user and as provider."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from tests.dimse import until

Pair = tuple[str, str]


def request_of(pairs: Sequence[Pair], transaction_uid: str | None = None) -> Dataset:
    """The data set of an N-ACTION."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid or generate_uid()
    dataset.ReferencedSOPSequence = [_item(*pair) for pair in pairs]
    return dataset


def _item(sop_class_uid: str, sop_uid: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_uid
    if reason is not None:
        item.FailureReason = reason
    return item


def pairs_of(images: Sequence[Dataset]) -> list[Pair]:
    return [(str(image.SOPClassUID), str(image.SOPInstanceUID)) for image in images]


@dataclass
class Reports:
    """N-EVENT-REPORTs as they came in; ``status`` answers them."""

    got: list[tuple[int, Dataset]] = field(default_factory=list)
    status: Callable[[], int] = lambda: 0x0000

    def handle(self, event: Any) -> tuple[int, None]:
        status = self.status()
        if status == 0:
            self.got.append((int(event.request.EventTypeID), event.event_information))
        return status, None

    def only(self) -> tuple[int, Dataset]:
        until(lambda: bool(self.got))
        (report,) = self.got
        return report

    def failures(self) -> dict[str, int]:
        _, report = self.only()
        return {str(item.ReferencedSOPInstanceUID): int(item.FailureReason) for item in report.get("FailedSOPSequence", [])}

    def committed(self) -> set[str]:
        _, report = self.only()
        return {str(item.ReferencedSOPInstanceUID) for item in report.get("ReferencedSOPSequence", [])}


@contextlib.contextmanager
def user(port: int, reports: Reports, *, title: str = "CLIENT", called: str = "NODE") -> Iterator[Association]:
    """An association on which a client asks for storage commitment, and takes reports."""
    ae = AE(title)
    ae.add_requested_context(StorageCommitmentPushModel)
    association = ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.handle)])
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def ask(association: Association, dataset: Dataset, *, action: int = 1, instance: str = StorageCommitmentPushModelInstance) -> int:
    """Send an N-ACTION; its status."""
    status, _ = association.send_n_action(dataset, action, StorageCommitmentPushModel, instance)
    return int(status.Status)


@contextlib.contextmanager
def listening(reports: Reports, *, title: str = "CLIENT", port: int = 0) -> Iterator[int]:
    """The client's own receiver, where reports come on associations that the node asks for, with the node as provider."""
    ae = AE(title)
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.handle)])
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@dataclass
class Provider:
    """A PACS that keeps what it is sent, and commits it when ``answer`` is called or at once on the same association."""

    ae: AE
    node_port: int = 0
    stored: set[str] = field(default_factory=set)
    asked: list[Dataset] = field(default_factory=list)
    refuse: Callable[[str], int] = lambda uid: 0
    same_association: bool = False
    action_status: int = 0x0000
    port: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)

    def store(self, event: Any) -> int:
        self.stored.add(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def action(self, event: Any) -> tuple[int, None]:
        if self.action_status:
            return self.action_status, None
        dataset = event.action_information
        self.asked.append(dataset)
        if self.same_association:
            thread = threading.Thread(target=self._report_on, args=(event.assoc, dataset))
            self._threads.append(thread)
            thread.start()
        return 0x0000, None

    def report_for(self, dataset: Dataset) -> tuple[Dataset, int]:
        report = Dataset()
        report.TransactionUID = dataset.TransactionUID
        good, bad = [], []
        for item in dataset.ReferencedSOPSequence:
            uid, kind = str(item.ReferencedSOPInstanceUID), str(item.ReferencedSOPClassUID)
            reason = self.refuse(uid) or (0 if uid in self.stored else 0x0112)
            (bad if reason else good).append(_item(kind, uid, reason or None))
        if good:
            report.ReferencedSOPSequence = good
        if bad:
            report.FailedSOPSequence = bad
        return report, 2 if bad else 1

    def _report_on(self, association: Association, dataset: Dataset) -> None:
        report, kind = self.report_for(dataset)
        association.send_n_event_report(report, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)

    def answer(self, dataset: Dataset, *, title: str = "PACS", called: str = "NODE") -> int:
        """Report on an association of our own; the status that the node answered."""
        ae = AE(title)
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        association = ae.associate("127.0.0.1", self.node_port, ae_title=called, ext_neg=[role])
        assert association.is_established
        report, kind = self.report_for(dataset)
        status, _ = association.send_n_event_report(report, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        association.release()
        return int(status.Status)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)


@contextlib.contextmanager
def provider(*, title: str = "PACS", commits: bool = True) -> Iterator[Provider]:
    from pynetdicom import AllStoragePresentationContexts

    ae = AE(title)
    ae.supported_contexts = AllStoragePresentationContexts
    if commits:
        ae.add_supported_context(StorageCommitmentPushModel)
    running = Provider(ae)
    handlers = [(evt.EVT_C_STORE, running.store), (evt.EVT_N_ACTION, running.action)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    running.port = server.server_address[1]
    try:
        yield running
    finally:
        running.join()
        server.shutdown()
