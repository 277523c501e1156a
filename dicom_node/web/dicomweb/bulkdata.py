"""Retrieve bulk data (PS3.18 10.4.1.1.5): the value of one attribute, wherever it lies; every BulkDataURI of our metadata leads here."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Final

import numpy as np
from pydicom import Dataset
from pydicom.dataelem import DataElement
from starlette.requests import Request
from starlette.responses import Response

from dicom_node.node import Node
from dicom_node.transcode import Transcoder
from dicom_node.web.dicomweb.accept import MediaRange, Offer, accepted, choose
from dicom_node.web.dicomweb.errors import BadRequest, NoSuchResource
from dicom_node.web.dicomweb.frames import MEDIA_TYPES, OCTETS, answer
from dicom_node.web.dicomweb.multipart import MultipartWriter
from dicom_node.web.dicomweb.pixels import BIG_ENDIAN, Pixels, fragments_of, read_dicom
from dicom_node.web.dicomweb.ranges import requested_range
from dicom_node.web.dicomweb.resources import entity_tag, intact, resource_of, service_url, stored_instances
from dicom_node.web.dicomweb.responses import made, unchanged, whole
from dicom_node.web.dicomweb.stored import StoredBytes
from dicom_node.web.wire import Extent
from storage.archive import StoredInstance
from storage.header_json import UNREADABLE

_PATH: Final = re.compile(r"[0-9A-Fa-f]{8}(/[0-9]{1,6}/[0-9A-Fa-f]{8}){0,32}")
PDF: Final = "application/pdf"
_DOCUMENT, _MIME = 0x00420011, 0x00420012
_MEDIA_TYPE: Final = re.compile(r"[a-z]+/[a-zA-Z0-9.+-]+")
_WORDS: Final = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


def bulkdata(node: Node, transcoder: Transcoder) -> Callable[[Request], Response]:
    """The endpoint of one attribute's value."""

    def retrieve(request: Request) -> Response:
        path = request.path_params["path"]
        if not _PATH.fullmatch(path):
            raise BadRequest("what follows bulkdata in the address is no path of tags and item numbers")
        ranges = accepted(request)
        stored = intact(stored_instances(node, resource_of(request)))[0]
        header, pixels = read_dicom(stored)
        if pixels is not None and path.upper() == f"{pixels.tag:08X}":
            if MEDIA_TYPES.get(stored.transfer_syntax_uid, "").startswith("video/"):
                return video(request, ranges, stored, pixels)
            if pixels.encapsulated:
                return answer(request, ranges, stored, pixels, range(1, pixels.frames + 1), transcoder)
            if pixels.inflated is None and stored.transfer_syntax_uid != BIG_ENDIAN:
                return _native(request, ranges, stored, pixels)
        data = _value(header, pixels, stored, path)
        if int(path.split("/")[-1], 16) == _DOCUMENT:
            data = _without_padding(header, data)
        tag = entity_tag([stored], "-b")
        if (same := unchanged(request, tag)) is not None:
            return same
        offer = choose(ranges, _offers(header, path), "bulk data")
        if not offer.multipart:
            wanted = requested_range(request, len(data), tag)
            part = memoryview(data)[wanted.start : wanted.start + wanted.length]
            headers = {"ETag": tag, "Accept-Ranges": "bytes", **wanted.headers}
            return made(part, offer.media_type, status=wanted.status, headers=headers)
        writer = MultipartWriter(offer.media_type)
        head = writer.head(_part(request, len(data)))
        return whole(iter([[head, data, writer.end]]), writer.content_type, headers={"ETag": tag})

    return retrieve


def pdf(request: Request, ranges: list[MediaRange], stored: StoredInstance) -> Response:
    """An encapsulated PDF as its rendered representation: itself."""
    choose(ranges, [Offer(PDF)], "this document")
    header, pixels = read_dicom(stored)
    data = _without_padding(header, _value(header, pixels, stored, f"{_DOCUMENT:08X}"))
    tag = entity_tag([stored], "-b")
    if (same := unchanged(request, tag)) is not None:
        return same
    return made(data, PDF, headers={"ETag": tag})


def _without_padding(header: Dataset, data: bytes) -> bytes:
    """A document of the length that it had before it was padded to an even one (PS3.3 C.24.2)."""
    try:
        length = int(header.get("EncapsulatedDocumentLength", len(data)))
    except UNREADABLE:
        return data
    return data[:length] if length == len(data) - 1 else data


def _part(request: Request, length: int, media_type: str = OCTETS) -> dict[str, str]:
    place = service_url(request) + request.url.path.partition("/dicom-web")[2]
    return {"Content-Type": media_type, "Content-Location": place, "Content-Length": str(length)}


