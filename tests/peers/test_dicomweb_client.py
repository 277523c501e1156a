"""dicomweb-client, a real client, against the web role of a node: search, metadata, instances, frames, bulk data, rendered."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom import Dataset, dcmread

from tests.dicomweb import Stored, Web, real_files, served, stored_files
from tests.imaging import as_file
from tests.node import bright_series, settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.fixture(scope="module")
def images() -> list[Dataset]:
    return bright_series(4, PatientName="Doe^Jane", PatientID="P1")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, images: list[Dataset]) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("client")
    for number, image in enumerate(images):
        (folder / f"{number}.dcm").write_bytes(as_file(image).getvalue())
    with served(settings(folder / "node"), [folder]) as made:
        yield made


@pytest.fixture
def client(web: Web) -> Iterator[DICOMwebClient]:
    made = DICOMwebClient(web.url)
    yield made
    made._session.close()


def test_search(client: DICOMwebClient, images: list[Dataset]) -> None:
    study = images[0].StudyInstanceUID
    (found,) = client.search_for_studies(search_filters={"PatientName": "doe*"}, fields=["StudyDescription"], limit=10)
    assert Dataset.from_json(found).StudyInstanceUID == study
    (series,) = client.search_for_series(study)
    assert Dataset.from_json(series).NumberOfSeriesRelatedInstances == 4
    assert len(client.search_for_instances(study, images[0].SeriesInstanceUID)) == 4
    assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []


def test_instances_are_those_that_were_stored(client: DICOMwebClient, images: list[Dataset]) -> None:
    study, series = images[0].StudyInstanceUID, images[0].SeriesInstanceUID
    for retrieved in (client.retrieve_study(study), client.retrieve_series(study, series)):
        assert [each.SOPInstanceUID for each in retrieved] == [each.SOPInstanceUID for each in images]
        assert all(got == sent for got, sent in zip(retrieved, images))
    assert client.retrieve_instance(study, series, images[2].SOPInstanceUID) == images[2]


def test_metadata_and_frames(client: DICOMwebClient, images: list[Dataset]) -> None:
    study, series, sop = (str(images[1][name].value) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
    assert len(client.retrieve_study_metadata(study)) == len(client.retrieve_series_metadata(study, series)) == 4
    header = client.retrieve_instance_metadata(study, series, sop)
    assert Dataset.from_json({tag: value for tag, value in header.items() if tag != "7FE00010"}).PatientName == "Doe^Jane"
    (frame,) = client.retrieve_instance_frames(study, series, sop, [1])
    assert frame == images[1].PixelData
    (bulk,) = client.retrieve_bulkdata(header["7FE00010"]["BulkDataURI"])
    assert bulk == images[1].PixelData


def test_rendered(client: DICOMwebClient, images: list[Dataset]) -> None:
    study, series, sop = (str(images[2][name].value) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
    data = client.retrieve_instance_rendered(study, series, sop, media_types=("image/png",))
    shown = np.asarray(Image.open(BytesIO(data)))
    stored = images[2].pixel_array
    assert shown.shape == stored.shape
    assert shown[stored == stored.max()].min() > shown[stored == stored.min()].max()
    data = client.retrieve_instance_frames_rendered(study, series, sop, [1], media_types=("image/jpeg",))
    assert Image.open(BytesIO(data)).format == "JPEG"


@pytest.mark.real_data
def test_real_files_are_read_by_it(tmp_path: Path, real_data: Path) -> None:
    files = real_files(real_data, tmp_path / "files")
    with served(settings(tmp_path / "node"), files) as web:
        client = DICOMwebClient(web.url)
        seen = 0
        for each in stored_files(web, files):
            seen += retrieved_alike(client, each)
        client._session.close()
    assert seen > 40


def retrieved_alike(client: DICOMwebClient, each: Stored) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        media = (("application/dicom", "*"),)
        got = client.retrieve_instance(each.study, each.series, each.sop, media_types=media)
        assert got.file_meta.TransferSyntaxUID == each.transfer_syntax
        assert got.SOPInstanceUID == dcmread(BytesIO(each.data), force=True).SOPInstanceUID
        (found,) = client.search_for_instances(search_filters={"SOPInstanceUID": each.sop})
        assert found["00080018"]["Value"] == [each.sop]
    return True
