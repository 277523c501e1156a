"""STOW as other programs do it: dicomweb-client, curl, and Orthanc's DICOMweb plugin."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from tests.imaging import as_file
from tests.node import bright_series
from tests.peers.orthanc import DICOMWEB_PLUGIN, Orthanc
from tests.webserver import value, web_node


def pictures(count: int = 5) -> list[Dataset]:
    made = []
    for image in bright_series(count):
        data = as_file(image)
        data.seek(0)
        made.append(dcmread(data))
    return made


def stored_as_sent(web: object, image: Dataset) -> bool:
    node = web.node  # type: ignore[attr-defined]
    stored = node.archive.open_instance(str(image.SOPInstanceUID))
    return bool(dcmread(io.BytesIO(stored.read())) == image)


def test_dicomweb_client_stores_and_reads_the_answer(tmp_path: Path) -> None:
    images = pictures()
    with web_node(tmp_path) as web:
        client = DICOMwebClient(web.url)
        answer = client.store_instances(images)
        assert {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence} == {image.SOPInstanceUID for image in images}
        assert all(stored_as_sent(web, image) for image in images)
        names = (str(images[0][name].value) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
        back = client.retrieve_instance(*names)
        assert back == images[0]
        other = pictures(1)[0]
        other.StudyInstanceUID = generate_uid()
        other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        mixed = client.store_instances([images[0], other], study_instance_uid=str(images[0].StudyInstanceUID))
        assert [item.ReferencedSOPInstanceUID for item in mixed.ReferencedSOPSequence] == [images[0].SOPInstanceUID]
        assert [(item.ReferencedSOPInstanceUID, item.FailureReason) for item in mixed.FailedSOPSequence] == [(other.SOPInstanceUID, 0xA900)]


@pytest.mark.peer("curl")
def test_curl_sends_one_file(tmp_path: Path) -> None:
    image = pictures(1)[0]
    file = tmp_path / "image.dcm"
    file.write_bytes(as_file(bright_series(1)[0]).getvalue())
    image = dcmread(file)
    with web_node(tmp_path / "node") as web:
        command = ["/usr/bin/curl", "-sS", "-H", "Content-Type: application/dicom", "--data-binary", f"@{file}", f"{web.url}/studies"]
        done = subprocess.run(command, capture_output=True, timeout=30, check=True)
        (item,) = json.loads(done.stdout)["00081199"]["Value"]
        assert value(item, "00081155") == image.SOPInstanceUID
        assert stored_as_sent(web, image)


@pytest.mark.peer("Orthanc")
@pytest.mark.skipif(not DICOMWEB_PLUGIN.exists(), reason="Orthanc's DICOMweb plugin is not installed")
def test_orthanc_stores_a_study_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ORTHANC_TOKEN", "a-token-for-orthanc-0123")
    tokens = 'tokens = [{ name = "orthanc", token = { env = "TEST_ORTHANC_TOKEN" }, rights = ["read", "store"] }]'
    files = [as_file(image).getvalue() for image in bright_series(12)]
    with web_node(tmp_path / "node", web=tokens) as web:
        server = {"Url": f"{web.url}/", "HttpHeaders": {"Authorization": "Bearer a-token-for-orthanc-0123"}}
        settings = {"DicomWeb": {"Enable": True, "Servers": {"node": server}}}
        with Orthanc(tmp_path / "orthanc", settings=settings, plugins=[DICOMWEB_PLUGIN]) as orthanc:
            for file in files:
                orthanc.upload(file)
            (study,) = orthanc.studies()
            answer = orthanc.post("/dicom-web/servers/node/stow", {"Resources": [study["ID"]], "Synchronous": True})
            assert int(answer["InstancesCount"]) == 12
        for file in files:
            assert stored_as_sent(web, dcmread(io.BytesIO(file)))
        with web.node.database.read() as connection:
            from sqlalchemy import select

            from storage.schema import instance

            assert set(connection.execute(select(instance.c.calling_ae)).scalars()) == {"orthanc"}
