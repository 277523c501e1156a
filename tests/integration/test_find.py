"""C-FIND with pynetdicom as the client: levels, keys, names, character sets, statuses, cancel, limits."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)
from sqlalchemy import insert

from dicom_node.dimse import pdu
from dicom_node.dimse.contexts import IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND
from dicom_node.dimse.message import C_CANCEL_RQ, decode_command, encode_find_request, frame_command
from storage import schema
from storage.header_json import build_missing
from tests.dimse import p_data, pdv, receive_pdu, request_pdu, until
from tests.node import StepNode, bright_series, peer, running, send, settings

PATIENT_FIND, STUDY_FIND = PatientRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelFind
QUERIER = peer("querier", 104, title="QUERIER")
MUTE = '[[peer]]\nname = "mute"\nae_title = "MUTE"\nmay_query = false\n'


def study(slices: int, **attributes: Any) -> list[Dataset]:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "MRHEAD", "99TEST", "MR Head"
    return bright_series(slices, ProcedureCodeSequence=[code], **attributes)


STUDIES: Sequence[list[Dataset]] = (
    study(2, PatientName="Doe^Jane", PatientID="P1", StudyDate="20250102", AccessionNumber="A1", StudyDescription="Head"),
    study(3, PatientName="MÜLLER^Änne", PatientID="P2", StudyDate="20250203", SpecificCharacterSet="ISO_IR 100"),
    study(1, PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", PatientID="P3", StudyDate="20250304", SpecificCharacterSet="ISO_IR 192"),
    study(1, PatientName="Doe^Jane", PatientID="P1", StudyDate="20250405", StudyTime="235900"),
)


def uid(number: int) -> str:
    return str(STUDIES[number][0].StudyInstanceUID)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepNode]:
    folder = tmp_path_factory.mktemp("find")
    with running(settings(folder / "node", more=QUERIER + MUTE)) as node:
        for number, images in enumerate(STUDIES):
            assert set(send(node, images, folder / str(number))) == {0}
        node.complete()
        while build_missing(node.node.archive):
            continue
        yield node


def asked(level: str = "STUDY", **keys: Any) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


def find(
    node: StepNode, identifier: Dataset, *, model: Any = STUDY_FIND, title: str = "QUERIER", extended: bytes = b""
) -> tuple[list[tuple[int, Dataset]], Dataset]:
    """The pending answers with their statuses, and the final one."""
    ae = AE(title)
    ae.add_requested_context(model)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = model, extended
    association = ae.associate("127.0.0.1", node.port, ae_title="NODE", ext_neg=[item] if extended else None)
    assert association.is_established
    if extended:
        assert association.acceptor.sop_class_extended == {model: bytes(min(each, 1) for each in extended[:4]) + bytes(len(extended[4:]))}
    answers = [(int(status.Status), match) for status, match in association.send_c_find(identifier, model)]
    association.release()
    final = answers.pop()
    status = Dataset()
    status.Status = final[0]
    return [(code, match) for code, match in answers if match is not None], status


def studies(node: StepNode, **keys: Any) -> set[str]:
    matches, final = find(node, asked(StudyInstanceUID="", **keys))
    assert final.Status == 0
    return {str(match.StudyInstanceUID) for _, match in matches}


def test_a_study_with_what_is_asked_for(node: StepNode) -> None:
    keys = {"PatientName": "", "PatientID": "", "StudyDate": "", "AccessionNumber": "", "ModalitiesInStudy": "", "InstanceAvailability": ""}
    counts = {"NumberOfStudyRelatedSeries": None, "NumberOfStudyRelatedInstances": None}
    ((status, match),), final = find(node, asked(StudyInstanceUID=uid(0), **keys, **counts, StudyDescription=""))
    assert (status, final.Status) == (0xFF00, 0)
    assert str(match.PatientName) == "Doe^Jane"
    assert (match.PatientID, match.StudyDate, match.AccessionNumber, match.StudyDescription) == ("P1", "20250102", "A1", "Head")
    assert (match.ModalitiesInStudy, match.NumberOfStudyRelatedSeries, match.NumberOfStudyRelatedInstances) == ("MR", 1, 2)
    assert (match.QueryRetrieveLevel, match.RetrieveAETitle, match.InstanceAvailability) == ("STUDY", "NODE", "ONLINE")
    assert "SpecificCharacterSet" not in match


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {0, 1, 2, 3}),
        ({"StudyInstanceUID": [0, 3]}, {0, 3}),
        ({"PatientID": "P1"}, {0, 3}),
        ({"PatientID": "P?"}, {0, 1, 2, 3}),
        ({"PatientID": "%"}, set()),
        ({"PatientID": "' OR 1=1 --"}, set()),
        ({"PatientName": "doe^*"}, {0, 3}),
        ({"PatientName": "DOE^JANE"}, {0, 3}),
        ({"PatientName": "*jane"}, {0, 3}),
        ({"PatientName": "muller*"}, {1}),
        ({"PatientName": "yamada*"}, {2}),
        ({"StudyDate": "20250102"}, {0}),
        ({"StudyDate": "20250201-20250331"}, {1, 2}),
        ({"StudyDate": "20250304-"}, {2, 3}),
        ({"StudyDate": "-20250102"}, {0}),
        ({"StudyTime": "230000-235959"}, {3}),
        ({"ModalitiesInStudy": "MR"}, {0, 1, 2, 3}),
        ({"ModalitiesInStudy": "CT"}, set()),
        ({"AccessionNumber": "A1", "PatientID": "P2"}, set()),
    ],
    ids=str,
)
def test_matching(node: StepNode, keys: dict[str, Any], expected: set[int]) -> None:
    if "StudyInstanceUID" in keys:
        matches, _ = find(node, asked(StudyInstanceUID=[uid(number) for number in keys["StudyInstanceUID"]]))
        found = {str(match.StudyInstanceUID) for _, match in matches}
    else:
        found = studies(node, **keys)
    assert found == {uid(number) for number in expected}


def test_names_are_found_and_answered_in_the_character_set_of_the_request(node: StepNode) -> None:
    ((_, latin),), _ = find(node, asked(PatientName="Mül*", SpecificCharacterSet="ISO_IR 100"))
    assert (latin.SpecificCharacterSet, str(latin.PatientName)) == ("ISO_IR 100", "MÜLLER^Änne")
    ((_, unicode),), _ = find(node, asked(PatientName="山田*", SpecificCharacterSet="ISO_IR 192"))
    assert (unicode.SpecificCharacterSet, str(unicode.PatientName)) == ("ISO_IR 192", "Yamada^Tarou=山田^太郎=やまだ^たろう")
    ((_, converted),), _ = find(node, asked(PatientName="yamada*", SpecificCharacterSet="ISO_IR 100"))
    assert (converted.SpecificCharacterSet, str(converted.PatientName)) == ("ISO_IR 192", "Yamada^Tarou=山田^太郎=やまだ^たろう")


def test_a_name_is_asked_for_and_answered_with_code_extensions(node: StepNode) -> None:
    wanted = asked(StudyInstanceUID="")
    wanted.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    wanted.PatientName = "*=山田*"
    ((_, match),), _ = find(node, wanted)
    assert list(match.SpecificCharacterSet) == ["", "ISO 2022 IR 87"]
    assert str(match.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def test_series_and_images(node: StepNode) -> None:
    ((_, match),), _ = find(node, asked("SERIES", StudyInstanceUID=uid(1), Modality="", NumberOfSeriesRelatedInstances=None))
    assert (match.SeriesInstanceUID, match.Modality) == (STUDIES[1][0].SeriesInstanceUID, "MR")
    assert match.NumberOfSeriesRelatedInstances == 3
    keys = {"StudyInstanceUID": uid(1), "SeriesInstanceUID": STUDIES[1][0].SeriesInstanceUID}
    images, _ = find(node, asked("IMAGE", **keys, SOPInstanceUID="", InstanceNumber=None, Rows=None, PhotometricInterpretation=""))
    assert {match.SOPInstanceUID for _, match in images} == {image.SOPInstanceUID for image in STUDIES[1]}
    assert {(match.Rows, match.PhotometricInterpretation) for _, match in images} == {(12, "MONOCHROME2")}
    ((_, one),), _ = find(node, asked("IMAGE", SOPInstanceUID=STUDIES[2][0].SOPInstanceUID, StudyInstanceUID=""))
    assert one.StudyInstanceUID == uid(2)


def test_patients(node: StepNode) -> None:
    matches, final = find(node, asked("PATIENT", PatientID="", PatientName=""), model=PATIENT_FIND)
    assert final.Status == 0
    assert sorted(str(match.PatientID) for _, match in matches) == ["P1", "P2", "P3"]
    assert all("RetrieveAETitle" not in match for _, match in matches)


def test_sequences_come_back_and_are_matched(node: StepNode) -> None:
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "MRHEAD", ""
    matches, _ = find(node, asked(StudyInstanceUID=uid(0), ProcedureCodeSequence=[item]))
    assert matches[0][1].ProcedureCodeSequence[0].CodeMeaning == "MR Head"
    item.CodeValue = "OTHER"
    assert find(node, asked(StudyInstanceUID=uid(0), ProcedureCodeSequence=[item]))[0] == []


def test_a_key_that_is_not_held_shows_in_the_status(node: StepNode) -> None:
    ((status, match),), _ = find(node, asked(StudyInstanceUID=uid(0), SOPInstanceUID=""))
    assert status == 0xFF01
    assert match.StudyInstanceUID == uid(0)


@pytest.mark.parametrize("level", ["", "PATIENT", "FRAME"])
def test_a_level_that_is_none(node: StepNode, level: str) -> None:
    matches, final = find(node, asked(level, StudyInstanceUID=""))
    assert (matches, final.Status) == ([], 0xA900)


def test_who_may_query(node: StepNode) -> None:
    for title in ("MUTE", "STRANGER"):
        assert find(node, asked(StudyInstanceUID=""), title=title)[1].Status == 0x0124


def test_extended_negotiation(node: StepNode) -> None:
    matches, _ = find(node, asked(PatientName="Jane Do", StudyInstanceUID=""), extended=b"\x01\x01\x01\x01")
    assert {str(match.StudyInstanceUID) for _, match in matches} == {uid(0), uid(3)}
    keys = {"StudyDate": "20250405-20250406", "StudyTime": "235800-000100", "StudyInstanceUID": ""}
    matches, _ = find(node, asked(**keys), extended=b"\x01\x01\x00\x00\x01")
    assert {str(match.StudyInstanceUID) for _, match in matches} == {uid(3)}
    assert find(node, asked(**keys))[0] == []


def test_a_cap_ends_with_a_warning(tmp_path: Path) -> None:
    with running(settings(tmp_path / "node", more=QUERIER + "[query]\nmax_results = 2\n")) as node:
        for number, images in enumerate(STUDIES[:3]):
            send(node, images, tmp_path / str(number))
        matches, final = find(node, asked(StudyInstanceUID=""))
        assert (len(matches), final.Status) == (2, 0xB001)
        matches, final = find(node, asked(StudyInstanceUID="", StudyDate="20250102-20250203"))
        assert (len(matches), final.Status) == (2, 0)


def many(node: StepNode, count: int) -> None:
    """Studies enough that their matches fit into no socket's buffers."""
    with node.node.database.begin() as connection:
        patient = connection.execute(insert(schema.patient).values(patient_id="MANY").returning(schema.patient.c.pk)).scalar_one()
        times = {"first_received_at": 0.0, "last_received_at": 0.0, "study_description": "x" * 60}
        rows = [{"study_uid": f"2.25.{number + 1}", "patient_pk": patient, **times} for number in range(count)]
        connection.execute(insert(schema.study), rows)


