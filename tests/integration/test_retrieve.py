"""C-GET and C-MOVE with an independent client: what is sent, how it is counted, what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_role, evt

from dicom_node.retrieve import WHOLE
from dicom_node.transcode import Transcoder
from storage.archive import Source
from tests.dimse import CT, EXPLICIT, IMPLICIT, until
from tests.integration.test_dimse_archive import data_set
from tests.node import StepNode, peer, running, settings
from tests.retrieving import PATIENT_GET, STUDY_GET, STUDY_MOVE, Received, destination, get, keys, move

MR = "1.2.840.10008.5.1.4.1.1.4"
TAKEN = [(CT, [EXPLICIT])]
CLIENT = '[[peer]]\nname = "client"\nae_title = "CLIENT"\n'


def fill(node: StepNode, count: int, *, study: str = "1.2.3", size: int = 5000) -> dict[str, bytes]:
    """Store CT instances of one series; UID to data set."""
    session = node.node.archive.session(Source(None, "TEST", "NODE", "127.0.0.1", "received"))
    stored = {}
    for number in range(count):
        uid = f"{study}.1.{number + 1}"
        stored[uid] = data_set(uid, size, study, InstanceNumber=number, PatientID="P" + study)
        writer = session.begin(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT)
        writer.write([stored[uid]])
        assert writer.commit().outcome.name == "STORED"
    session.close()
    return stored


@pytest.fixture
def received() -> Received:
    return Received()


@pytest.fixture
def destination_port(received: Received) -> Iterator[int]:
    with destination(received, TAKEN) as port:
        yield port


@pytest.fixture
def node(tmp_path: Path, destination_port: int) -> Iterator[StepNode]:
    more = CLIENT + peer("destination", destination_port, title="DESTINATION") + peer("dead", 1, title="DEAD")
    more += '[[peer]]\nname = "mute"\nae_title = "MUTE"\nmay_retrieve = false\n'
    with running(settings(tmp_path / "node", more=more)) as node:
        yield node


def bytes_of(received: Received) -> dict[str, bytes]:
    return {uid: data for uid, (_, data) in received.instances.items()}


@pytest.mark.parametrize("level", ["PATIENT", "STUDY", "SERIES", "IMAGE"])
def test_get_at_every_level(level: str, node: StepNode) -> None:
    stored = fill(node, 3)
    fill(node, 2, study="1.2.4")
    wanted = {
        "PATIENT": keys("PATIENT", PatientID="P1.2.3"),
        "STUDY": keys("STUDY", StudyInstanceUID="1.2.3"),
        "SERIES": keys("SERIES", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1"),
        "IMAGE": keys("IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1", SOPInstanceUID="\\".join(stored)),
    }[level]
    model = PATIENT_GET if level == "PATIENT" else STUDY_GET
    answers, received = get(node.port, wanted, TAKEN, model=model)
    assert answers.status.Status == 0
    assert answers.counts == (None, 3, 0, 0)
    assert bytes_of(received) == stored


def test_a_move_goes_to_the_peer_of_that_title(node: StepNode, received: Received) -> None:
    stored = fill(node, 25)
    answers = move(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), "DESTINATION")
    assert answers.status.Status == 0
    assert answers.counts == (None, 25, 0, 0)
    assert bytes_of(received) == stored
    assert received.associations == 1
    assert received.originators == {("CLIENT", 77)}
    assert received.contexts[0] == (CT, (EXPLICIT,))
    assert {abstract for abstract, _ in received.contexts} == {CT}


def test_several_studies_and_nothing_at_all(node: StepNode) -> None:
    fill(node, 2)
    fill(node, 2, study="1.2.4")
    answers, received = get(node.port, keys("STUDY", StudyInstanceUID="1.2.3\\1.2.4\\1.2.5"), TAKEN)
    assert (answers.status.Status, len(received.instances)) == (0, 4)
    answers, _ = get(node.port, keys("STUDY", StudyInstanceUID="1.2.9"), TAKEN)
    assert (answers.status.Status, answers.counts) == (0, (None, 0, 0, 0))
    assert move(node.port, keys("STUDY", StudyInstanceUID="1.2.9"), "DESTINATION").status.Status == 0


@pytest.mark.parametrize(
    "wanted",
    [
        keys("STUDY"),
        keys("STUDY", StudyInstanceUID=""),
        keys("STUDY", StudyInstanceUID="1.2.a"),
        keys("STUDY", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1"),
        keys("PATIENT", PatientID="P"),
        keys("NOTHING", StudyInstanceUID="1.2.3"),
        keys("SERIES", StudyInstanceUID="1.2.3"),
    ],
    ids=["no key", "empty", "wildcard", "key below", "patient in study root", "unknown level", "key of another level"],
)
def test_identifiers_that_are_none(wanted: Dataset, node: StepNode) -> None:
    fill(node, 1)
    answers, received = get(node.port, wanted, TAKEN)
    assert answers.status.Status == 0xA900
    assert answers.status.ErrorComment
    assert not received.instances
    assert move(node.port, wanted, "DESTINATION").status.Status == 0xA900


def test_patients_of_one_id_are_told_apart_by_its_issuer(node: StepNode) -> None:
    session = node.node.archive.session(Source(None, "TEST", "NODE", "127.0.0.1", "received"))
    for study, issuer in (("1.2.3", "HERE"), ("1.2.4", "THERE")):
        writer = session.begin(sop_class_uid=CT, sop_instance_uid=f"{study}.1", transfer_syntax_uid=EXPLICIT)
        writer.write([data_set(f"{study}.1", 500, study, PatientID="P", IssuerOfPatientID=issuer)])
        assert writer.commit().outcome.name == "STORED"
    session.close()
    _, both = get(node.port, keys("PATIENT", PatientID="P"), TAKEN, model=PATIENT_GET)
    assert sorted(both.instances) == ["1.2.3.1", "1.2.4.1"]
    _, one = get(node.port, keys("PATIENT", PatientID="P", IssuerOfPatientID="THERE"), TAKEN, model=PATIENT_GET)
    assert sorted(one.instances) == ["1.2.4.1"]


def test_who_may_not_and_where_to_nobody_may(node: StepNode) -> None:
    fill(node, 1)
    wanted = keys("STUDY", StudyInstanceUID="1.2.3")
    for title in ("MUTE", "STRANGER"):
        answers, received = get(node.port, wanted, TAKEN, title=title)
        assert (answers.status.Status, received.instances) == (0x0124, {})
        assert move(node.port, wanted, "DESTINATION", title=title).status.Status == 0x0124
    for nobody in ("NOBODY", "CLIENT"):
        assert move(node.port, wanted, nobody).status.Status == 0xA801


def test_a_destination_that_is_not_there(node: StepNode) -> None:
    stored = fill(node, 3)
    answers = move(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), "DEAD")
    assert answers.status.Status == 0xA702
    assert answers.counts == (None, 0, 3, 0)
    assert sorted(answers.failed) == sorted(stored)


@pytest.mark.parametrize("status", [0xA700, 0xC000, 0x0110])
def test_one_refusal_does_not_end_the_rest(status: int, node: StepNode, received: Received) -> None:
    stored = fill(node, 5)
    bad = sorted(stored)[2]
    received.answer = lambda uid: status if uid == bad else 0xB000 if uid.endswith(".5") else 0
    answers = move(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), "DESTINATION")
    assert answers.status.Status == 0xB000
    assert answers.counts == (None, 3, 1, 1)
    assert answers.failed == [bad]
    again, by_get = get(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), TAKEN, Received(answer=received.answer))
    assert (again.status.Status, again.counts, again.failed) == (0xB000, (None, 3, 1, 1), [bad])
    assert bytes_of(by_get) == {uid: data for uid, data in stored.items() if uid != bad}


def test_damaged_and_missing_bytes_fail_alone(node: StepNode) -> None:
    stored = fill(node, 4)
    uids = sorted(stored)
    damaged = node.node.archive.open_instance(uids[1])
    with damaged.path.open("r+b") as file:
        file.seek(damaged.offset + damaged.length - 100)
        file.write(b"damage")
    answers, received = get(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), TAKEN)
    assert (answers.status.Status, answers.counts, answers.failed) == (0xB000, (None, 3, 1, 0), [uids[1]])
    assert sorted(received.instances) == [uids[0], *uids[2:]]
    damaged.path.unlink()
    answers, received = get(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), TAKEN)
    assert (answers.status.Status, answers.counts) == (0xA702, (None, 0, 4, 0))


def test_an_instance_larger_than_what_is_read_at_once(node: StepNode, received: Received) -> None:
    fill(node, 1, size=100)
    stored = fill(node, 2, study="1.2.4", size=WHOLE + 1_000_001)
    answers, got = get(node.port, keys("STUDY", StudyInstanceUID="1.2.4"), TAKEN)
    assert (answers.status.Status, answers.counts) == (0, (None, 2, 0, 0))
    assert bytes_of(got) == stored
    first = node.node.archive.open_instance("1.2.4.1.1")
    with first.path.open("r+b") as file:
        file.seek(first.offset + first.length - WHOLE)
        file.write(b"damage")
    answers = move(node.port, keys("STUDY", StudyInstanceUID="1.2.4\\1.2.3"), "DESTINATION")
    assert (answers.status.Status, answers.counts, answers.failed) == (0xB000, (None, 2, 1, 0), ["1.2.4.1.1"])
    assert "1.2.4.1.1" not in received.instances
    assert received.instances["1.2.4.1.2"][1] == stored["1.2.4.1.2"]


def test_a_slow_destination_is_told_of_every_second(node: StepNode, received: Received) -> None:
    fill(node, 2)
    slow = threading.Event()

    def answer(uid: str) -> int:
        slow.wait(1.3)
        return 0

    received.answer = answer
    answers = move(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), "DESTINATION")
    assert (answers.status.Status, answers.counts) == (0, (None, 2, 0, 0))
    assert len(answers.pending) >= 2
    assert answers.pending[0].NumberOfRemainingSuboperations == 2


def test_a_client_that_goes_away_ends_the_move(node: StepNode, received: Received) -> None:
    fill(node, 200, size=100)
    seen, slow = threading.Event(), threading.Event()

    def answer(uid: str) -> int:
        seen.set()
        slow.wait(0.05)
        return 0

    received.answer = answer
    ae = AE("CLIENT")
    ae.dimse_timeout = 1
    ae.add_requested_context(STUDY_MOVE)
    association = ae.associate("127.0.0.1", node.port, ae_title="NODE")
    asking = threading.Thread(
        target=lambda: list(association.send_c_move(keys("STUDY", StudyInstanceUID="1.2.3"), "DESTINATION", STUDY_MOVE))
    )
    asking.start()
    assert seen.wait(10)
    association.abort()
    asking.join(10)
    until(lambda: node.server.associations == 0)
    assert len(received.instances) < 150


def test_a_deleted_study_is_gone(node: StepNode) -> None:
    fill(node, 2)
    node.node.archive.delete_study("1.2.3", who="test", reason="test")
    answers, received = get(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), TAKEN)
    assert (answers.status.Status, answers.counts, received.instances) == (0, (None, 0, 0, 0), {})


def test_what_the_client_does_not_take_fails_alone(node: StepNode) -> None:
    stored = fill(node, 2)
    answers, received = get(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), [(MR, [EXPLICIT])])
    assert (answers.status.Status, answers.counts) == (0xA702, (None, 0, 2, 0))
    assert sorted(answers.failed) == sorted(stored)
    assert not received.instances


def test_pending_responses_count_down(node: StepNode) -> None:
    fill(node, 40, size=100)
    answers, _ = get(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), TAKEN)
    assert len(answers.pending) >= 9
    for each in answers.pending:
        done = each.NumberOfCompletedSuboperations + each.NumberOfFailedSuboperations + each.NumberOfWarningSuboperations
        assert each.NumberOfRemainingSuboperations + done == 40
    remaining = [each.NumberOfRemainingSuboperations for each in answers.pending]
    assert remaining == sorted(remaining, reverse=True)


@pytest.mark.parametrize("service", ["get", "move"])
def test_cancel(service: str, node: StepNode, received: Received) -> None:
    fill(node, 200, size=100)
    seen, slow = threading.Event(), threading.Event()

    def answer(uid: str) -> int:
        if len(received.instances) >= 5:
            seen.set()
            slow.wait(0.03)  # to its end this would take six seconds
        return 0

    received.answer = answer
    model = STUDY_GET if service == "get" else STUDY_MOVE
    ae = AE("CLIENT")
    ae.add_requested_context(model)
    ae.add_requested_context(CT, EXPLICIT)
    association = ae.associate(
        "127.0.0.1", node.port, ae_title="NODE", ext_neg=[build_role(CT, scp_role=True)], evt_handlers=[(evt.EVT_C_STORE, received.store)]
    )
    assert association.is_established
    wanted = keys("STUDY", StudyInstanceUID="1.2.3")
    every: list[Dataset] = []

    def collect() -> None:
        responses = (
            association.send_c_get(wanted, model, 9) if service == "get" else association.send_c_move(wanted, "DESTINATION", model, 9)
        )
        every.extend(status for status, _ in responses)

    collecting = threading.Thread(target=collect)
    collecting.start()
    assert seen.wait(10)
    association.send_c_cancel(9, query_model=model)
    collecting.join(20)
    association.release()
    assert every[-1].Status == 0xFE00
    assert every[-1].NumberOfRemainingSuboperations > 100
    assert every[-1].NumberOfCompletedSuboperations + every[-1].NumberOfRemainingSuboperations == 200


@pytest.mark.parametrize("service", ["get", "move"])
def test_a_cancel_is_heard_while_the_next_instance_takes_long_to_transcode(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    real = Transcoder.transcode

    def transcode(self: Transcoder, data: bytes, source: str, target: str) -> bytes:
        if b"1.2.3.1.1" not in data:  # all but the first instance
            goes_on.wait(60)
        return real(self, data, source, target)

    monkeypatch.setattr(Transcoder, "transcode", transcode)
    received = Received()
    model = STUDY_GET if service == "get" else STUDY_MOVE
    with destination(received, [(CT, [IMPLICIT])]) as port:
        more = CLIENT + peer("destination", port, title="DESTINATION")
        with running(settings(tmp_path / "slow", more=more)) as node:
            fill(node, 5)
            ae = AE("CLIENT")
            ae.add_requested_context(model)
            ae.add_requested_context(CT, IMPLICIT)
            handlers = [(evt.EVT_C_STORE, received.store)]
            roles = [build_role(CT, scp_role=True)]
            association = ae.associate("127.0.0.1", node.port, ae_title="NODE", ext_neg=roles, evt_handlers=handlers)
            wanted = keys("STUDY", StudyInstanceUID="1.2.3")
            every: list[Dataset] = []

            def collect() -> None:
                answers = (
                    association.send_c_get(wanted, model, 9)
                    if service == "get"
                    else association.send_c_move(wanted, "DESTINATION", model, 9)
                )
                every.extend(status for status, _ in answers)

            collecting = threading.Thread(target=collect)
            collecting.start()
            try:
                until(lambda: len(received.instances) == 1)
                association.send_c_cancel(9, query_model=model)
                collecting.join(20)
                assert not collecting.is_alive()
                assert not goes_on.is_set()
            finally:
                goes_on.set()
                association.abort()
    assert every[-1].Status == 0xFE00
    assert (every[-1].NumberOfCompletedSuboperations, every[-1].NumberOfRemainingSuboperations) == (1, 4)
