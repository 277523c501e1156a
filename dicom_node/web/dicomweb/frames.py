"""Retrieve frames (PS3.18 10.4.1.1.6): as they are stored, or decoded to little endian pixels.

``type="application/octet-stream"`` without a transfer syntax means decoded; with ``transfer-syntax=*``, as viewers send it, as stored, each
part naming its transfer syntax. ``image/*`` types are of frames as they are stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from dicom_node.node import Node
from dicom_node.transcode import Transcoder
from dicom_node.web.dicomweb.accept import MediaRange, Offer, accepted
from dicom_node.web.dicomweb.errors import BadRequest, NoSuchResource, NotAcceptable
from dicom_node.web.dicomweb.multipart import MultipartWriter
from dicom_node.web.dicomweb.pixels import BIG_ENDIAN, EXPLICIT, Pixels, decoded_frame, pixels_of, stored_frame
from dicom_node.web.dicomweb.resources import Resource, entity_tag, intact, resource_of, service_url, stored_instances
from dicom_node.web.dicomweb.responses import Piece, Streamed, made, unchanged, whole
from dicom_node.web.dicomweb.stored import StoredBytes
from dicom_node.web.wire import Extent
from storage.archive import StoredInstance

OCTETS: Final = "application/octet-stream"
MAX_FRAMES: Final = 100_000
_LIST: Final = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")

# Media types of compressed frames (PS3.18 table 8.7.3-5).
MEDIA_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 53, 55, 57, 70)), "image/jpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)), "image/jls"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)), "image/jpx"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)), "image/jphc"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)), "image/jxl"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (100, 101)), "video/mpeg"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (102, 103, 104, 105, 106, 107, 108)), "video/mp4"),
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}


def frames(node: Node, transcoder: Transcoder) -> Callable[[Request], Response]:
    """The endpoint of some frames of an instance."""

    def retrieve(request: Request) -> Response:
        numbers = frame_numbers(request.path_params["frames"])
        ranges = accepted(request)
        stored = intact(stored_instances(node, resource_of(request)))[0]
        pixels = pixels_of(stored)
        if max(numbers) > pixels.frames:
            raise NoSuchResource("no such frame in this instance")
        return answer(request, ranges, stored, pixels, numbers, transcoder)

    return retrieve


def frame_numbers(text: str) -> list[int]:
    """The frames that an address names; raises BadRequest."""
    if not _LIST.fullmatch(text) or text.count(",") >= MAX_FRAMES:
        raise BadRequest("frames in the address are no list of numbers")
    numbers = [int(number) for number in text.split(",")]
    if 0 in numbers:
        raise BadRequest("frames are counted from 1")
    return numbers


def answer(
    request: Request, ranges: Sequence[MediaRange], stored: StoredInstance, pixels: Pixels, numbers: Sequence[int], transcoder: Transcoder
) -> Response:
    """Some frames in the representation that the client likes best."""
    offer, raw = _chosen(ranges, stored, pixels, single=len(numbers) == 1)
    tag = entity_tag([stored], "-r" if raw else "-u")
    if (same := unchanged(request, tag)) is not None:
        return same
    syntax = stored.transfer_syntax_uid if raw and pixels.encapsulated else EXPLICIT
    content_type = f"{offer.media_type}; transfer-syntax={syntax}"
    headers = {"ETag": tag}
    raw = raw or (not pixels.encapsulated and stored.transfer_syntax_uid != BIG_ENDIAN)
    if raw and not pixels.encapsulated and pixels.inflated is None and pixels.frame_bits % 8 == 0:
        return _native(request, stored, pixels, numbers, offer, content_type, headers)

    def one(number: int) -> bytes:
        return stored_frame(stored, pixels, number) if raw else decoded_frame(stored, pixels, number, transcoder).pixels

    if not offer.multipart:
        data = one(numbers[0])
        return made(data, content_type, headers=headers)
    writer = MultipartWriter(offer.media_type)
    place = frames_url(request, stored)

    def pieces() -> Iterator[Piece]:
        for number in numbers:
            data = one(number)
            yield [writer.head(_part(content_type, f"{place}/{number}", len(data))), data]
        yield [writer.end]

    if len(numbers) == 1:
        return whole(pieces(), writer.content_type, headers=headers)
    return Streamed(pieces(), writer.content_type, headers=headers)


def _part(content_type: str, place: str, length: int) -> dict[str, str]:
    return {"Content-Type": content_type, "Content-Location": place, "Content-Length": str(length)}


def frames_url(request: Request, stored: StoredInstance) -> str:
    """The address of an instance's frames."""
    return f"{service_url(request)}{Resource(stored.study_uid, stored.series_uid, stored.sop_uid).path}/frames"


def _native(
    request: Request,
    stored: StoredInstance,
    pixels: Pixels,
    numbers: Sequence[int],
    offer: Offer,
    content_type: str,
    headers: dict[str, str],
) -> Response:
    """Native frames of whole bytes: straight from the file."""
    size = pixels.frame_bits // 8
    if max(numbers) * size > pixels.length:
        raise NoSuchResource("the stored instance ends before this frame")
    start = stored.offset + pixels.offset
    writer = MultipartWriter(offer.media_type)
    place = frames_url(request, stored)
    heads = [writer.head(_part(content_type, f"{place}/{n}", size)) if offer.multipart else b"" for n in numbers]
    extents = [Extent(head, stored.path, start + (n - 1) * size, size, stored.offset) for head, n in zip(heads, numbers)]
    if not offer.multipart:
        return StoredBytes(extents, content_type, headers=headers)
    return StoredBytes(extents, writer.content_type, end=writer.end, headers=headers)


def _chosen(ranges: Sequence[MediaRange], stored: StoredInstance, pixels: Pixels, *, single: bool) -> tuple[Offer, bool]:
    """The representation, and whether it is the stored one."""
    syntax = stored.transfer_syntax_uid if pixels.encapsulated else EXPLICIT
    compressed = MEDIA_TYPES.get(syntax) if pixels.encapsulated else None
    for wanted in ranges:
        if wanted.quality <= 0:
            continue
        for multipart in (True, False) if single else (True,):
            named, octets = wanted.transfer_syntax, Offer(OCTETS, multipart=multipart)
            image = Offer(compressed, multipart=multipart) if compressed else None
            any_type = wanted.media_type == "*/*"
            if image and wanted.takes(image) and named in (("*", syntax) if any_type else ("", "*", syntax)):
                return image, True
            if not wanted.takes(octets):
                continue
            if named in ("*", syntax):
                return octets, True
            if named in ("", EXPLICIT):
                return octets, False
    forms = f'multipart/related; type="{OCTETS}"' + (f' and multipart/related; type="{compressed}"' if compressed else "")
    raise NotAcceptable(f"frames are available as {forms}")
