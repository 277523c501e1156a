"""DICOMweb with its index on PostgreSQL: stored, searched, retrieved, rendered and deleted as on SQLite."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydicom import Dataset

from tests.dicomweb import parts_of
from tests.imaging import as_file
from tests.node import bright_series
from tests.postgresql import private_cluster
from tests.webserver import WebNode, value, web_node

pytestmark = pytest.mark.postgresql
UTF_8 = "ISO_IR 192"
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebNode]:
    with private_cluster() as url:
        more = f'[database]\nurl = "{url.replace("+psycopg", "")}"\n'
        with web_node(tmp_path_factory.mktemp("postgresql"), web="allow_delete = true", more=more) as node:
            assert node.node.database.engine.dialect.name == "postgresql"
            yield node


def stored(web: WebNode, **attributes: Any) -> tuple[list[Dataset], list[bytes]]:
    """A study of four images, and their files as they were stored."""
    images = bright_series(4, **attributes)
    files = [as_file(image).getvalue() for image in images]
    answer = web.store(files)
    assert answer.status_code == 200, answer.text
    assert [value(item, "00081155") for item in answer.json()["00081199"]["Value"]] == [image.SOPInstanceUID for image in images]
    return images, files


def data_set(file: bytes) -> bytes:
    return file[144 + int.from_bytes(file[140:144], "little") :]


def test_what_is_stored_comes_out_byte_for_byte(web: WebNode) -> None:
    images, files = stored(web)
    study = f"{web.url}/studies/{images[0].StudyInstanceUID}"
    answer = web.client.get(study, headers={"Accept": AS_STORED})
    bodies = [body for _, body in parts_of(answer)]
    assert len(bodies) == len(files)
    assert all(body.endswith(data_set(file)) for body, file in zip(bodies, files))
    assert web.client.get(study, headers={"Accept": AS_STORED, "If-None-Match": answer.headers["etag"]}).status_code == 304
    model = web.client.get(f"{study}/metadata").json()
    assert [value(header, "00080018") for header in model] == [image.SOPInstanceUID for image in images]
    assert web.client.get(f"{study}/thumbnail").headers["content-type"] == "image/jpeg"
    assert web.store(files).status_code == 200
    assert len(web.client.get(f"{study}/instances").json()) == len(files)


def test_searches_find_what_they_find_on_sqlite(web: WebNode) -> None:
    images, _ = stored(web, PatientName="M\u00fcller^J\u00f6rg", PatientID="PG-1", SpecificCharacterSet=UTF_8, AccessionNumber="A_1%")
    stored(web, PatientName="Meier^Anna", PatientID="PG-2", StudyDate="20240101")
    uid = str(images[0].StudyInstanceUID)
    for query in (
        f"StudyInstanceUID={uid}",
        "PatientName=muller*",
        "PatientName=M%C3%9CLLER*",
        "PatientName=*rg",
        "PatientID=PG-1&ModalitiesInStudy=MR&includefield=all",
        "StudyDate=20250101-20250201&PatientID=PG-*",
        "AccessionNumber=A_1%25",
    ):
        (found,) = web.client.get(f"{web.url}/studies?{query}").json()
        assert value(found, "0020000D") == uid, query
    assert value(found, "00201208") == 4
    both = web.client.get(f"{web.url}/studies?PatientID=PG-*&limit=1")
    assert len(both.json()) == 1
    assert "additional results" in both.headers["warning"]
    assert len(web.client.get(f"{web.url}/studies?PatientID=PG-*&offset=1").json()) == 1
    assert web.client.get(f"{web.url}/studies?PatientName=%00").status_code == 400
    assert web.client.get(f"{web.url}/studies?PatientName='%20OR%201=1--").status_code == 204


def test_the_same_from_many_at_once_is_one_and_another_content_a_conflict(web: WebNode) -> None:
    image = bright_series(1)[0]
    file = as_file(image).getvalue()
    together = threading.Barrier(4)

    def store() -> int:
        together.wait()
        return web.store([file]).status_code

    with ThreadPoolExecutor(4) as clients:
        assert [each.result() for each in [clients.submit(store) for _ in range(4)]] == [200] * 4
    series = f"{web.url}/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
    assert len(web.client.get(f"{series}/instances").json()) == 1
    image.SeriesDescription = "another"
    assert web.store([as_file(image).getvalue()]).status_code == 409


def test_what_is_deleted_is_gone(web: WebNode) -> None:
    images, files = stored(web)
    study = f"{web.url}/studies/{images[0].StudyInstanceUID}"
    first = f"{study}/series/{images[0].SeriesInstanceUID}/instances/{images[0].SOPInstanceUID}"
    assert web.client.delete(f"{first}?reason=test").status_code == 204
    assert web.client.get(first).status_code == 404
    assert len(parts_of(web.client.get(study, headers={"Accept": AS_STORED}))) == len(files) - 1
    assert web.client.delete(f"{study}?reason=test").status_code == 204
    assert web.client.get(f"{study}/metadata").status_code == 404
