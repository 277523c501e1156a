"""STOW-RS: instances in over HTTP, each with its own answer, on the same durable path as C-STORE."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select

from storage.schema import association, audit, instance, quarantine, study
from tests.datasets import CT, dataset, element, part10
from tests.webserver import BOUNDARY, MULTIPART, WebNode, multipart, value, web_node

STUDY, SERIES = "1.2.3", "1.2.3.1"


def instance_file(number: int = 1, *, study_uid: str = STUDY, **changes: object) -> bytes:
    sop = f"{study_uid}.1.{number}"
    return part10(dataset(study_uid, f"{study_uid}.1", sop, number=number, **changes), CT, sop)  # type: ignore[arg-type]


def failures(answer: httpx.Response) -> dict[str, tuple[int, str]]:
    items = answer.json()["00081198"]["Value"]
    return {value(item, "00081155"): (value(item, "00081197"), value(item, "00000902")) for item in items}


def references(answer: httpx.Response) -> list[str]:
    return [value(item, "00081155") for item in answer.json()["00081199"]["Value"]]


def data_of(web: WebNode, sop_uid: str) -> bytes:
    stored = web.node.archive.open_instance(sop_uid)
    return stored.pread(stored.meta_length, stored.length - stored.meta_length)


def rows(web: WebNode, table: object) -> list[object]:
    with web.node.database.read() as connection:
        return list(connection.execute(select(table)).all())  # type: ignore[call-overload]


def test_instances_are_stored_byte_for_byte_and_each_is_answered(tmp_path: Path) -> None:
    files = [instance_file(number) for number in range(1, 31)]
    with web_node(tmp_path) as web:
        answer = web.store(files)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/dicom+json"
        assert references(answer) == [f"{STUDY}.1.{number}" for number in range(1, 31)]
        assert value(answer.json(), "00081190") == f"{web.url}/studies/{STUDY}"
        first = answer.json()["00081199"]["Value"][0]
        assert value(first, "00081150") == CT
        assert value(first, "00081190") == f"{web.url}/studies/{STUDY}/series/{SERIES}/instances/{STUDY}.1.1"
        Dataset.from_json(answer.json())
        for number, file in enumerate(files, 1):
            assert file.endswith(data_of(web, f"{STUDY}.1.{number}"))
        assert web.node.archive.open_instance(f"{STUDY}.1.1").read()[:132] == bytes(128) + b"DICM"


def test_the_request_is_an_association_of_its_own_and_is_audited(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        web.store([instance_file(1), instance_file(2)])
    with web_node(tmp_path) as web:
        (row,) = rows(web, association)
        assert (row.ended, row.stored, row.calling_ae, row.called_ae, row.address) == ("released", 2, "anonymous", "NODE", "127.0.0.1")
        kept = rows(web, instance)
        assert {each.association_id for each in kept} == {row.id}
        (event,) = [each for each in rows(web, audit) if each.event == "study.stored"]
        assert (event.study_uid, event.actor, event.detail["instances"]) == (STUDY, "anonymous", 2)


def test_a_single_file_and_what_a_preamble_holds(tmp_path: Path) -> None:
    file = part10(dataset(STUDY, SERIES, "1.2.3.1.1"), CT, "1.2.3.1.1", preamble=b"MZ" + b"\x90" * 126)
    with web_node(tmp_path) as web:
        answer = web.client.post(f"{web.url}/studies/{STUDY}", content=file, headers={"Content-Type": "application/dicom"})
        assert answer.status_code == 200
        assert web.node.archive.open_instance("1.2.3.1.1").read()[:128] == bytes(128)


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/related; type="application/dicom"; boundary="it\'s (a) strange,boundary=:?/_+.-"',
        "multipart/related; type=application/dicom; boundary=it's (a) strange,boundary=:?/_+.-",
        "Multipart/Related; BOUNDARY=\"it's (a) strange,boundary=:?/_+.-\"",
    ],
)
def test_any_legal_boundary(tmp_path: Path, content_type: str) -> None:
    body = multipart([instance_file()], boundary="it's (a) strange,boundary=:?/_+.-")
    with web_node(tmp_path) as web:
        assert web.client.post(f"{web.url}/studies", content=body, headers={"Content-Type": content_type}).status_code == 200


def test_an_answer_in_xml(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        answer = web.store([instance_file(), b"no DICOM"], Accept="application/dicom+xml")
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/dicom+xml"
    root = ElementTree.fromstring(answer.content)
    name = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    keywords = {attribute.get("tag"): attribute.get("keyword") for attribute in root}
    assert keywords == {"00081190": "RetrieveURL", "00081199": "ReferencedSOPSequence", "0008119A": "OtherFailuresSequence"}
    uids = [found.text for found in root.findall(f".//{name}DicomAttribute[@tag='00081155']/{name}Value")]
    assert uids == [f"{STUDY}.1.1"]


def test_duplicates_and_conflicts_in_one_request(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        answer = web.store([instance_file(1), instance_file(1), instance_file(1, pixels=b"other" * 20), instance_file(2)])
        assert answer.status_code == 202
        assert sorted(references(answer)) == [f"{STUDY}.1.1", f"{STUDY}.1.1", f"{STUDY}.1.2"]
        assert failures(answer) == {f"{STUDY}.1.1": (0xC001, "other content under a UID that is taken")}
        assert len(rows(web, instance)) == 2
        assert len(rows(web, quarantine)) == 1
        again = web.store([instance_file(1), instance_file(2)])
        assert again.status_code == 200
        assert len(rows(web, instance)) == 2


def test_a_conflict_may_be_a_warning(tmp_path: Path) -> None:
    with web_node(tmp_path, more="") as web:
        web.store([instance_file(1)])
    config = (tmp_path / "node.toml").read_text().replace("[archive]\n", '[archive]\nconflict = "warn"\n')
    (tmp_path / "node.toml").write_text(config)
    from dicom_node.config import load
    from tests.webserver import serving

    with serving(load(tmp_path / "node.toml")) as web:
        answer = web.store([instance_file(1, pixels=b"other" * 20)])
        assert answer.status_code == 202
        (item,) = answer.json()["00081199"]["Value"]
        assert value(item, "00081196") == 0xB000


def test_an_instance_of_another_study_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        answer = web.store([instance_file(1), instance_file(1, study_uid="1.2.4")], study=STUDY)
        assert answer.status_code == 202
        assert references(answer) == [f"{STUDY}.1.1"]
        assert failures(answer) == {"1.2.4.1.1": (0xA900, "Study Instance UID is not the one of the request")}
        assert [row.study_uid for row in rows(web, study)] == [STUDY]
        assert [path.name for path in (web.node.archive.root / "segments").iterdir()] == [STUDY]
        assert web.store([instance_file(1, study_uid="1.2.4")], study=STUDY).status_code == 409


def test_every_way_to_fail_has_its_reason(tmp_path: Path) -> None:
    good = dataset(STUDY, SERIES, "1.2.3.1.1")
    truncated = dataset(STUDY, SERIES, "1.2.3.1.2")[:-10]
    files = [
        part10(truncated, CT, "1.2.3.1.2"),
        part10(good, "1.2.840.10008.5.1.4.1.1.4", "1.2.3.1.9"),
        part10(good, "1.2.840.10008.1.3.10", "1.2.3.1.3"),
        part10(good, CT, "1.2.3.1.4", syntax="1.2.840.113619.5.2"),
        part10(dataset("../x", SERIES, "1.2.3.1.5"), CT, "1.2.3.1.5"),
        part10(good, CT, "../../etc/passwd"),
        b"",
        b"\x89PNG\r\n\x1a\n",
        part10(b"", CT, "1.2.3.1.6"),
    ]
    with web_node(tmp_path) as web:
        answer = web.store(files)
        assert answer.status_code == 409
        got = {uid: status for uid, (status, _) in failures(answer).items()}
        others = [value(item, "00081197") for item in answer.json()["0008119A"]["Value"]]
        assert not rows(web, instance)
    assert got == {
        "1.2.3.1.2": 0xC000,
        "1.2.3.1.9": 0xA900,
        "1.2.3.1.3": 0x0122,
        "1.2.3.1.4": 0xC122,
        "1.2.3.1.5": 0xC000,
        "../../etc/passwd": 0xC000,
        "1.2.3.1.6": 0xC000,
    }
    assert others == [0xC000, 0xC000]


def test_where_the_file_meta_names_another_instance_the_data_set_counts(tmp_path: Path) -> None:
    data = dataset(STUDY, SERIES, "1.2.3.1.1")
    with web_node(tmp_path) as web:
        answer = web.store([part10(data, CT, "1.2.3.1.9")])
        assert (answer.status_code, references(answer)) == (200, ["1.2.3.1.1"])
        file = web.node.archive.open_instance("1.2.3.1.1").read()
        assert dcmread(io.BytesIO(file)).file_meta.MediaStorageSOPInstanceUID == "1.2.3.1.1"
        assert file.endswith(data)
        assert references(web.store([part10(data, CT, "1.2.3.1.9"), part10(data, CT, "1.2.3.1.1")])) == ["1.2.3.1.1"] * 2
        assert len(rows(web, instance)) == 1
        other = web.store([part10(data.replace(b"Head", b"Neck"), CT, "1.2.3.1.8")])
        assert (other.status_code, list(failures(other))) == (409, ["1.2.3.1.1"])


@pytest.mark.parametrize(
    ("content_type", "content", "status", "says"),
    [
        ("", b"x", 400, "media type"),
        ("application/json", b"{}", 415, "multipart/related"),
        ('multipart/related; type="application/dicom+json"; boundary=a', b"", 415, "application/dicom"),
        ("multipart/related; type=application/dicom", b"", 400, "boundary"),
        (MULTIPART, b"", 400, "closing boundary"),
        (MULTIPART, f"--{BOUNDARY}--".encode(), 400, "no instance"),
        (MULTIPART, multipart([b"x"])[:-6], 400, "closing boundary"),
        (MULTIPART, b"\0" * 100_000, 400, "does not begin with the boundary"),
        (MULTIPART, multipart([b"x"], headers="what is this\r\n"), 400, "header lines"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(tmp_path: Path, content_type: str, content: bytes, status: int, says: str) -> None:
    with web_node(tmp_path) as web:
        answer = web.client.post(f"{web.url}/studies", content=content, headers={"Content-Type": content_type})
        assert answer.status_code == status
        assert says in answer.json()["error"]
        assert "\n" not in answer.json()["error"]
        assert web.store([instance_file()]).status_code == 200


def test_other_wrong_requests(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        assert web.store([instance_file()], study="1.2.x").status_code == 400
        assert web.store([instance_file()], Accept="text/html").status_code == 406
        assert web.client.put(f"{web.url}/studies").status_code == 405
        assert not rows(web, instance)


def test_files_without_meta_without_preamble_and_with_a_late_one(tmp_path: Path) -> None:
    plain = dataset(STUDY, SERIES, "1.2.3.1.1")
    private = element(2, 0x100, "UI", "1.2.3") + element(2, 0x102, "OB", b"\1" * 40_000)
    file = part10(dataset(STUDY, SERIES, "1.2.3.1.2"), CT, "1.2.3.1.2")
    (length,) = struct.unpack_from("<I", file, 140)
    long = file[:140] + struct.pack("<I", length + len(private)) + file[144 : 144 + length] + private + file[144 + length :]
    with web_node(tmp_path) as web:
        answer = web.store([plain, long])
        assert answer.status_code == 200
        assert data_of(web, "1.2.3.1.1") == plain
        assert long.endswith(data_of(web, "1.2.3.1.2"))


def test_a_gzip_body_is_inflated(tmp_path: Path) -> None:
    body = gzip.compress(multipart([instance_file(), instance_file(2, pixels=bytes(3 << 20))]))
    headers = {"Content-Type": MULTIPART, "Content-Encoding": "gzip"}
    with web_node(tmp_path) as web:
        assert web.client.post(f"{web.url}/studies", content=body, headers=headers).status_code == 200
        headers["Content-Encoding"] = "br"
        assert web.client.post(f"{web.url}/studies", content=body, headers=headers).status_code == 415
        headers["Content-Encoding"] = "gzip"
        assert web.client.post(f"{web.url}/studies", content=b"no gzip", headers=headers).status_code == 400
        assert web.client.post(f"{web.url}/studies", content=body[:-20], headers=headers).status_code == 400


def test_what_was_stored_can_be_read_by_others(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        web.store([instance_file(7)])
        read = dcmread(io.BytesIO(web.node.archive.open_instance(f"{STUDY}.1.7").read()))
    assert read.InstanceNumber == 7
    assert read.file_meta.MediaStorageSOPInstanceUID == f"{STUDY}.1.7"
