"""Storage commitment of a probe's objects: the report is awaited on the association that asked, and on our port where that is free."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from dicom_node.config import Config, Peer
from dicom_node.dimse.errors import DimseError
from dicom_node.dimse.references import Reference, References
from dicom_node.dimse.scu_commitment import CONTEXTS, CommitmentAssociation
from dicom_node.dimse.services.commitment import SUCCESS
from dicom_node.work.associating import associate_peer
from storage.jobs import new_transaction_uid

_TURN = 0.2


@dataclass
class Committed:
    """What became of a request. ``offered``: the peer took it; ``uids``: what it says it keeps, None without a report."""

    offered: bool
    detail: str
    uids: frozenset[str] | None = None


@dataclass
class _Report:
    """What comes first of a report, wherever it comes."""

    transaction_uid: str
    here: threading.Event = field(default_factory=threading.Event)
    uids: frozenset[str] = frozenset()

    def take(self, transaction_uid: str, uids: Sequence[str]) -> int:
        if transaction_uid != self.transaction_uid:
            return 0x0115
        self.uids = frozenset(uids)
        self.here.set()
        return SUCCESS


def ask(config: Config, peer: Peer, references: Sequence[Reference], wait: float) -> Committed:
    """Ask a peer whether it keeps what it was sent, and wait so many seconds for what it reports."""
    report = _Report(new_transaction_uid())
    with _listening(config, report) as listens:
        try:
            with associate_peer(config, peer, CONTEXTS) as association:
                speaking = CommitmentAssociation(
                    association, lambda found: report.take(found.transaction_uid, [each.sop_instance_uid for each in found.instances])
                )
                answer = speaking.request(References(report.transaction_uid, references))
                if answer.status != SUCCESS:
                    return Committed(False, f"answered the request with {answer.status:04X}")
                waited = 0.0
                while waited < wait and not report.here.is_set():
                    speaking.await_report(_TURN, report.here.is_set)
                    waited += _TURN
        except DimseError as error:
            if not report.here.is_set():
                return Committed(False, f"{error.step}: {error}")
    if not report.here.is_set():
        where = "" if listens else f"; one of its own comes to port {config.dimse.port}, where the node itself listens"
        return Committed(True, f"took the request, and reported nothing within {wait:g} s{where}")
    return Committed(True, f"reported {len(report.uids)} of {len(references)} as kept", report.uids)


@contextlib.contextmanager
def _listening(config: Config, report: _Report) -> Iterator[bool]:
    """Take reports on associations of the peer's own, where nothing else listens on the node's port."""
    address = (config.dimse.host, config.dimse.port)
    if not config.dimse.port or config.dimse.tls is not None or not _free(address):
        yield False
        return
    ae = AE(config.node.ae_title)
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)

    def take(event: evt.Event) -> tuple[int, None]:
        said = event.event_information
        uids = [str(item.ReferencedSOPInstanceUID) for item in said.get("ReferencedSOPSequence") or ()]
        return report.take(str(said.get("TransactionUID") or ""), uids), None

    server = ae.start_server(address, block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, take)])
    try:
        yield True
    finally:
        if server is not None:
            server.shutdown()


def _free(address: tuple[str, int]) -> bool:
    try:
        socket.create_server(address).close()
    except OSError:
        return False
    return True