def test_a_cancel_ends_it_between_two_matches(tmp_path: Path) -> None:
    count = 60_000
    with running(settings(tmp_path / "node", more=QUERIER + f"[query]\nmax_results = {count}\n")) as node:
        many(node, count)
        with slow_client(node) as sock:
            sock.sendall(every_study(7))
            statuses = [status_of(sock)]
            sock.sendall(frame_command(1, cancel(7)))
            while statuses[-1] == 0xFF00:
                statuses.append(status_of(sock))
            assert statuses[-1] == 0xFE00
            assert len(statuses) < count


@pytest.mark.parametrize("cut", [3, 8, 40, -1], ids=["in the PDU's header", "in the PDV's", "in the command", "before its last byte"])
def test_half_a_cancel_holds_nothing_up_and_counts_when_the_rest_is_here(cut: int, node: StepNode) -> None:
    whole = frame_command(1, cancel(9))
    with slow_client(node) as sock:
        sock.sendall(every_study(7) + whole[:cut])
        assert [status_of(sock) for _ in range(len(STUDIES) + 1)] == [0xFF00] * len(STUDIES) + [0]
        sock.sendall(whole[cut:] + every_study(8))
        assert [status_of(sock) for _ in range(len(STUDIES) + 1)] == [0xFF00] * len(STUDIES) + [0]


