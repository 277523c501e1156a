"""What viewers ask for beside images: an encapsulated PDF, a video in parts, a GIF."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import MPEG4HP41, EncapsulatedPDFStorage, VideoEndoscopicImageStorage, generate_uid

from tests.dicomweb import Web, parts_of, served
from tests.imaging import as_file
from tests.node import bright_series, settings

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
FRAGMENTS = [b"\x00\x00\x00\x18ftypmp42", b"moov" * 1001, b"mdat" + bytes(range(256)) * 300]
VIDEO = b"".join(FRAGMENTS)


def report() -> Dataset:
    image = bright_series(1)[0]
    document = Dataset()
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "StudyTime", "InstanceNumber", "AccessionNumber"):
        document[name] = image[name]
    document.SOPClassUID, document.SOPInstanceUID, document.SeriesInstanceUID = EncapsulatedPDFStorage, generate_uid(), generate_uid()
    document.Modality, document.MIMETypeOfEncapsulatedDocument = "DOC", "application/pdf"
    document.EncapsulatedDocument, document.EncapsulatedDocumentLength = PDF + b"\0", len(PDF)
    document.file_meta = image.file_meta
    return document


def video() -> Dataset:
    image = bright_series(1)[0]
    image.SOPClassUID, image.NumberOfFrames = VideoEndoscopicImageStorage, 200
    image.PixelData = encapsulate(FRAGMENTS, has_bot=False)
    image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
    image.file_meta.TransferSyntaxUID = MPEG4HP41
    return image


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Web, dict[str, Dataset]]]:
    folder = tmp_path_factory.mktemp("media")
    (folder / "files").mkdir()
    datasets = {"pdf": report(), "video": video(), "image": bright_series(1)[0]}
    for name, ds in datasets.items():
        (folder / "files" / f"{name}.dcm").write_bytes(as_file(ds).getvalue())
    with served(settings(folder / "node"), [folder / "files"]) as web:
        yield web, datasets


def address(ds: Dataset) -> str:
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def bulk_data_uri(web: Web, ds: Dataset, tag: str) -> str:
    (header,) = web.get(f"{address(ds)}/metadata").json()
    uri: Any = header[tag]["BulkDataURI"]
    return str(uri)


def test_a_pdf_is_rendered_as_itself(stored: tuple[Web, dict[str, Dataset]]) -> None:
    web, datasets = stored
    assert len(PDF) % 2
    path = f"{address(datasets['pdf'])}/rendered"
    for answer in (web.get(path), web.get(path, "application/pdf"), web.get(f"{path}?accept=application/pdf")):
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "application/pdf", PDF)
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert web.get(path, "image/jpeg").status_code == 406
    assert web.get(path, None, **{"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert web.get(f"{address(datasets['pdf'])}/thumbnail").status_code == 406


def test_a_pdf_as_a_viewer_follows_its_bulk_data_uri(stored: tuple[Web, dict[str, Dataset]]) -> None:
    web, datasets = stored
    short = web.get(f"{address(datasets['pdf'])}/bulkdata/00420011?accept=application/pdf")
    assert (short.headers["content-type"], short.content) == ("application/pdf", PDF)
    assert web.get(f"{address(datasets['pdf'])}/bulkdata/00420011", "application/octet-stream").content == PDF


def test_a_video_is_played_in_parts(stored: tuple[Web, dict[str, Dataset]]) -> None:
    web, datasets = stored
    uri = bulk_data_uri(web, datasets["video"], "7FE00010")
    whole = web.client.get(f"{uri}?accept=video/mp4")
    assert (whole.status_code, whole.headers["content-type"], whole.headers["accept-ranges"]) == (200, "video/mp4", "bytes")
    assert whole.content == VIDEO
    at = len(FRAGMENTS[0])
    for first, last in ((0, 0), (0, at - 1), (at, at), (at - 1, at), (3, len(VIDEO) - 1), (at + 4000, at + 4010)):
        part = web.client.get(uri, headers={"Accept": "video/*", "Range": f"bytes={first}-{last}"})
        assert (part.status_code, part.headers["content-range"]) == (206, f"bytes {first}-{last}/{len(VIDEO)}")
        assert part.content == VIDEO[first : last + 1]
    assert web.client.get(uri, headers={"Range": f"bytes={len(VIDEO)}-"}).status_code == 416
    for accept, kind in (("video/mp4", "video/mp4"), ("application/octet-stream", "application/octet-stream")):
        ((headers, body),) = parts_of(web.client.get(uri, headers={"Accept": f"multipart/related; type={accept}"}))
        assert (headers["content-type"], body) == (kind, VIDEO)
    assert web.client.get(uri, headers={"Accept": "image/jpeg"}).status_code == 406
    assert web.get(f"{address(datasets['video'])}/rendered").status_code == 422


def test_fragments_that_lead_nowhere_are_said_so(stored: tuple[Web, dict[str, Dataset]]) -> None:
    web, _ = stored
    broken = video()
    broken.SOPInstanceUID = generate_uid()
    frames, offsets, lengths = encapsulate_extended(FRAGMENTS)
    broken.PixelData, broken.ExtendedOffsetTable, broken.ExtendedOffsetTableLengths = frames, offsets, lengths
    data = as_file(broken).getvalue()
    data = data.replace(b"\xfe\xff\x00\xe0" + len(FRAGMENTS[1]).to_bytes(4, "little"), b"\xfe\xff\x00\xe0\xf0\xff\xff\x7f")
    answer = web.client.post("/studies", content=data, headers={"Content-Type": "application/dicom"})
    if answer.status_code == 200:
        assert web.get(f"{address(broken)}/bulkdata/7FE00010", "video/mp4").status_code == 422


def test_a_gif(stored: tuple[Web, dict[str, Dataset]]) -> None:
    web, datasets = stored
    answer = web.get(f"{address(datasets['image'])}/rendered", "image/gif")
    assert answer.headers["content-type"] == "image/gif"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.format, picture.size) == ("GIF", (10, 12))
    ((headers, body),) = parts_of(web.get(f"{address(datasets['image'])}/frames/1,1/rendered", "multipart/related; type=image/gif"))[:1]
    assert (headers["content-type"], body[:4]) == ("image/gif", b"GIF8")
