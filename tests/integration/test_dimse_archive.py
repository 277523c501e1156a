"""C-STORE into the real archive: what each kind of instance is answered, and what stays on disk."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom.dsutils import encode

from dicom_node.dimse.message import encode_store_request
from dicom_node.dimse.scu import Requestor, StoreItem, StoreResult, associate
from storage.archive import Archive, Source
from storage.database import open_database
from tests.dimse import CT, EXPLICIT, IMPLICIT, Node, p_data, pdv, raw_association, receive_pdu, receiver, until

CONTEXTS = [(CT, [EXPLICIT]), (CT, [IMPLICIT])]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    database = open_database(f"sqlite:///{tmp_path / 'index.sqlite'}", create=True)
    database.upgrade()
    Archive.create(tmp_path / "archive", database).close()
    archive = Archive.open(tmp_path / "archive", database, process="test")
    yield archive
    archive.close()
    database.close()


@pytest.fixture
def node(archive: Archive) -> Iterator[Node]:
    def open_session(context: object) -> object:
        return archive.session(Source(None, "TEST", "NODE", "127.0.0.1", "received"))

    with receiver(open_session=open_session) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[Requestor]:
    with associate("127.0.0.1", node.port, calling_ae="TEST", called_ae="NODE", contexts=CONTEXTS) as association:
        yield association


def data_set(uid: str, size: int = 100_000, study: str = "1.2.3", **more: object) -> bytes:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID, ds.Modality = study, study + ".1", "P1", "CT"
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    ds.add_new(0x7FE00010, "OW", bytes(size))
    encoded = encode(ds, False, True)
    assert encoded is not None
    return encoded


def send(client: Requestor, uid: str, data: bytes, syntax: str = EXPLICIT) -> StoreResult:
    return client.store(StoreItem(CT, uid, syntax, len(data), lambda: [data]))


def test_what_is_sent_is_what_is_kept(client: Requestor, archive: Archive) -> None:
    uids = [generate_uid() for _ in range(5)]
    for number, uid in enumerate(uids):
        data = data_set(uid, 10 ** (number + 2))
        assert send(client, uid, data).status == 0
        stored = archive.open_instance(uid)
        assert stored.pread(stored.meta_length, stored.length) == data
    assert len(archive.instances("1.2.3")) == 5


def test_duplicate_and_conflict(client: Requestor, archive: Archive) -> None:
    data = data_set("1.2.3.4")
    assert send(client, "1.2.3.4", data).status == 0
    assert send(client, "1.2.3.4", data).status == 0
    answer = send(client, "1.2.3.4", data_set("1.2.3.4", PatientID="P2"))
    assert answer.status >> 12 == 0xC
    assert answer.comment
    assert "P2" not in answer.comment
    assert len(archive.instances("1.2.3")) == 1
    assert send(client, "1.2.3.5", data_set("1.2.3.5")).status == 0


@pytest.mark.parametrize("uid", ["../x", "/etc/passwd", "1.2.%2e", "C:\\x", "1.2\0.3", "", "1" * 65])
def test_uids_that_are_none(uid: str, client: Requestor, archive: Archive) -> None:
    before = sorted(archive.root.parent.rglob("*"))
    assert send(client, uid, data_set("1.2.3.4")).status in (0xA900, 0xC000)
    inside = data_set("1.2.3.4").replace(b"\x06\x001.2.3\0", b"\x06\x00../..x")
    assert b"../..x" in inside
    assert send(client, "1.2.3.4", inside).status in (0xA900, 0xC000)
    assert {path for path in archive.root.parent.rglob("*") if archive.root not in path.parents} <= set(before) | {archive.root}


def test_a_command_that_announces_another_instance(client: Requestor, archive: Archive) -> None:
    assert send(client, "1.2.3.9", data_set("1.2.3.4")).status == 0xA900
    assert send(client, "1.2.3.9", data_set("1.2.3.9")).status == 0


@pytest.mark.parametrize("cut", [0, 10, 200, 50_000, -2])
def test_truncated_data_sets(cut: int, client: Requestor) -> None:
    data = data_set("1.2.3.4")
    data = data[: len(data) + cut if cut < 0 else cut]
    answer = send(client, "1.2.3.4", data)
    assert answer.status in (0xC000, 0xA900)
    assert send(client, "1.2.3.4", data_set("1.2.3.4")).status == 0


def test_dying_in_the_middle_leaves_an_ordinary_tar(node: Node, client: Requestor, archive: Archive) -> None:
    assert send(client, "1.2.3.4", data_set("1.2.3.4")).status == 0
    with raw_association(node.port, [(CT, [EXPLICIT])]) as sock:
        long = data_set("1.2.3.5", 900_000)
        sock.sendall(p_data(pdv(1, 3, encode_store_request(1, CT, "1.2.3.5"))))
        for start in range(0, 600_000, 60_000):
            sock.sendall(p_data(pdv(1, 0, long[start : start + 60_000])))
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            receive_pdu(sock)
    until(lambda: node.server.associations <= 1)
    assert send(client, "1.2.3.6", data_set("1.2.3.6", 10)).status == 0
    for segment in archive.root.rglob("*.tar"):
        listed = subprocess.run(["tar", "tf", str(segment)], capture_output=True, text=True, check=True).stdout.split()
        assert all(name.endswith(("1.2.3.4.dcm", "1.2.3.6.dcm")) for name in listed)


def test_associations_of_one_instance_each_fill_one_segment(node: Node, archive: Archive) -> None:
    for number in range(20):
        uid = f"1.2.3.{number}"
        with associate("127.0.0.1", node.port, calling_ae="TEST", called_ae="NODE", contexts=CONTEXTS) as association:
            assert send(association, uid, data_set(uid, 1000)).ok
        until(lambda: node.server.associations == 0)  # the segment is given back; a second association at once has one of its own
    assert len(archive.instances("1.2.3")) == 20
    assert len(list(archive.root.rglob("*.tar"))) == 1
