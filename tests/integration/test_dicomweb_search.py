"""QIDO-RS: every resource, what is matched and returned, paging, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.dicomweb import Web, served
from tests.imaging import as_file
from tests.node import bright_series, settings

STUDIES = 7


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("search")
    files = folder / "files"
    files.mkdir()
    names = ["Müller^Jürgen", "Doe^Jane", "Yamada^Tarou=山田^太郎=やまだ^たろう", "O'Neil^Pat", "Doe^John", "Smith^A%B_C", "Roe^Richard"]
    for number, name in enumerate(names):
        for half in ("A", "B"):
            images = bright_series(
                3,
                description=f"Series {half}",
                PatientName=name,
                PatientID=f"P{number}",
                SpecificCharacterSet="ISO_IR 192",
                StudyInstanceUID=f"1.2.826.0.1.{number + 1}",
                StudyDate=f"2024010{number + 1}",
                Modality="MR" if half == "A" else "CT",
            )
            for position, image in enumerate(images):
                (files / f"{number}{half}{position}.dcm").write_bytes(as_file(image).getvalue())
    with served(settings(folder / "node"), [files]) as made:
        yield made


def found(web: Web, path: str) -> list[dict[str, Any]]:
    response = web.get(path)
    assert response.status_code in (200, 204), response.text
    return list(response.json()) if response.status_code == 200 else []


def test_every_resource_is_searched(web: Web) -> None:
    study = "/studies/1.2.826.0.1.1"
    series = [each["0020000E"]["Value"][0] for each in found(web, f"{study}/series")]
    assert len(found(web, "/studies")) == STUDIES
    assert len(series) == 2
    assert len(found(web, "/series")) == 2 * STUDIES
    assert len(found(web, f"{study}/instances")) == 6
    assert len(found(web, f"{study}/series/{series[0]}/instances")) == 3
    assert len(found(web, "/instances")) == 6 * STUDIES


def test_a_study_is_described(web: Web) -> None:
    (study,) = found(web, "/studies?PatientID=P2")
    assert study["00100010"] == {
        "vr": "PN",
        "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}],
    }
    assert study["00201206"] == {"vr": "IS", "Value": [2]}
    assert study["00201208"] == {"vr": "IS", "Value": [6]}
    assert sorted(study["00080061"]["Value"]) == ["CT", "MR"]
    assert study["00081190"]["Value"] == [f"{web.url}/studies/1.2.826.0.1.3"]
    assert study["00080056"]["Value"] == ["ONLINE"]
    assert "Value" not in study["00080090"]  # empty, and still there
    assert list(study) == sorted(study)


def test_a_series_and_an_instance_are_described(web: Web) -> None:
    series, _ = found(web, "/studies/1.2.826.0.1.1/series?includefield=Manufacturer")
    assert series["00201209"]["Value"] == [3]
    assert "00080070" in series
    assert "00100010" not in series  # the address says which study
    instance = found(web, f"/studies/1.2.826.0.1.1/series/{series['0020000E']['Value'][0]}/instances")[0]
    assert instance["00280010"] == {"vr": "US", "Value": [12]}
    assert web.client.get(instance["00081190"]["Value"][0], headers={"Accept": "application/dicom"}).content[128:132] == b"DICM"
    assert "00100010" in found(web, "/series")[0]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("PatientName=Doe*", 2),
        ("PatientName=*doe*", 2),
        ("00100010=M%C3%BCller*", 1),
        ("PatientName=*A%25B_C", 1),
        ("PatientName=*A%25%25C", 0),
        ("PatientName=O'Neil*", 1),
        ("PatientID=", STUDIES),
        ("00100020=P1", 1),
        ("StudyDate=20240102-20240104", 3),
        ("StudyDate=-20240102", 2),
        ("ModalitiesInStudy=CT", STUDIES),
        ("ModalitiesInStudy=PT", 0),
        ("StudyInstanceUID=1.2.826.0.1.1,1.2.826.0.1.2", 2),
        ("StudyInstanceUID=1.2.826.0.1.1%5C1.2.826.0.1.2", 2),
        ("StudyInstanceUID=1.2.826.0.1.1&StudyInstanceUID=1.2.826.0.1.3", 2),
        ("limit=101&offset=0&fuzzymatching=false&includefield=00081030%2C00080060%2C00080061", STUDIES),
        ("SeriesInstanceUID=&limit=3", 3),
    ],
)
def test_what_matches(web: Web, query: str, count: int) -> None:
    assert len(found(web, f"/studies?{query}")) == count


def test_nested_keys_are_taken(web: Web) -> None:
    assert found(web, "/series?00400275.00400007=NoSuchStep") == []
    assert found(web, "/series?RequestAttributesSequence.ScheduledProcedureStepID=") != []


def test_the_address_and_a_key_have_to_agree(web: Web) -> None:
    assert found(web, "/studies/1.2.826.0.1.1/series?StudyInstanceUID=1.2.826.0.1.2") == []
    assert len(found(web, "/studies/1.2.826.0.1.1/series?StudyInstanceUID=1.2.826.0.1.2,1.2.826.0.1.1")) == 2
    assert found(web, "/studies/1.2.3.4/series") == []


def test_pages_make_the_whole(web: Web) -> None:
    everything = [each["0020000D"]["Value"][0] for each in found(web, f"/studies?limit={STUDIES}")]
    pages = []
    for offset in range(0, STUDIES, 2):
        response = web.get(f"/studies?limit=2&offset={offset}")
        pages += [each["0020000D"]["Value"][0] for each in response.json()]
        assert ("additional results" in response.headers.get("warning", "")) == (offset + 2 < STUDIES)
    assert pages == everything
    assert web.get(f"/studies?offset={STUDIES}").status_code == 204


def test_warnings_say_what_was_not_done(web: Web) -> None:
    assert "warning" not in web.get("/studies").headers
    assert web.get("/studies?0040A730=1").status_code == 400  # a sequence has no value of its own


@pytest.mark.parametrize(
    "path",
    [
        "/studies?limit=-1",
        "/studies?limit=ten",
        "/studies?limit=99999999999",
        "/studies?offset=1.5",
        "/studies?fuzzymatching=maybe",
        "/studies?limit=1&limit=2",
        "/studies?NoSuchAttribute=1",
        "/studies?PatientID=1&PatientID=2",
        "/studies?includefield=Nothing",
        "/studies?StudyInstanceUID=abc",
        "/studies?StudyInstanceUID=../../etc/passwd",
        "/studies?StudyDate=yesterday",
        "/studies?PatientID=a%00b",
        f"/studies?PatientID={'x' * 2000}",
        "/studies?" + "&".join(f"0010{n:04X}=" for n in range(300)),
        "/studies/..%2f..%2fetc/series",
        "/studies/abc/series",
        f"/studies/{'1' * 65}/series",
        "/studies/1.2.826.0.1.1/series/x/instances",
    ],
)
def test_wrong_requests_get_one_line(web: Web, path: str) -> None:
    response = web.get(path)
    if "%2f" in path and response.status_code == 404:
        return  # no such address at all
    assert response.status_code == 400, response.text
    reason = response.json()["error"]
    assert reason
    assert "\n" not in reason


def test_media_types_are_negotiated(web: Web) -> None:
    assert web.get("/studies", "application/json").headers["content-type"] == "application/json"
    assert web.get("/studies", "*/*").headers["content-type"] == "application/dicom+json"
    assert web.get("/studies", "text/html;q=0.9, application/*;q=0.8").headers["content-type"] == "application/dicom+json"
    assert web.get("/studies?accept=application/json", "text/html").headers["content-type"] == "application/json"
    refused = web.get("/studies", "text/html")
    assert refused.status_code == 406
    assert "application/dicom+json" in refused.json()["error"]
    assert web.get("/studies", "nonsense").status_code == 400


def test_answers_stay_private(web: Web) -> None:
    for path in ("/studies", "/studies/1.2.826.0.1.1/metadata", "/studies?limit=x", "/nothing"):
        headers = web.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "private" in headers["cache-control"] or "no-store" in headers["cache-control"]


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(
        ["PatientName", "PatientID", "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "00400275.00400007"]
    ),
    value=st.text(max_size=60),
    level=st.sampled_from(["studies", "series", "instances"]),
)
def test_no_value_breaks_a_search(web: Web, key: str, value: str, level: str) -> None:
    response = web.client.get(f"/{level}", params={key: value, "limit": "5"})
    assert response.status_code in (200, 204, 400), (response.status_code, response.text)
    if response.status_code == 200:
        assert len(response.json()) <= 5
