"""WADO-RS of every real file: bytes, metadata, frames and bulk data as they are, over a real connection."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from dicom_node.web.dicomweb.frames import MEDIA_TYPES
from tests.dicomweb import Stored, Web, parts_of, real_files, served, stored_files
from tests.node import settings

pytestmark = pytest.mark.real_data
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
VIEWER = "multipart/related; type=application/octet-stream; transfer-syntax=*"  # unquoted, as viewers send it
UTF_8 = {"vr": "CS", "Value": ["ISO_IR 192"]}
OCTETS = 'multipart/related; type="application/octet-stream"'


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Iterator[tuple[Web, list[Stored]]]:
    folder = tmp_path_factory.mktemp("web")
    files = real_files(real_data, folder / "files")
    with served(settings(folder / "node"), files) as made:
        stored = stored_files(made, files)
        assert len(stored) > 40
        yield made, stored


def test_every_file_comes_out_as_it_was_stored(web: tuple[Web, list[Stored]]) -> None:
    client, files = web
    for each in files:
        (headers, body), *more = parts_of(client.get(each.path, AS_STORED))
        assert not more
        assert body.endswith(each.dataset_bytes), each.name
        assert headers["content-type"] == f"application/dicom; transfer-syntax={each.transfer_syntax}"
        alone = client.get(each.path, "application/dicom; transfer-syntax=*")
        assert alone.headers["content-type"] == "application/dicom"
        assert alone.content == body


def test_a_study_is_all_its_instances(web: tuple[Web, list[Stored]]) -> None:
    client, files = web
    by_study: dict[str, list[Stored]] = {}
    for each in files:
        by_study.setdefault(each.study, []).append(each)
    study, members = max(by_study.items(), key=lambda pair: len(pair[1]))
    response = client.get(f"/studies/{study}", AS_STORED)
    assert int(response.headers["content-length"]) == len(response.content)
    bodies = [body for _, body in parts_of(response)]
    assert len(bodies) == len(members) > 5
    assert all(any(body.endswith(each.dataset_bytes) for body in bodies) for each in members)


def test_metadata_is_pydicoms_json(web: tuple[Web, list[Stored]]) -> None:
    client, files = web
    for each in files:
        (ours,) = client.get(f"{each.path}/metadata", "application/dicom+json").json()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = each.dataset().to_json_dict(1024, lambda element: "somewhere")
        assert ours.get("00080005", UTF_8) == UTF_8  # whatever the file's is
        assert normal(ours) == {tag: value for tag, value in normal(theirs).items() if tag < "7FE00011"}, each.name


def normal(value: Any) -> Any:
    """What may differ: Specific Character Set, where bulk is, tiny pixel data inline, Value of an empty sequence, Group Length."""
    if isinstance(value, list):
        return [normal(each) for each in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, each in value.items():
        if key == "00080005":
            continue
        if key.endswith("0000") and len(key) == 8:
            continue
        if key in ("BulkDataURI", "InlineBinary") and (key == "BulkDataURI" or len(each) > 100):
            result["Bulk"] = True
        elif not (key == "Value" and each == []):
            result[key] = str(normal(each)) if key == "vr" else normal(each)
    return result


def test_every_bulk_data_uri_resolves(web: tuple[Web, list[Stored]]) -> None:
    client, files = web
    nested = found = 0
    for each in files:
        (header,) = client.get(f"{each.path}/metadata").json()
        dataset = each.dataset()
        for steps, url in uris(header):
            response = client.client.get(url, headers={"Accept": OCTETS})
            assert response.status_code == 200, (each.name, url)
            found, nested = found + 1, nested + (len(steps) > 1)
            element: Any = dataset
            for step in steps[:-1]:
                element = element[step] if isinstance(step, int) else element[int(step, 16)].value
            element = element[int(str(steps[-1]), 16)]
            if steps[-1] == "7FE00010" and UID(each.transfer_syntax).is_encapsulated:
                continue  # its frames are tested on their own
            ((_, body),) = parts_of(response)
            if each.transfer_syntax != "1.2.840.10008.1.2.2":
                assert body == element.value, (each.name, url)
            alone = client.client.get(url, headers={"Accept": "application/octet-stream", "Range": "bytes=2-9"})
            assert alone.status_code == 206
            assert alone.content == body[2:10]
    assert found > len(files) // 2
    assert nested


def uris(header: dict[str, Any], at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    for tag, element in header.items():
        if "BulkDataURI" in element:
            yield (*at, tag), element["BulkDataURI"]
        for number, item in enumerate(element.get("Value", [])):
            if element["vr"] == "SQ":
                yield from uris(item, (*at, tag, number))


def test_frames_are_those_that_were_stored(web: tuple[Web, list[Stored]]) -> None:
    client, files = web
    compressed = 0
    for each in files:
        dataset = each.dataset()
        if "PixelData" not in dataset:
            assert client.get(f"{each.path}/frames/1").status_code == 404
            continue
        count = int(dataset.get("NumberOfFrames", 1) or 1)
        numbers = sorted({1, (count + 1) // 2, count})
        response = client.get(f"{each.path}/frames/{','.join(map(str, numbers))}", VIEWER)
        assert response.status_code == 200, (each.name, response.text)
        parts = parts_of(response)
        assert len(parts) == len(numbers)
        if UID(each.transfer_syntax).is_encapsulated:
            compressed += 1
            expected = list(generate_frames(dataset.PixelData, number_of_frames=count))
            assert [body for _, body in parts] == [expected[number - 1] for number in numbers], each.name
            assert all(headers["content-type"].endswith(f"transfer-syntax={each.transfer_syntax}") for headers, _ in parts)
            kind = MEDIA_TYPES[each.transfer_syntax]
            ((headers, body),) = parts_of(client.get(f"{each.path}/frames/1", f'multipart/related; type="{kind}"'))
            assert headers["content-type"] == f"{kind}; transfer-syntax={each.transfer_syntax}"
            assert body == expected[0]
        elif each.transfer_syntax != "1.2.840.10008.1.2.2" and int(dataset.BitsAllocated) > 1:
            size = len(parts[0][1])
            assert [body for _, body in parts] == [dataset.PixelData[(n - 1) * size : n * size] for n in numbers], each.name
        assert client.get(f"{each.path}/frames/{count + 1}").status_code == 404
    assert compressed > 10


def test_decoded_frames_are_pixel_equal(web: tuple[Web, list[Stored]]) -> None:
    client, files = web
    compared = 0
    for each in files:
        dataset = each.dataset()
        if "PixelData" not in dataset:
            continue
        response = client.get(f"{each.path}/frames/1", OCTETS)
        reference = pixels(each)
        if response.status_code == 422:
            assert reference is None, (each.name, response.text)
            continue
        ((headers, body),) = parts_of(response)
        assert headers["content-type"] == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
        if reference is None:
            continue  # by us, but not by pydicom
        if int(dataset.BitsAllocated) == 1:
            expected = np.packbits(reference.astype(bool).ravel(), bitorder="little").tobytes()
        else:
            expected = reference.astype(reference.dtype.newbyteorder("<")).tobytes()
        if dataset.get("PlanarConfiguration", 0) == 1 and not UID(each.transfer_syntax).is_encapsulated:
            continue
        assert body[: len(expected)] == expected, each.name
        compared += 1
    assert compared > 20


def pixels(each: Stored) -> np.ndarray[Any, Any] | None:
    """The first frame by pydicom's decoders; None where it has none for it."""
    dataset = each.dataset()
    with contextlib.suppress(NotImplementedError, RuntimeError):
        return get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset, index=0, raw=True)[0]
    return None


