"""Each route under /dicom-web, each status that PS3.18 has for it: 206, 304, 405, 406, 410, 416, 422; by hand, no generator finds them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, generate_uid
from sqlalchemy import update

from storage.schema import instance
from tests.dicomweb import Web, parts_of, served
from tests.imaging import as_file
from tests.node import bright_series
from tests.webserver import configured

DICOM, OCTETS = 'multipart/related; type="application/dicom"', 'multipart/related; type="application/octet-stream"'
LEVELS = ("study", "series", "instance")
MODELS = ("study/metadata", "series/metadata", "instance/metadata")
PICTURES = tuple(f"{at}/{kind}" for at in (*LEVELS, "instance/frames/1") for kind in ("rendered", "thumbnail"))
RETRIEVED = (*LEVELS, *MODELS, *PICTURES, "instance/frames/1", "instance/bulkdata/7FE00010", "wado")


@pytest.fixture(scope="module")
def images() -> list[Dataset]:
    """A series of two, one of its study to be damaged; and of another study one whose compressed frame is none, one without its size."""
    images = bright_series(5, PatientName="Secret^Name", PatientID="SECRET-ID")
    garbled, sizeless, damaged = images[2:]
    garbled.PixelData = encapsulate([b"\xff\x4f\xff\x51 and then nothing of a codestream"])
    garbled["PixelData"].VR, garbled["PixelData"].is_undefined_length = "OB", True
    garbled.file_meta.TransferSyntaxUID = JPEG2000Lossless
    del sizeless.Rows
    for image in (garbled, sizeless, damaged):
        image.SeriesInstanceUID = generate_uid()
    garbled.StudyInstanceUID = sizeless.StudyInstanceUID = generate_uid()
    return images


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, images: list[Dataset]) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("statuses")
    (folder / "files").mkdir()
    for number, image in enumerate(images):
        (folder / "files" / f"{number}.dcm").write_bytes(as_file(image).getvalue())
    with served(configured(folder, web="allow_delete = true"), [folder / "files"]) as made:
        statement = update(instance).where(instance.c.sop_uid == str(images[4].SOPInstanceUID))
        with made.node.database.begin() as connection:
            connection.execute(statement.values(status="DAMAGED"))
        yield made


def address(image: Dataset, route: str) -> str:
    """The address of a route, for an image: ``study/metadata``, ``instance/frames/1`` ..."""
    study, series, sop = image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID
    if route == "wado":
        return f"/wado?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={sop}"
    level, _, rest = route.partition("/")
    path = {"study": f"/studies/{study}", "series": f"/studies/{study}/series/{series}"}
    path["instance"] = f"{path['series']}/instances/{sop}"
    return f"{path[level]}/{rest}".rstrip("/")


def refused(web: Web, path: str, accept: str | None = None, **headers: str) -> int:
    """The status of a refusal, which is one line and names nobody."""
    response = web.get(path, accept, **headers)
    assert response.headers["content-type"] == "application/json", (path, response.status_code)
    assert "\n" not in response.json()["error"]
    assert "secret" not in response.text.lower()
    return response.status_code


@pytest.mark.parametrize("route", RETRIEVED)
def test_a_representation_that_nobody_makes(web: Web, images: list[Dataset], route: str) -> None:
    path = address(images[0], route)
    for accept in ("text/html", "multipart/related; type=text/html", "*/*; q=0", "video/mp4"):
        assert refused(web, path, accept) == 406
    assert refused(web, path, "no media type") == 400


@pytest.mark.parametrize("path", ["/studies", "/series", "/instances", "study/series", "study/instances", "series/instances"])
def test_a_search_in_a_form_that_nobody_makes(web: Web, images: list[Dataset], path: str) -> None:
    path = path if path.startswith("/") else address(images[0], path)
    assert web.get(path).status_code == 200
    assert refused(web, path, "image/png") == 406


@pytest.mark.parametrize("route", RETRIEVED)
def test_what_the_client_has_already(web: Web, images: list[Dataset], route: str) -> None:
    path = address(images[0], route)
    first = web.get(path)
    assert first.status_code in (200, 206)
    tag = first.headers["etag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        again = web.get(path, None, **{"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert web.get(path, None, **{"If-None-Match": '"other"'}).status_code == first.status_code


def test_an_etag_tells_representations_apart(web: Web, images: list[Dataset]) -> None:
    path = address(images[0], "instance")
    tags = {
        web.get(path, DICOM).headers["etag"],
        web.get(path, f"{DICOM}; transfer-syntax=*").headers["etag"],
        web.get(path, f"{DICOM}; transfer-syntax=1.2.840.10008.1.2").headers["etag"],
        web.get(f"{path}/metadata").headers["etag"],
        web.get(f"{path}/rendered").headers["etag"],
        web.get(f"{path}/rendered?window=1,100").headers["etag"],
        web.get(f"{path}/frames/1", OCTETS).headers["etag"],
    }
    assert len(tags) == 7


@pytest.mark.parametrize("route", ["instance", "instance/bulkdata/7FE00010", "wado"])
def test_a_part_of_a_body(web: Web, images: list[Dataset], route: str) -> None:
    path = address(images[0], route)
    path = f"{path}&contentType=application/dicom" if route == "wado" else path
    single = "application/dicom" if route == "instance" else "application/octet-stream, application/dicom"
    whole = web.get(path, single)
    assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    size = len(whole.content)
    for asked, part in (("bytes=3-9", slice(3, 10)), ("bytes=-5", slice(-5, None)), (f"bytes={size - 4}-", slice(-4, None))):
        answer = web.get(path, single, Range=asked)
        assert (answer.status_code, answer.content) == (206, whole.content[part])
        first, last, _ = slice(part.start, part.stop).indices(size)
        assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/{size}"
    for beyond in (f"bytes={size}-", "bytes=-0"):
        assert refused(web, path, single, Range=beyond) == 416
        assert web.get(path, single, Range=beyond).headers["content-range"] == f"bytes */{size}"
    for ignored in ("bytes=9-3", "bytes=1-2,4-5", "lines=1-2", "bytes=x-"):
        assert web.get(path, single, Range=ignored).content == whole.content
    stale = web.get(path, single, Range="bytes=3-9", **{"If-Range": '"another"'})
    assert (stale.status_code, stale.content) == (200, whole.content)
    fresh = web.get(path, single, Range="bytes=3-9", **{"If-Range": whole.headers["etag"]})
    assert fresh.status_code == 206


def test_what_is_damaged_is_left_out_and_alone_it_is_gone(web: Web, images: list[Dataset]) -> None:
    damaged = images[4]
    study = web.get(address(damaged, "study"), f"{DICOM}; transfer-syntax=*")
    assert (study.status_code, len(parts_of(study))) == (206, 2)
    model = web.get(address(damaged, "study/metadata"))
    assert (model.status_code, len(model.json())) == (206, 2)
    for route in (*LEVELS[1:], *MODELS[1:], *PICTURES[2:], "instance/frames/1", "instance/bulkdata/7FE00010", "wado"):
        assert refused(web, address(damaged, route)) == 410, route


@pytest.mark.parametrize("route", [*PICTURES[2:], "wado"])
def test_what_cannot_be_decoded_is_said_so(web: Web, images: list[Dataset], route: str) -> None:
    garbled, sizeless = images[2:4]
    assert refused(web, address(garbled, route), "image/jpeg") == 422
    assert refused(web, address(sizeless, route), "image/jpeg") == 422


def test_frames_and_instances_that_cannot_be_decoded(web: Web, images: list[Dataset]) -> None:
    garbled, sizeless = images[2:4]
    assert refused(web, address(garbled, "instance/frames/1"), OCTETS) == 422
    assert refused(web, address(sizeless, "instance/frames/1"), OCTETS) == 422
    assert web.get(address(garbled, "instance/frames/1"), f"{OCTETS}; transfer-syntax=*").status_code == 200
    single = "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    assert refused(web, address(garbled, "instance"), single) == 422
    ((headers, body),) = parts_of(web.get(address(garbled, "instance"), DICOM))  # in a multipart it is sent as it is
    assert headers["content-type"].endswith(f"transfer-syntax={JPEG2000Lossless}")
    assert body[128:132] == b"DICM"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/studies", "GET, HEAD, POST"),
        ("DELETE", "/studies", "GET, HEAD, POST"),
        ("PATCH", "study", "DELETE, GET, HEAD, POST"),
        ("POST", "series", "DELETE, GET, HEAD"),
        ("PUT", "instance", "DELETE, GET, HEAD"),
        ("POST", "study/metadata", "GET, HEAD"),
        ("DELETE", "instance/frames/1", "GET, HEAD"),
        ("POST", "instance/rendered", "GET, HEAD"),
        ("TRACE", "/series", "GET, HEAD"),
        ("POST", "/wado", "GET, HEAD"),
        ("OPTIONS", "/studies", "GET, HEAD, POST"),
    ],
)
def test_other_methods_are_told_which_there_are(web: Web, images: list[Dataset], method: str, path: str, allowed: str) -> None:
    response = web.client.request(method, path if path.startswith("/") else address(images[0], path))
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.json() == {"error": "Method Not Allowed"}


def test_head_is_a_get_without_its_body(web: Web, images: list[Dataset]) -> None:
    for route in RETRIEVED:
        path = address(images[0], route)
        body, head = web.get(path), web.client.head(path)
        assert (head.status_code, head.content) == (body.status_code, b"")
        assert head.headers["content-type"].partition("boundary")[0] == body.headers["content-type"].partition("boundary")[0]
        assert head.headers["etag"] == body.headers["etag"]


def test_what_the_conformance_statement_says_is_not_supported(web: Web, images: list[Dataset]) -> None:
    study, sop = address(images[0], "study"), address(images[0], "instance")
    assert refused(web, "/studies", 'multipart/related; type="application/dicom+xml"') == 406
    assert refused(web, f"{sop}/metadata", "application/dicom+xml") == 406
    for kind in ("video/mp4", "image/jp2", "text/html"):
        assert refused(web, f"{study}/rendered", kind) == 406
    for asked in ("annotation=patient", "iccprofile=srgb", "presentationSeriesUID=1.2"):
        assert refused(web, f"{sop}/rendered?{asked}") == 400
        assert asked.startswith("icc") or refused(web, f"{address(images[0], 'wado')}&{asked}") == 400
    headers = {"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=x'}
    assert web.client.post("/studies", content=b"--x--", headers=headers).status_code == 415
    assert refused(web, "/subscribers/AE") == 404
    assert web.client.request("OPTIONS", "/studies").status_code == 405