def test_a_cancel_in_two_pdus_is_one(tmp_path: Path) -> None:
    command = cancel(7)
    with running(settings(tmp_path / "node", more=QUERIER + "[query]\nmax_results = 60000\n")) as node:
        many(node, 60_000)
        with slow_client(node) as sock:
            sock.sendall(every_study(7) + p_data(pdv(1, 1, command[:20])))
            statuses = [status_of(sock) for _ in range(100)]
            sock.sendall(p_data(pdv(1, 3, command[20:])))
            while statuses[-1] == 0xFF00:
                statuses.append(status_of(sock))
            assert statuses[-1] == 0xFE00


def test_a_client_that_does_not_read_keeps_no_snapshot_of_the_index(tmp_path: Path) -> None:
    with running(settings(tmp_path / "node", more=QUERIER + "[query]\nmax_results = 60000\n")) as node:
        many(node, 60_000)
        with slow_client(node) as sock:
            sock.sendall(every_study(7))
            assert status_of(sock) == 0xFF00
            database = node.node.database
            until(lambda: database._reader.pool.checkedout() == 0)  # type: ignore[attr-defined]
            with closing(database.raw()) as raw:
                until(lambda: raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
            statuses = [status_of(sock) for _ in range(60_000)]
            assert statuses == [0xFF00] * 59_999 + [0]


def every_study(message_id: int) -> bytes:
    """A request for all studies, with a description that is long."""
    identifier = b"\x08\x00\x52\x00\x06\x00\x00\x00STUDY \x08\x00\x30\x10\0\0\0\0\x20\x00\x0d\x00\0\0\0\0"
    return frame_command(1, encode_find_request(message_id, STUDY_ROOT_FIND)) + p_data(pdv(1, 2, identifier))


@contextmanager
def slow_client(node: StepNode) -> Iterator[socket.socket]:
    """An association whose answers pile up at the node while nobody reads."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", node.port))
        sock.sendall(request_pdu([(STUDY_ROOT_FIND, [IMPLICIT_VR_LITTLE_ENDIAN])], calling_ae="QUERIER"))
        assert receive_pdu(sock)[0] == pdu.ASSOCIATE_AC
        yield sock


def cancel(message_id: int) -> bytes:
    def us(element: int, value: int) -> bytes:
        return b"\0\0" + element.to_bytes(2, "little") + b"\2\0\0\0" + value.to_bytes(2, "little")

    body = us(0x0100, C_CANCEL_RQ) + us(0x0120, message_id) + us(0x0800, 0x0101)
    return b"\0\0\0\0\4\0\0\0" + len(body).to_bytes(4, "little") + body


def status_of(sock: socket.socket) -> int:
    """The status of the next response; a match behind it is read and dropped."""
    kind, body = receive_pdu(sock)
    assert kind == pdu.P_DATA
    command = decode_command(body[6:])
    if command.has_data_set:
        receive_pdu(sock)
    return command.status
