"""WADO-URI, as older viewers ask: one object, named in the query, as DICOM or as a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from tests.datasets import dataset, part10
from tests.webserver import WebNode, web_node

STUDY, SERIES, SOP = "1.2.3", "1.2.3.1", "1.2.3.1.1"
NAMED = {"requestType": "WADO", "studyUID": STUDY, "seriesUID": SERIES, "objectUID": SOP}
SR = "1.2.840.10008.5.1.4.1.1.88.33"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebNode]:
    with web_node(tmp_path_factory.mktemp("wado")) as node:
        from tests.imaging import as_file, series

        (image,) = series(np.arange(120, dtype=np.int16).reshape(1, 12, 10) * 10)
        image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = STUDY, SERIES, SOP
        image.file_meta.MediaStorageSOPInstanceUID = SOP
        report = part10(dataset(STUDY, "1.2.3.2", "1.2.3.2.1", sop_class=SR, modality="SR", pixels=b""), SR, "1.2.3.2.1")
        report = report[: report.rindex(b"\xe0\x7f\x10\x00")]
        assert node.store([as_file(image).getvalue(), report]).status_code == 200
        yield node


def ask(web: WebNode, path: str = "/wado", *, accept: str = "*/*", **query: str) -> httpx.Response:
    parameters = {name: text for name, text in {**NAMED, **query}.items() if text != "-"}
    return web.client.get(f"http://127.0.0.1:{web.port}{path}", params=parameters, headers={"Accept": accept})


def picture(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize("path", ["/wado", "/dicom-web", "/dicom-web/wado"])
def test_an_object_as_it_is_stored(web: WebNode, path: str) -> None:
    answer = ask(web, path, contentType="application/dicom")
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.content == web.node.archive.open_instance(SOP).read()


def test_an_object_in_another_transfer_syntax(web: WebNode) -> None:
    answer = ask(web, contentType="application/dicom", transferSyntax="1.2.840.10008.1.2")
    read = dcmread(io.BytesIO(answer.content))
    assert read.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert read.pixel_array.max() == 1190


def test_an_image_is_a_jpeg_unless_something_else_is_wanted(web: WebNode) -> None:
    assert ask(web).headers["content-type"] == "image/jpeg"
    assert picture(ask(web)).size == (10, 12)
    assert ask(web, contentType="image/png").headers["content-type"] == "image/png"
    assert ask(web, accept="image/png").headers["content-type"] == "image/png"
    assert ask(web, seriesUID="1.2.3.2", objectUID="1.2.3.2.1").headers["content-type"] == "application/dicom"


def test_window_size_and_region(web: WebNode) -> None:
    dark = np.asarray(picture(ask(web, contentType="image/png", windowCenter="5000", windowWidth="10")))
    assert dark.max() == 0
    assert picture(ask(web, contentType="image/png", rows="24", columns="200")).size == (20, 24)
    assert picture(ask(web, contentType="image/png", rows="6")).size == (5, 6)
    assert picture(ask(web, contentType="image/png", region="0,0,0.5,0.5")).size == (5, 6)
    assert picture(ask(web, contentType="image/png", frameNumber="1", imageQuality="50")).size == (10, 12)


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ({"requestType": "-"}, 400, "requestType"),
        ({"objectUID": "-"}, 400, "objectUID must be given"),
        ({"studyUID": "x"}, 400, "studyUID"),
        ({"objectUID": "1.2.9"}, 404, "no such instance"),
        ({"seriesUID": "1.2.9"}, 404, "no such instance"),
        ({"frameNumber": "2"}, 404, "frame"),
        ({"frameNumber": "0"}, 400, "frameNumber"),
        ({"rows": "99999"}, 400, "rows"),
        ({"windowCenter": "1"}, 400, "belong together"),
        ({"windowCenter": "nan", "windowWidth": "1"}, 400, "no number"),
        ({"region": "0,0,2,1"}, 400, "region"),
        ({"anonymize": "yes"}, 400, "anonymize is not supported"),
        ({"contentType": "text/html"}, 406, "image/jpeg"),
        ({"contentType": "nothing"}, 400, "media type"),
        ({"contentType": "application/dicom", "transferSyntax": "1.2.840.10008.1.2.4.50"}, 406, "1.2.840.10008.1.2.4.50"),
        ({"contentType": "application/dicom", "transferSyntax": "x"}, 400, "transferSyntax"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(web: WebNode, query: dict[str, str], status: int, says: str) -> None:
    answer = ask(web, **query)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_a_report_is_no_picture(web: WebNode) -> None:
    answer = ask(web, seriesUID="1.2.3.2", objectUID="1.2.3.2.1", contentType="image/jpeg")
    assert answer.status_code == 406
