"""WADO-URI (PS3.18 9) for older viewers: one object, named in the query, as DICOM, JPEG, PNG or GIF.

``/wado?requestType=WADO&studyUID=..&seriesUID=..&objectUID=..`` and ``contentType``, ``transferSyntax``, ``frameNumber``, ``rows``,
``columns``, ``region``, ``windowCenter``, ``windowWidth``, ``imageQuality``. Without a content type an image is sent as JPEG, anything else
as DICOM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_node import transcode
from dicom_node.node import Node
from dicom_node.transcode import Transcoder
from dicom_node.web.dicomweb.accept import MediaRange, Offer, accepted, choose, ranges_of
from dicom_node.web.dicomweb.errors import BadRequest, NoSuchResource, NotAcceptable
from dicom_node.web.dicomweb.picture import picture_of
from dicom_node.web.dicomweb.pixels import Pixels, pixels_of
from dicom_node.web.dicomweb.rendered import PICTURES, encoded, place
from dicom_node.web.dicomweb.rendering_parameters import MAX_SIDE, Rendering, Viewport, Window, decimal
from dicom_node.web.dicomweb.resources import PREFIX, Resource, checked_uid, entity_tag, intact, stored_instances
from dicom_node.web.dicomweb.responses import made, unchanged
from dicom_node.web.dicomweb.wado import DICOM, single_part, target_syntax
from storage.archive import StoredInstance

PATHS: Final = (PREFIX, f"{PREFIX}/wado", "/wado")
UIDS: Final = {"studyUID": "study", "seriesUID": "series", "objectUID": "instance"}
NOT_SUPPORTED: Final = ("annotation", "anonymize", "presentationUID", "presentationSeriesUID")
MAX_FRAME: Final = 10**6


def routes(node: Node, transcoder: Transcoder) -> list[BaseRoute]:
    """The addresses of WADO-URI."""
    return [Route(path, _retriever(node, transcoder)) for path in PATHS]


def _retriever(node: Node, transcoder: Transcoder) -> Callable[[Request], Response]:
    def retrieve(request: Request) -> Response:
        query = request.query_params
        if query.get("requestType", "").upper() != "WADO":
            raise BadRequest("requestType is not WADO")
        for name in NOT_SUPPORTED:
            if query.get(name, "no") not in ("no", ""):
                raise BadRequest(f"{name} is not supported")
        (stored,) = intact(stored_instances(node, _resource(query)))
        pixels = _pixels(stored)
        images = [Offer(kind) for kind in PICTURES] if pixels is not None else []
        offer = choose(_wanted(request), (*images, Offer(DICOM)), "this object")
        if offer.media_type == DICOM:
            return _dicom(request, stored, transcoder)
        assert pixels is not None
        return _picture(request, stored, pixels, offer.media_type, transcoder)

    return retrieve


def _resource(query: QueryParams) -> Resource:
    missing = [name for name in UIDS if not query.get(name)]
    if missing:
        raise BadRequest(f"{' and '.join(missing)} must be given")
    return Resource(**{field: checked_uid(query[name].strip(), name) for name, field in UIDS.items()})


def _wanted(request: Request) -> list[MediaRange]:
    named = request.query_params.get("contentType")
    return ranges_of(named) if named else accepted(request)


def _pixels(stored: StoredInstance) -> Pixels | None:
    try:
        return pixels_of(stored)
    except NoSuchResource:
        return None


def _dicom(request: Request, stored: StoredInstance, transcoder: Transcoder) -> Response:
    syntax = request.query_params.get("transferSyntax", "").strip()
    if syntax:
        checked_uid(syntax, "transferSyntax")
        if syntax != stored.transfer_syntax_uid and syntax not in transcode.targets(stored.transfer_syntax_uid):
            raise NotAcceptable(f"this object cannot be had in transfer syntax {syntax}")
    target = target_syntax(stored, syntax)
    tag = entity_tag([stored], f"-{target}")
    if (same := unchanged(request, tag)) is not None:
        return same
    return single_part(request, transcoder, stored, target, {"ETag": tag})


def _picture(request: Request, stored: StoredInstance, pixels: Pixels, media_type: str, transcoder: Transcoder) -> Response:
    query = request.query_params
    number = _integer(query, "frameNumber", MAX_FRAME) or 1
    if number > pixels.frames:
        raise NoSuchResource("no such frame in this object")
    rendering = Rendering(_window(query), _viewport(query, pixels), _integer(query, "imageQuality", 100) or 90)
    tag = entity_tag([stored], f"-{rendering.fingerprint(media_type, [number])}")
    if (same := unchanged(request, tag)) is not None:
        return same
    with place():
        data = encoded(picture_of(stored, pixels, number, rendering, transcoder), media_type, rendering)
    return made(data, media_type, headers={"ETag": tag})


def _window(query: QueryParams) -> Window | None:
    center, width = (_number(query.get(name), name) for name in ("windowCenter", "windowWidth"))
    if center is None and width is None:
        return None
    if center is None or width is None:
        raise BadRequest("windowCenter and windowWidth belong together")
    if width < 1:
        raise BadRequest("windowWidth is too small")
    return Window(center, width)


def _viewport(query: QueryParams, pixels: Pixels) -> Viewport | None:
    rows, columns = _integer(query, "rows", MAX_SIDE), _integer(query, "columns", MAX_SIDE)
    region = _region(query.get("region"), pixels)
    if rows is None and columns is None and region is None:
        return None
    if rows is None and columns is None and region is not None:
        return Viewport(min(max(round(region[2]), 1), MAX_SIDE), min(max(round(region[3]), 1), MAX_SIDE), region)
    return Viewport(columns or MAX_SIDE, rows or MAX_SIDE, region)


def _region(text: str | None, pixels: Pixels) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom as parts of the image, from 0 to 1."""
    if not text:
        return None
    parts = [_number(part, "region") for part in text.split(",")]
    if len(parts) != 4 or any(part is None or not 0 <= part <= 1 for part in parts):
        raise BadRequest("region is left,top,right,bottom, each from 0 to 1")
    left, top, right, bottom = (float(part or 0) for part in parts)
    if right <= left or bottom <= top:
        raise BadRequest("region is empty")
    wide, high = float(pixels.header.get("Columns", 0) or 0), float(pixels.header.get("Rows", 0) or 0)
    return left * wide, top * high, (right - left) * wide, (bottom - top) * high


def _integer(query: QueryParams, name: str, most: int) -> int | None:
    text = query.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 7 and 1 <= int(text) <= most):
        raise BadRequest(f"{name} is not between 1 and {most}")
    return int(text)


def _number(text: str | None, name: str) -> float | None:
    if not text:
        return None
    value = decimal(text)
    if not math.isfinite(value) or abs(value) > 1e9:
        raise BadRequest(f"{name} is no number")
    return value
