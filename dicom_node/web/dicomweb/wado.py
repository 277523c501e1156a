"""Retrieve instances (WADO-RS, PS3.18 10.4.1.1.1): the data set's bytes as they are kept, after our Part 10 meta.

A client that names no transfer syntax gets uncompressed little endian: as stored where it is, else changed to Explicit VR Little Endian;
what cannot be changed without loss is sent as stored. ``transfer-syntax=*`` always means as stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from dicom_node import transcode
from dicom_node.node import Node
from dicom_node.transcode import MAX_BYTES, ChildrenBusy, TranscodeError, Transcoder
from dicom_node.web.dicomweb.accept import MediaRange, Offer, accepted
from dicom_node.web.dicomweb.errors import NotAcceptable, Unprocessable
from dicom_node.web.dicomweb.multipart import MultipartWriter
from dicom_node.web.dicomweb.ranges import requested_range
from dicom_node.web.dicomweb.resources import Resource, entity_tag, intact, resource_of, service_url, stored_instances
from dicom_node.web.dicomweb.responses import Piece, Streamed, made, unchanged
from dicom_node.web.dicomweb.stored import StoredBytes
from dicom_node.web.wire import Extent
from storage.archive import StoredInstance
from storage.members import file_meta

DICOM: Final = "application/dicom"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
AS_STORED: Final = "*"
WAITS: Final = 3  # for a free process, within an answer that has begun
_MULTIPART, _SINGLE = Offer(DICOM, multipart=True), Offer(DICOM)


def instances(node: Node, transcoder: Transcoder) -> Callable[[Request], Response]:
    """The endpoint of a study, a series or an instance as a whole."""

    def retrieve(request: Request) -> Response:
        ranges = accepted(request)
        resource = resource_of(request)
        stored = stored_instances(node, resource)
        sound = intact(stored)
        offer, syntax = _chosen(ranges, sound, single=bool(resource.instance))
        tag = entity_tag(sound, "" if syntax == AS_STORED else f"-{syntax or 'd'}")
        if (same := unchanged(request, tag)) is not None:
            return same
        status = 200 if len(sound) == len(stored) else 206
        headers = {"ETag": tag}
        planned = [(each, target_syntax(each, syntax)) for each in sound]
        if not offer.multipart:
            return single_part(request, transcoder, *planned[0], headers)
        if all(target == each.transfer_syntax_uid for each, target in planned):
            return _as_stored(sound, service_url(request), status, headers)
        writer = MultipartWriter(DICOM)
        pieces = _transcoded(planned, transcoder, writer, service_url(request))
        return Streamed(pieces, writer.content_type, status=status, headers=headers)

    return retrieve


def _chosen(ranges: Sequence[MediaRange], stored: Sequence[StoredInstance], *, single: bool) -> tuple[Offer, str]:
    """What to send, and the transfer syntax asked for: "" where none is."""
    offers = (_MULTIPART, _SINGLE) if single else (_MULTIPART,)
    refused = ""
    for wanted in ranges:
        if wanted.quality <= 0:
            continue
        for offer in offers:
            if not wanted.takes(offer):
                continue
            syntax = wanted.transfer_syntax
            if syntax in ("", AS_STORED) or all(_can_be(each.transfer_syntax_uid, syntax) for each in stored):
                return offer, syntax
            refused = syntax
    if refused:
        raise NotAcceptable(f"not everything here can be had in transfer syntax {refused}")
    single_part = " or application/dicom" if single else ""
    raise NotAcceptable(f'instances are available as multipart/related; type="{DICOM}"{single_part}')


def _can_be(stored: str, wanted: str) -> bool:
    return stored == wanted or wanted in transcode.targets(stored)


def target_syntax(stored: StoredInstance, wanted: str) -> str:
    """The transfer syntax that an instance is sent in."""
    syntax = stored.transfer_syntax_uid
    if wanted in (AS_STORED, syntax) or (not wanted and syntax in (IMPLICIT, EXPLICIT)):
        return syntax
    if wanted:
        return wanted
    return EXPLICIT if EXPLICIT in transcode.targets(syntax) else syntax


def _headers_of(stored: StoredInstance, syntax: str, service: str) -> dict[str, str]:
    place = Resource(stored.study_uid, stored.series_uid, stored.sop_uid)
    return {"Content-Type": f"{DICOM}; transfer-syntax={syntax}", "Content-Location": f"{service}{place.path}"}


def _as_stored(stored: Sequence[StoredInstance], service: str, status: int, headers: dict[str, str]) -> Response:
    writer = MultipartWriter(DICOM)
    heads = [writer.head({**_headers_of(each, each.transfer_syntax_uid, service), "Content-Length": str(each.length)}) for each in stored]
    extents = [Extent(head, each.path, each.offset, each.length, each.offset) for head, each in zip(heads, stored)]
    return StoredBytes(extents, writer.content_type, end=writer.end, status=status, headers=headers)


def single_part(request: Request, transcoder: Transcoder, stored: StoredInstance, target: str, headers: dict[str, str]) -> Response:
    data = None
    if target != stored.transfer_syntax_uid:
        try:
            data = memoryview(_part10(stored, target, transcoder))
        except ChildrenBusy:
            raise
        except TranscodeError as error:
            raise Unprocessable(f"the stored instance cannot be changed to {target}: {error}") from None
    wanted = requested_range(request, stored.length if data is None else len(data), headers["ETag"])
    name = {"Content-Disposition": f'attachment; filename="{stored.sop_uid}.dcm"', "Accept-Ranges": "bytes"}
    every = {**headers, **name, **wanted.headers}
    if data is None:
        extent = Extent(b"", stored.path, stored.offset + wanted.start, wanted.length, stored.offset)
        return StoredBytes([extent], DICOM, status=wanted.status, headers=every)
    part = data[wanted.start : wanted.start + wanted.length]
    return made(part, DICOM, status=wanted.status, headers=every)


def _transcoded(
    planned: Sequence[tuple[StoredInstance, str]], transcoder: Transcoder, writer: MultipartWriter, service: str
) -> Iterator[Piece]:
    for number, (stored, target) in enumerate(planned):
        syntax = target
        try:
            data = stored.read() if target == stored.transfer_syntax_uid else _patiently(stored, target, transcoder, WAITS if number else 1)
        except TranscodeError as error:
            if number == 0 and isinstance(error, ChildrenBusy):  # nothing was sent yet: the client may come again
                raise
            # The others are not withheld for it; its meta says what it is.
            data, syntax = stored.read(), stored.transfer_syntax_uid
        yield [writer.head({**_headers_of(stored, syntax, service), "Content-Length": str(len(data))}), data]
    yield [writer.end]


def _patiently(stored: StoredInstance, target: str, transcoder: Transcoder, waits: int) -> bytes:
    """Of an answer that has begun: a busy moment does not break it."""
    for _ in range(waits - 1):
        with suppress(ChildrenBusy):
            return _part10(stored, target, transcoder)
    return _part10(stored, target, transcoder)


def _part10(stored: StoredInstance, target: str, transcoder: Transcoder) -> bytes:
    if stored.length > MAX_BYTES:
        raise TranscodeError("the instance is larger than what is transcoded")
    dataset = stored.pread(stored.meta_length, stored.length - stored.meta_length)
    changed = transcoder.transcode(dataset, stored.transfer_syntax_uid, target)
    return file_meta(stored.sop_class_uid, stored.sop_uid, target) + changed
