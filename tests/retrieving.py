"""Clients of C-MOVE and C-GET, and a destination, all pynetdicom's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.sending import store_item
from storage.archive import Archive, Source

STUDY_GET, STUDY_MOVE = StudyRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelMove
PATIENT_GET, PATIENT_MOVE = PatientRootQueryRetrieveInformationModelGet, PatientRootQueryRetrieveInformationModelMove

Contexts = Sequence[tuple[str, Sequence[str]]]


@dataclass
class Received:
    """What came by C-STORE: per SOP Instance UID its transfer syntax and data set as bytes; and who said it originated that."""

    instances: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    originators: set[tuple[Any, Any]] = field(default_factory=set)
    contexts: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    associations: int = 0
    answer: Callable[[str], int] = lambda uid: 0

    def store(self, event: Any) -> int:
        request = event.request
        uid = str(request.AffectedSOPInstanceUID)
        status = self.answer(uid)
        if status == 0 or status >> 12 == 0xB:
            self.instances[uid] = (str(event.context.transfer_syntax), request.DataSet.getvalue())
        self.originators.add((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID))
        return status

    def requested(self, event: Any) -> None:
        self.associations += 1
        asked = event.assoc.requestor.requested_contexts
        self.contexts = [(str(each.abstract_syntax), tuple(map(str, each.transfer_syntax))) for each in asked]


@dataclass
class Answers:
    """The responses to one retrieve, the last of them apart."""

    pending: list[Dataset]
    status: Dataset
    identifier: Dataset | None

    @property
    def counts(self) -> tuple[int | None, ...]:
        return tuple(self.status.get(f"NumberOf{name}Suboperations") for name in ("Remaining", "Completed", "Failed", "Warning"))

    @property
    def failed(self) -> list[str]:
        value = self.identifier.get("FailedSOPInstanceUIDList") if self.identifier else None
        return [] if not value else [value] if isinstance(value, str) else list(value)


def keys(level: str, **values: str) -> Dataset:
    wanted = Dataset()
    wanted.QueryRetrieveLevel = level
    for keyword, value in values.items():
        element = DataElement(keyword, dictionary_VR(keyword), None, validation_mode=IGNORE)  # some tests ask for what is no UID
        element.value = value
        wanted.add(element)
    return wanted


def get(
    port: int, identifier: Dataset, contexts: Contexts, received: Received | None = None, *, model: Any = STUDY_GET, title: str = "CLIENT"
) -> tuple[Answers, Received]:
    """C-GET, taking what comes on these contexts."""
    received = received or Received()
    ae = AE(title)
    ae.requested_contexts = [build_context(model), *(build_context(abstract, list(syntaxes)) for abstract, syntaxes in contexts)]
    roles = [build_role(uid, scp_role=True) for uid in dict.fromkeys(abstract for abstract, _ in contexts)]
    association = ae.associate("127.0.0.1", port, ae_title="NODE", ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, received.store)])
    assert association.is_established
    try:
        return _collect(association.send_c_get(identifier, model)), received
    finally:
        association.release()


def move(port: int, identifier: Dataset, destination: str, *, model: Any = STUDY_MOVE, title: str = "CLIENT") -> Answers:
    """C-MOVE, as message 77."""
    ae = AE(title)
    ae.add_requested_context(model)
    association = ae.associate("127.0.0.1", port, ae_title="NODE")
    assert association.is_established
    try:
        return _collect(association.send_c_move(identifier, destination, model, msg_id=77))
    finally:
        association.release()


def _collect(responses: Iterator[tuple[Dataset, Dataset | None]]) -> Answers:
    every = list(responses)
    assert every
    assert all(status.Status == 0xFF00 for status, _ in every[:-1])
    return Answers([status for status, _ in every[:-1]], *every[-1])


@contextlib.contextmanager
def destination(received: Received, contexts: Contexts, *, title: str = "DESTINATION") -> Iterator[int]:
    """A Storage SCP that takes these contexts; its port."""
    ae = AE(title)
    for abstract, syntaxes in contexts:
        ae.add_supported_context(abstract, list(syntaxes))
    handlers = [(evt.EVT_C_STORE, received.store), (evt.EVT_REQUESTED, received.requested)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def store_files(archive: Archive, paths: Sequence[Path]) -> dict[str, tuple[str, str, bytes]]:
    """Store files as they are; SOP Instance UID to SOP class, transfer syntax and data set."""
    session = archive.session(Source(None, "TEST", "NODE", "127.0.0.1", "received"))
    stored = {}
    for path in paths:
        item, inside = store_item(path), dcmread(path, specific_tags=["SOPInstanceUID", "SOPClassUID"])
        uid, sop_class = str(inside.SOPInstanceUID), str(inside.SOPClassUID)  # some files' meta say otherwise
        with cast(BinaryIO, item.open()) as opened:
            data = opened.read()
        if b"\x20\x00\x0d\x00" not in data and item.transfer_syntax_uid.startswith("1.2.840.10008.1.2.4.20"):
            data = _with_study(data)
        writer = session.begin(sop_class_uid=sop_class, sop_instance_uid=uid, transfer_syntax_uid=item.transfer_syntax_uid)
        writer.write([data])
        receipt = writer.commit()
        assert receipt.outcome.name == "STORED", (uid, receipt)
        stored[uid] = (sop_class, item.transfer_syntax_uid, data)
    session.close()
    return stored


def _with_study(data: bytes) -> bytes:
    """Explicit little endian data of an image without Study and Series Instance UID, which the archive would not take, with both."""
    at = data.index(b"\x28\x00\x02\x00US")
    return data[:at] + b"\x20\x00\x0d\x00UI\x04\x002.25\x20\x00\x0e\x00UI\x06\x002.25.1" + data[at:]
