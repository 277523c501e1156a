"""C-ECHO and C-STORE from pynetdicom, the independent client."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from structlog.testing import capture_logs

from dicom_node.dimse.admission import KnownPeer, PeerAdmission, Unknown
from dicom_node.dimse.association import AssociationContext
from dicom_node.dimse.contexts import LABEL_MAP_SEGMENTATION, VERIFICATION
from dicom_node.dimse.testing import RememberingHooks
from storage.errors import CannotUnderstand, DataSetMismatch, IndexUnavailable, NoSpace, ReadOnly, StorageError
from tests.dimse import CT, EXPLICIT, IMPLICIT, pynetdicom_client, receiver


def instance(uid: str = "1.2.3", size: int = 1000, transfer_syntax: str = IMPLICIT, sop_class: str = CT) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID = sop_class, uid, "1.2"
    ds.add_new(0x7FE00010, "OW", bytes(size))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    return ds


def test_echo_touches_no_database() -> None:
    with receiver() as node, pynetdicom_client(node.port, [(VERIFICATION, None)]) as client:
        assert client.send_c_echo().Status == 0
        assert node.hooks.events == []
        assert node.archive.sessions == 0


@pytest.mark.parametrize("size", [0, 10, 16_000, 131_072, 2_000_000])
@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT])
def test_stores_the_bytes_as_sent(size: int, transfer_syntax: str) -> None:
    ds = instance(size=size, transfer_syntax=transfer_syntax)
    with receiver() as node:
        with pynetdicom_client(node.port, [(CT, transfer_syntax)]) as client:
            assert client.send_c_store(ds).Status == 0
        stored = node.archive.instances["1.2.3"]
    from pynetdicom.dsutils import encode

    assert stored.data == encode(ds, transfer_syntax == IMPLICIT, True)
    assert stored.transfer_syntax_uid == transfer_syntax
    assert node.hooks.events == [("opened", "CLIENT"), ("closed", "released")]


def test_label_map_segmentation_is_taken() -> None:
    with receiver() as node, pynetdicom_client(node.port, [(LABEL_MAP_SEGMENTATION, EXPLICIT)]) as client:
        assert client.send_c_store(instance(transfer_syntax=EXPLICIT, sop_class=LABEL_MAP_SEGMENTATION)).Status == 0


def test_duplicate_is_success_and_other_content_is_a_conflict() -> None:
    with receiver() as node, pynetdicom_client(node.port, [(CT, None)]) as client:
        assert client.send_c_store(instance()).Status == 0
        assert client.send_c_store(instance()).Status == 0
        answer = client.send_c_store(instance(size=2))
        assert answer.Status >> 12 == 0xC
        assert answer.ErrorComment


class Failing:
    """An archive that raises ``error`` at one step for one UID."""

    def __init__(self, step: str, error: Exception) -> None:
        self.step, self.error = step, error

    def __call__(self, step: str, uid: str) -> None:
        if step == self.step and uid == "1.2.666":
            raise self.error


@pytest.mark.parametrize("step", ["begin", "write", "commit"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoSpace("the disk is full"), 0xA700),
        (ReadOnly("read-only"), 0xA700),
        (IndexUnavailable("no database"), 0xA700),
        (DataSetMismatch("other UID"), 0xA900),
        (CannotUnderstand("no data set"), 0xC000),
        (StorageError("else"), 0x0110),
        (ZeroDivisionError("a bug"), 0x0110),
    ],
)
def test_each_error_is_a_status_and_the_association_goes_on(step: str, error: Exception, status: int) -> None:
    with receiver() as node, pynetdicom_client(node.port, [(CT, None)]) as client:
        node.archive.fail = Failing(step, error)
        answer: Any = client.send_c_store(instance("1.2.666", 300_000))
        assert answer.Status == status
        assert client.send_c_store(instance("1.2.4")).Status == 0
        assert set(node.archive.instances) == {"1.2.4"}
        assert node.archive.abandoned == (["1.2.666"] if step == "write" else [])


def test_database_away_at_the_first_instance() -> None:
    with receiver() as node, pynetdicom_client(node.port, [(CT, None), (VERIFICATION, None)]) as client:
        node.hooks.error = IndexUnavailable("no database")
        assert client.send_c_store(instance()).Status == 0xA700
        assert client.send_c_echo().Status == 0
        node.hooks.error = None
        assert client.send_c_store(instance()).Status == 0


def test_unknown_callers_echo_but_do_not_store() -> None:
    admission = PeerAdmission(["NODE"], [KnownPeer("scanner", "SCANNER", ("127.0.0.0/8",))], unknown=Unknown.ECHO)
    with receiver(admission=admission) as node:
        with pynetdicom_client(node.port, [(CT, None), (VERIFICATION, None)], title="STRANGER") as client:
            assert client.send_c_echo().Status == 0
            assert client.send_c_store(instance()).Status == 0x0124
        with pynetdicom_client(node.port, [(CT, None)], title="SCANNER") as client:
            assert client.send_c_store(instance()).Status == 0


def test_an_unexpected_error_is_logged_without_its_text() -> None:
    """The text of somebody else's exception may quote a data set."""
    with capture_logs() as logs, receiver() as node, pynetdicom_client(node.port, [(CT, None)]) as client:
        node.archive.fail = Failing("write", ValueError("Doe^Jane"))
        assert client.send_c_store(instance("1.2.666")).Status == 0x0110
    (entry,) = [entry for entry in logs if entry["event"] == "dimse.request_failed"]
    assert entry["error"] == "ValueError"
    assert "write" in entry["trace"]
    assert "Doe" not in str(logs)


def test_an_index_that_is_away_at_the_end_is_survived() -> None:
    class Away(RememberingHooks):
        def closed(self, context: AssociationContext, ended: str) -> None:
            raise IndexUnavailable("away")

    with capture_logs() as logs, receiver() as node:
        node.server._hooks = Away()
        for _ in range(2):
            with pynetdicom_client(node.port, [(CT, None)]) as client:
                assert client.send_c_store(instance()).Status == 0
    assert [entry["event"] for entry in logs].count("association.close_not_recorded") == 2
