"""Retrieve rendered (PS3.18 8.3.5, 10.4.1.1.3 and 10.4.1.1.4): one frame as JPEG, PNG or GIF, through the grayscale pipeline (PS3.4 N.2).

Whole studies and series, and instances of several frames, are shown by their middle frame; a thumbnail is never larger than its side.
An encapsulated PDF is rendered as what it is.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from dicom_node.node import Node
from dicom_node.transcode import Transcoder
from dicom_node.web.dicomweb.accept import Offer, accepted, choose
from dicom_node.web.dicomweb.bulkdata import pdf
from dicom_node.web.dicomweb.errors import Busy, NoSuchResource, NotAcceptable
from dicom_node.web.dicomweb.frames import frame_numbers
from dicom_node.web.dicomweb.multipart import MultipartWriter
from dicom_node.web.dicomweb.picture import picture_of
from dicom_node.web.dicomweb.pixels import Pixels, pixels_of
from dicom_node.web.dicomweb.rendering_parameters import Rendering, rendering_of
from dicom_node.web.dicomweb.resources import entity_tag, intact, resource_of, stored_instances
from dicom_node.web.dicomweb.responses import Piece, Streamed, made, unchanged
from dicom_node.web.limits import PLACE_WAIT
from storage.archive import StoredInstance

JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"
PICTURES: Final = (JPEG, PNG, GIF)
MAX_RENDERED: Final = 100
ENCAPSULATED_PDF: Final = "1.2.840.10008.5.1.4.1.1.104.1"
RENDERERS: Final = threading.BoundedSemaphore(2)  # pictures made at a time: each takes a processor


def rendered(node: Node, transcoder: Transcoder, *, thumbnail: bool = False) -> Callable[[Request], Response]:
    """The endpoint of a rendered study, series, instance or some of its frames."""

    def retrieve(request: Request) -> Response:
        rendering = rendering_of(request.query_params.multi_items(), thumbnail=thumbnail)
        named = frame_numbers(request.path_params["frames"]) if "frames" in request.path_params else []
        ranges = accepted(request)
        found = intact(stored_instances(node, resource_of(request)))
        if len(found) == 1 and found[0].sop_class_uid == ENCAPSULATED_PDF and not thumbnail:
            return pdf(request, ranges, found[0])
        offer = choose(ranges, [Offer(kind, multipart=len(named) > 1) for kind in PICTURES], "a rendered image")
        stored, pixels = _representative(found)
        numbers = named or [(pixels.frames + 1) // 2]
        if max(numbers) > pixels.frames:
            raise NoSuchResource("no such frame in this instance")
        if len(numbers) > MAX_RENDERED:
            raise NoSuchResource(f"more than {MAX_RENDERED} frames are not rendered at a time")
        tag = entity_tag([stored], f"-{rendering.fingerprint(offer.media_type, numbers)}")
        if (same := unchanged(request, tag)) is not None:
            return same

        def one(number: int) -> bytes:
            with place():
                return encoded(picture_of(stored, pixels, number, rendering, transcoder), offer.media_type, rendering)

        if not offer.multipart:
            data = one(numbers[0])
            return made(data, offer.media_type, headers={"ETag": tag})
        writer = MultipartWriter(offer.media_type)
        pieces = _parts(writer, offer.media_type, map(one, numbers))
        return Streamed(pieces, writer.content_type, headers={"ETag": tag})

    return retrieve


@contextlib.contextmanager
def place() -> Iterator[None]:
    """One of few places where pictures are made; raises Busy where none is free in time."""
    if not RENDERERS.acquire(timeout=PLACE_WAIT):
        raise Busy("too many pictures are asked for at a time; come again")
    try:
        yield
    finally:
        RENDERERS.release()


def _parts(writer: MultipartWriter, media_type: str, pictures: Iterator[bytes]) -> Iterator[Piece]:
    for data in pictures:
        yield [writer.head({"Content-Type": media_type, "Content-Length": str(len(data))}), data]
    yield [writer.end]


def _representative(found: Sequence[StoredInstance]) -> tuple[StoredInstance, Pixels]:
    """The instance that stands for all of them: the middle one, or the next that has pixels; NotAcceptable where none has."""
    middle = len(found) // 2
    for stored in [*found[middle:], *found[:middle]][:MAX_RENDERED]:
        try:
            return stored, pixels_of(stored)
        except NoSuchResource:
            continue
    raise NotAcceptable("what is stored here is no image; it cannot be rendered")


def encoded(picture: Image.Image, media_type: str, rendering: Rendering) -> bytes:
    """A picture as bytes of a media type."""
    out = io.BytesIO()
    if media_type == PNG:
        picture.save(out, "PNG", compress_level=1)
    elif media_type == GIF:
        picture.save(out, "GIF")
    else:
        picture.save(out, "JPEG", quality=rendering.quality)
    return out.getvalue()