def test_transcoded_on_the_way(web: tuple[Web, list[Stored]]) -> None:
    client, files = web
    changed = 0
    for each in files:
        response = client.get(each.path, 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1')
        if response.status_code == 406:
            continue
        ((headers, body),) = parts_of(response)
        dataset = dcmread(io.BytesIO(body))
        assert dataset.SOPInstanceUID == each.sop
        assert f"transfer-syntax={dataset.file_meta.TransferSyntaxUID}" in headers["content-type"]
        changed += dataset.file_meta.TransferSyntaxUID != each.transfer_syntax
    assert changed


def test_what_the_client_has_is_not_sent_again(web: tuple[Web, list[Stored]]) -> None:
    client, (each, *_) = web
    for path in (each.path, f"{each.path}/metadata", f"/studies/{each.study}"):
        first = client.get(path, None)
        again = client.get(path, None, **{"If-None-Match": first.headers["etag"]})
        assert again.status_code == 304
        assert again.content == b""


def test_part_of_an_instance(web: tuple[Web, list[Stored]]) -> None:
    client, (each, *_) = web
    whole = client.get(each.path, "application/dicom").content
    part = client.get(each.path, "application/dicom", Range="bytes=128-131")
    assert (part.status_code, part.content) == (206, b"DICM")
    assert part.headers["content-range"] == f"bytes 128-131/{len(whole)}"
    assert client.get(each.path, "application/dicom", Range="bytes=-4").content == whole[-4:]
    assert client.get(each.path, "application/dicom", Range=f"bytes={len(whole)}-").status_code == 416


def test_metadata_is_made_where_it_is_not_kept_yet(tmp_path: Path, real_data: Path) -> None:
    files = real_files(real_data, tmp_path / "files")[:3]
    with served(settings(tmp_path / "node"), files, headers=False) as client:
        for each in stored_files(client, files):
            (header,) = client.get(f"{each.path}/metadata").json()
            assert header["00080018"]["Value"] == [each.sop]
