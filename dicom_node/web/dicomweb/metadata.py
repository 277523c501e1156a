"""Retrieve metadata (PS3.18 10.4.1.1.2): the header JSON that is kept for each instance, put together without being read again."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from dicom_node.node import Node
from dicom_node.web.dicomweb.accept import accepted, choose
from dicom_node.web.dicomweb.qido import OFFERS
from dicom_node.web.dicomweb.resources import Resource, entity_tag, intact, resource_of, service_url, stored_instances
from dicom_node.web.dicomweb.responses import Piece, Streamed, unchanged, whole
from storage.archive import StoredInstance
from storage.header_json import encode_header
from storage.schema import instance, instance_header

A_PIECE: Final = 200  # instances whose headers are in memory at once
# In a value their quotes would be escaped.
_BULK: Final = b'"BulkDataURI":"'
_CHARACTER_SET: Final = b'"00080005":{"vr":"CS"'
_ITS_VALUE: Final = re.compile(rb'(,"Value":\[("([^"\\]|\\.)*"|null|,)*\])?\}')
_UTF_8: Final = b'"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'


def metadata(node: Node) -> Callable[[Request], Response]:
    """The endpoint of a study's, a series' or an instance's metadata."""

    def retrieve(request: Request) -> Response:
        offer = choose(accepted(request), OFFERS, "metadata")
        stored = stored_instances(node, resource_of(request))
        sound = intact(stored)
        service = service_url(request)
        tag = entity_tag(sound, "-m")
        if (same := unchanged(request, tag)) is not None:
            return same
        status = 200 if len(sound) == len(stored) else 206
        pieces = _pieces(node, sound, service)
        if len(sound) <= A_PIECE:
            return whole(pieces, offer.media_type, status=status, headers={"ETag": tag})
        return Streamed(pieces, offer.media_type, status=status, headers={"ETag": tag})

    return retrieve


def _pieces(node: Node, instances: Sequence[StoredInstance], service: str) -> Iterator[Piece]:
    head = b"["
    for start in range(0, len(instances), A_PIECE):
        page = instances[start : start + A_PIECE]
        kept = _kept(node, [each.sop_uid for each in page])
        yield [head + b",".join([_header(each, kept.get(each.sop_uid), service) for each in page])]
        head = b","
    yield [b"]"]


def _kept(node: Node, sop_uids: Sequence[str]) -> dict[str, bytes]:
    query = select(instance.c.sop_uid, instance_header.c.json_zlib).join(instance, instance.c.pk == instance_header.c.instance_pk)
    with node.database.read() as connection:
        rows = connection.execute(query.where(instance.c.sop_uid.in_(sop_uids))).all()
    return {row.sop_uid: row.json_zlib for row in rows}


def _header(stored: StoredInstance, packed: bytes | None, service: str) -> bytes:
    if packed is None:
        with stored.file() as file:
            packed = encode_header(file, stored.transfer_syntax_uid)
    text = in_utf_8(zlib.decompress(packed))
    if _BULK not in text:
        return text
    place = Resource(stored.study_uid, stored.series_uid, stored.sop_uid)
    return text.replace(_BULK, b"%b%b%b/bulkdata/" % (_BULK, service.encode(), place.path.encode()))


def in_utf_8(text: bytes) -> bytes:
    """Header JSON whose Specific Character Set, in items too, is that of the JSON and no longer that of the file (PS3.18 F.2)."""
    done, made = 0, []
    while (at := text.find(_CHARACTER_SET, done)) >= 0:
        value = _ITS_VALUE.match(text, at + len(_CHARACTER_SET))
        made += [text[done:at], _UTF_8 if value else _CHARACTER_SET]
        done = value.end() if value else at + len(_CHARACTER_SET)
    return b"".join([*made, text[done:]])
