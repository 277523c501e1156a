"""Storage commitment asked of us: recorded before it is answered, judged by the bytes on disk, reported until it is taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel
from sqlalchemy import select

from dicom_node.dimse.contexts import STORAGE_COMMITMENT as COMMITMENT
from dicom_node.dimse.contexts import STORAGE_COMMITMENT_INSTANCE as COMMITMENT_INSTANCE
from dicom_node.dimse.message import N_EVENT_REPORT_RQ, decode_command
from dicom_node.dimse.normalized import encode_action_request
from dicom_node.dimse.references import Reference, References, encode_references
from dicom_node.dimse.scu import associate
from dicom_node.dimse.scu_commitment import CONTEXTS, CommitmentAssociation
from storage.schema import commitment
from tests.commitment import Reports, ask, listening, pairs_of, request_of, user
from tests.dimse import IMPLICIT, p_data, pdv, raw_association, receive_pdu, until
from tests.imaging import as_file
from tests.node import StepNode, bright_series, peer, running, send, settings, uid_of

QUICK = '\n[commitment]\nreport_wait = "100ms"\n'
PATIENT = '\n[commitment]\nreport_wait = "30s"\n'


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def client_port(reports: Reports) -> Iterator[int]:
    with listening(reports) as port:
        yield port


@pytest.fixture
def node(tmp_path: Path, client_port: int) -> Iterator[StepNode]:
    with running(settings(tmp_path / "node", more=peer("client", client_port, title="CLIENT") + QUICK)) as started:
        yield started


def steps(node: StepNode) -> int:
    return sum(worker.step() for worker in node.deliveries)


def work_until(node: StepNode, done: object) -> None:
    def look() -> bool:
        steps(node)
        return bool(done())  # type: ignore[operator]

    until(look, 20.0)


def state(node: StepNode) -> list[str]:
    with node.node.database.read() as connection:
        return list(connection.scalars(select(commitment.c.state).order_by(commitment.c.pk)))


@pytest.fixture
def images(node: StepNode, tmp_path: Path) -> list[Dataset]:
    made = bright_series(4)
    assert send(node, made, tmp_path / "sent") == [0] * 4
    return made


def test_what_is_stored_is_committed_on_the_association_that_asked(tmp_path: Path, reports: Reports) -> None:
    with running(settings(tmp_path / "node", more=peer("client", 1, title="CLIENT") + PATIENT)) as node:
        made = bright_series(4)
        send(node, made, tmp_path / "sent")
        request = request_of(pairs_of(made))
        with user(node.port, reports) as association:
            assert ask(association, request) == 0x0000
            assert state(node) == ["REQUESTED"]
            assert steps(node) == 1
            kind, report = reports.only()
            assert (kind, report.TransactionUID) == (1, request.TransactionUID)
            assert reports.committed() == {image.SOPInstanceUID for image in made}
            assert "FailedSOPSequence" not in report
            until(lambda: state(node) == ["REPORTED"])


def test_a_report_goes_to_the_peers_own_port_once_its_association_is_closed(
    node: StepNode, images: list[Dataset], reports: Reports
) -> None:
    with user(node.port, reports) as association:
        assert ask(association, request_of(pairs_of(images))) == 0x0000
    work_until(node, lambda: state(node) == ["REPORTED"])
    assert reports.committed() == {image.SOPInstanceUID for image in images}


def test_each_instance_that_is_not_committed_has_its_reason(node: StepNode, images: list[Dataset], reports: Reports) -> None:
    pairs = pairs_of(images)
    damaged = images[1].SOPInstanceUID
    stored = node.node.archive.open_instance(damaged)
    descriptor = os.open(stored.path, os.O_RDWR)
    os.pwrite(descriptor, b"\xff\xfe", stored.offset + stored.length - 2)
    os.close(descriptor)
    unknown, other_class = generate_uid(), "1.2.840.10008.5.1.4.1.1.2"
    asked = [pairs[0], pairs[1], (other_class, pairs[2][1]), (pairs[3][0], unknown)]
    with user(node.port, reports) as association:
        assert ask(association, request_of(asked)) == 0x0000
    work_until(node, lambda: state(node) == ["REPORTED"])
    assert reports.only()[0] == 2
    assert reports.committed() == {pairs[0][1]}
    assert reports.failures() == {damaged: 0x0110, pairs[2][1]: 0x0119, unknown: 0x0112}
    assert node.node.archive.open_instance(damaged).damaged


def test_a_transaction_uid_is_used_once_and_the_same_request_again_is_reported_again(
    node: StepNode, images: list[Dataset], reports: Reports
) -> None:
    pairs, uid = pairs_of(images), generate_uid()
    for asked in (pairs[:2], list(reversed(pairs[:2])), pairs):
        with user(node.port, reports) as association:
            assert ask(association, request_of(asked, uid)) == 0x0000
        work_until(node, lambda: set(state(node)) == {"REPORTED"})
    again = [report for _, report in reports.got]
    assert [len(report.get("ReferencedSOPSequence", [])) for report in again] == [2, 2, 0]
    assert [int(item.FailureReason) for item in again[2].FailedSOPSequence] == [0x0131] * 4


def test_a_report_is_tried_until_it_is_taken(node: StepNode, images: list[Dataset], reports: Reports) -> None:
    answers = iter([0x0110, 0x0110])
    reports.status = lambda: next(answers, 0x0000)
    with user(node.port, reports) as association:
        assert ask(association, request_of(pairs_of(images))) == 0x0000
    work_until(node, lambda: state(node) == ["REPORTED"])
    assert len(reports.got) == 1


def test_only_registered_peers_that_may_are_answered(tmp_path: Path, reports: Reports) -> None:
    barred = peer("barred", 1, title="BARRED", more="may_commit = false")
    with running(settings(tmp_path / "node", more=barred)) as node:
        for title in ("BARRED", "STRANGER"):
            with user(node.port, reports, title=title) as association:
                assert ask(association, request_of([("1.2", "1.3")])) == 0x0124
        assert state(node) == []


def test_a_wrong_request_is_answered_with_what_is_wrong(node: StepNode, reports: Reports) -> None:
    nothing = Dataset()
    nothing.TransactionUID = generate_uid()
    nothing.ReferencedSOPSequence = []
    no_transaction = request_of([("1.2", "1.3")])
    del no_transaction.TransactionUID
    with user(node.port, reports) as association:
        assert ask(association, request_of([("1.2", "1.3")]), action=2) == 0x0123
        assert ask(association, request_of([("1.2", "1.3")]), instance="1.2.3") == 0x0112
        assert ask(association, nothing) == 0x0115
        assert ask(association, no_transaction) == 0x0115
    assert state(node) == []


def test_too_many_instances_are_refused_and_the_association_goes_on(tmp_path: Path, reports: Reports) -> None:
    with running(settings(tmp_path / "node", more=peer("client", 1, title="CLIENT") + "\n[commitment]\nmax_instances = 10\n")) as node:
        many = [("1.2.840.10008.5.1.4.1.1.2", generate_uid()) for _ in range(11)]
        with user(node.port, reports) as association:
            assert ask(association, request_of(many)) == 0x0213
            assert ask(association, request_of(many * 200)) == 0x0213
            assert ask(association, request_of(many[:10])) == 0x0000
        assert len(state(node)) == 1


NO_PORT = '\n[[peer]]\nname = "client"\nae_title = "CLIENT"\n'


def test_a_peer_without_a_port_is_told_on_its_association_however_long_that_takes(tmp_path: Path, reports: Reports) -> None:
    with running(settings(tmp_path / "node", more=NO_PORT + QUICK)) as node:
        made = bright_series(2)
        send(node, made, tmp_path / "sent")
        with user(node.port, reports) as association:
            assert ask(association, request_of(pairs_of(made))) == 0x0000
            with node.node.database.read() as connection:
                asked_at = connection.scalars(select(commitment.c.requested_at)).one()
            # so long is a report left to an association whose peer can be called
            until(lambda: node.node.clock() > asked_at + node.node.config.commitment.report_wait)
            steps(node)
            assert reports.committed() == {image.SOPInstanceUID for image in made}
            until(lambda: state(node) == ["REPORTED"])


def test_a_peer_without_a_port_that_has_gone_cannot_be_told_until_it_asks_again(tmp_path: Path, reports: Reports) -> None:
    with running(settings(tmp_path / "node", more=NO_PORT + QUICK)) as node:
        made = bright_series(2)
        send(node, made, tmp_path / "sent")
        request = request_of(pairs_of(made))
        with user(node.port, reports) as association:
            assert ask(association, request) == 0x0000
        until(lambda: node.server.associations == 0)
        assert steps(node) == 1
        assert state(node) == ["FAILED"]
        with user(node.port, reports) as association:
            assert ask(association, request) == 0x0000
            steps(node)
            assert reports.committed() == {image.SOPInstanceUID for image in made}
            until(lambda: state(node) == ["REPORTED"])


def test_stores_go_on_while_a_report_waits_and_while_it_is_answered(tmp_path: Path, reports: Reports) -> None:
    with running(settings(tmp_path / "node", more=peer("client", 1, title="CLIENT") + PATIENT)) as node:
        made = bright_series(8)
        send(node, made[:4], tmp_path / "sent")
        ae = AE("CLIENT")
        ae.add_requested_context(StorageCommitmentPushModel)
        ae.add_requested_context(made[0].SOPClassUID)
        association = ae.associate("127.0.0.1", node.port, ae_title="NODE", evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.handle)])
        try:
            assert ask(association, request_of(pairs_of(made[:4]))) == 0x0000
            assert association.send_c_store(as_dataset(made[4])).Status == 0x0000
            steps(node)
            for image in made[5:]:
                assert association.send_c_store(as_dataset(image)).Status == 0x0000
            assert reports.committed() == {image.SOPInstanceUID for image in made[:4]}
            until(lambda: state(node) == ["REPORTED"])
            assert ask(association, request_of(pairs_of(made))) == 0x0000
        finally:
            association.release()
        assert len(node.node.archive.instances(uid_of(made))) == 8


def as_dataset(image: Dataset) -> Dataset:
    return dcmread(as_file(image))


def test_a_response_that_never_comes_leaves_the_report_to_the_next(tmp_path: Path, client_port: int, reports: Reports) -> None:
    """A client that asks, answers no report on its association, and closes it."""
    with running(settings(tmp_path / "node", more=peer("client", client_port, title="CLIENT") + PATIENT)) as node:
        made = bright_series(2)
        send(node, made, tmp_path / "sent")
        with raw_association(node.port, [(COMMITMENT, [IMPLICIT])], calling_ae="CLIENT") as sock:
            data = encode_references(References(generate_uid(), [Reference(*pair) for pair in pairs_of(made)]), IMPLICIT, report=False)
            command = encode_action_request(1, COMMITMENT, COMMITMENT_INSTANCE, 1)
            sock.sendall(p_data(pdv(1, 3, command)) + p_data(pdv(1, 2, data)))
            assert decode_command(receive_pdu(sock)[1][6:]).status == 0x0000
            steps(node)
            _, body = receive_pdu(sock)  # the report
            assert decode_command(body[6:]).field == N_EVENT_REPORT_RQ
            assert steps(node) == 0  # nobody else sends it meanwhile
        work_until(node, lambda: state(node) == ["REPORTED"])
        assert reports.committed() == {image.SOPInstanceUID for image in made}


@pytest.mark.parametrize("cut", [20, 200])
def test_a_request_that_breaks_off_leaves_nothing(node: StepNode, images: list[Dataset], cut: int) -> None:
    request = References(generate_uid(), [Reference(*pair) for pair in pairs_of(images)])
    data = encode_references(request, IMPLICIT, report=False)
    with raw_association(node.port, [(COMMITMENT, [IMPLICIT])], calling_ae="CLIENT") as sock:
        command = encode_action_request(1, COMMITMENT, COMMITMENT_INSTANCE, 1)
        sock.sendall(p_data(pdv(1, 3, command)) + p_data(pdv(1, 0, data[:cut])))
    until(lambda: node.server.associations == 0)
    assert state(node) == []


def test_garbage_is_answered_and_the_association_lives(node: StepNode) -> None:
    with raw_association(node.port, [(COMMITMENT, [IMPLICIT])], calling_ae="CLIENT") as sock:
        for number, garbage in enumerate((b"\xff" * 64, b"", bytes(7), b"\x08\x00\x99\x11\xff\xff\xff\xff" * 50), start=1):
            command = encode_action_request(number, COMMITMENT, COMMITMENT_INSTANCE, 1)
            sock.sendall(p_data(pdv(1, 3, command)) + p_data(pdv(1, 2, garbage)))
            _, body = receive_pdu(sock)
            assert decode_command(body[6:]).status == 0x0115
            assert decode_command(body[6:]).message_id == number


def test_an_instance_deleted_while_it_is_judged_is_not_committed(node: StepNode, images: list[Dataset], reports: Reports) -> None:
    gone = images[0].SOPInstanceUID
    with user(node.port, reports) as association:
        assert ask(association, request_of(pairs_of(images))) == 0x0000
    node.node.archive.delete_instance(gone, who="me", reason="test")
    work_until(node, lambda: state(node) == ["REPORTED"])
    assert reports.failures() == {gone: 0x0112}


def test_a_hundred_thousand_instances_in_one_transaction(tmp_path: Path) -> None:
    with running(settings(tmp_path / "node", more=peer("client", 1, title="CLIENT") + PATIENT)) as node:
        made = bright_series(4)
        send(node, made, tmp_path / "sent")
        unknown = [("1.2.840.10008.5.1.4.1.1.4", f"1.2.3.{number}") for number in range(99_996)]
        request = References(generate_uid(), [Reference(*pair) for pair in (*pairs_of(made), *unknown)])
        got: list[References] = []

        def take(report: References) -> int:
            got.append(report)
            return 0x0000

        with associate("127.0.0.1", node.port, calling_ae="CLIENT", called_ae="NODE", contexts=CONTEXTS) as association:
            asking = CommitmentAssociation(association, take)
            assert asking.request(request).status == 0x0000
            assert steps(node) == 1
            assert asking.await_report(30.0, lambda: bool(got))
        assert set(got[0].instances) == {Reference(*pair) for pair in pairs_of(made)}
        assert {reference.sop_instance_uid: reason for reference, reason in got[0].failed} == {uid: 0x0112 for _, uid in unknown}
        until(lambda: state(node) == ["REPORTED"])
