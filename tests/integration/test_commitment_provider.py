"""Storage commitment asked of us: recorded before it is answered, judged by the bytes on disk, reported until it is taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import select

from storage.schema import commitment
from tests.commitment import Reports, ask, listening, pairs_of, request_of, user
from tests.dimse import until
from tests.node import StepNode, bright_series, peer, running, send, settings

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