def _offers(header: Dataset, path: str) -> list[Offer]:
    offers = [Offer(OCTETS, multipart=True), Offer(OCTETS)]
    kind = str(header.get(_MIME).value) if path == f"{_DOCUMENT:08X}" and _MIME in header else ""
    return [*offers, Offer(kind.lower())] if _MEDIA_TYPE.fullmatch(kind) else offers


def _native(request: Request, ranges: list[MediaRange], stored: StoredInstance, pixels: Pixels) -> Response:
    """Native pixel data as a whole: straight from the file."""
    offer = choose(ranges, [Offer(OCTETS, multipart=True), Offer(OCTETS)], "bulk data")
    length = min(pixels.length, stored.length - pixels.offset)
    start = stored.offset + pixels.offset
    tag = entity_tag([stored], "-b")
    if (same := unchanged(request, tag)) is not None:
        return same
    if not offer.multipart:
        wanted = requested_range(request, length, tag)
        extent = Extent(b"", stored.path, start + wanted.start, wanted.length, stored.offset)
        headers = {"ETag": tag, "Accept-Ranges": "bytes", **wanted.headers}
        return StoredBytes([extent], OCTETS, status=wanted.status, headers=headers)
    writer = MultipartWriter(OCTETS)
    head = writer.head(_part(request, length))
    extent = Extent(head, stored.path, start, length, stored.offset)
    return StoredBytes([extent], writer.content_type, end=writer.end, headers={"ETag": tag})


def video(request: Request, ranges: list[MediaRange], stored: StoredInstance, pixels: Pixels) -> Response:
    """A video's stream, its fragments one after the other, in parts as players ask for it (PS3.5 8.2.5 to 8.2.8)."""
    kind = MEDIA_TYPES[stored.transfer_syntax_uid]
    offer = choose(ranges, [Offer(kind), Offer(kind, multipart=True), Offer(OCTETS, multipart=True), Offer(OCTETS)], "this video")
    tag = entity_tag([stored], "-b")
    if (same := unchanged(request, tag)) is not None:
        return same
    fragments = fragments_of(stored, pixels)
    length = sum(size for _, size in fragments)
    if offer.multipart:
        writer = MultipartWriter(offer.media_type)
        head = Extent(writer.head(_part(request, length, offer.media_type)), stored.path, stored.offset, 0, stored.offset)
        whole = [head, *_extents(stored, fragments, 0, length)]
        return StoredBytes(whole, writer.content_type, end=writer.end, headers={"ETag": tag})
    wanted = requested_range(request, length, tag)
    headers = {"ETag": tag, "Accept-Ranges": "bytes", **wanted.headers}
    return StoredBytes(_extents(stored, fragments, wanted.start, wanted.length), offer.media_type, status=wanted.status, headers=headers)


def _extents(stored: StoredInstance, fragments: list[tuple[int, int]], start: int, length: int) -> list[Extent]:
    """Bytes `start` to `start + length` of what the fragments make together."""
    extents, passed = [], 0
    for offset, size in fragments:
        first, last = max(start - passed, 0), min(start + length - passed, size)
        if first < last:
            extents.append(Extent(b"", stored.path, stored.offset + offset + first, last - first, stored.offset))
        passed += size
    return extents


def _value(header: Dataset, pixels: Pixels | None, stored: StoredInstance, path: str) -> bytes:
    steps = path.split("/")
    if pixels is not None and path.upper() == f"{pixels.tag:08X}":
        vr = "OW" if int(header.get("BitsAllocated", 16) or 16) > 8 else "OB"
        if pixels.inflated is not None:
            return pixels.inflated[pixels.offset : pixels.offset + pixels.length]
        return _little(stored.pread(pixels.offset, pixels.length), vr, stored)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            element = _element(header, steps)
    except UNREADABLE:
        raise NoSuchResource("no such attribute in this instance") from None
    if not isinstance(element.value, bytes):
        raise NoSuchResource("this attribute is no bulk data; its value stands in the metadata")
    return _little(element.value, element.VR, stored)


def _element(header: Dataset, steps: list[str]) -> DataElement:
    dataset = header
    for tag, number in zip(steps[:-1:2], steps[1::2]):
        dataset = dataset[int(tag, 16)].value[int(number) - 1 if int(number) else 1 << 30]
    return dataset[int(steps[-1], 16)]


def _little(value: bytes, vr: str, stored: StoredInstance) -> bytes:
    width = _WORDS.get(vr, 1)
    if stored.transfer_syntax_uid != BIG_ENDIAN or width == 1 or len(value) % width:
        return value
    return np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()
