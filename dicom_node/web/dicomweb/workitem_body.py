"""The data set in the body of a worklist request: DICOM JSON (PS3.18 F), read and bounded."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from starlette.requests import Request

from dicom_node.web.dicomweb.errors import BadRequest, Unsupported
from dicom_node.web.limits import BodyLimits, body
from storage.workitem_values import Json

MAX_BODY: Final = 4 << 20
MAX_DEPTH: Final = 16  # of sequences in sequences
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
_VR: Final = re.compile(r"[A-Z]{2}")
_MEMBERS: Final = frozenset({"vr", "Value", "InlineBinary", "BulkDataURI"})
_MEDIA_TYPES: Final = ("application/dicom+json", "application/json")


async def dataset_of(request: Request, stall: float, *, optional: bool = False) -> Json:
    """The one data set of a request, its tags in upper case; ``optional``: none is an empty one.

    Raises
    ------
    Unsupported
        The body is of another media type.
    BadRequest
        It is no data set in DICOM JSON.
    """
    data = b"".join([piece async for piece in body(request, BodyLimits(MAX_BODY, stall))])
    if optional and not data.strip():
        return {}
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _MEDIA_TYPES:
        raise Unsupported("a workitem is taken as application/dicom+json")
    try:
        read = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BadRequest("the body is no JSON") from None
    if isinstance(read, list):
        if len(read) != 1:
            raise BadRequest("the body has to hold one data set")
        read = read[0]
    return _dataset(read, MAX_DEPTH)


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _dataset(read: Any, depth: int) -> Json:
    if not isinstance(read, dict) or depth < 0:
        raise BadRequest("the body is no data set in DICOM JSON" if depth >= 0 else "the body has too many sequences in sequences")
    made: Json = {}
    for tag, element in read.items():
        if not _TAG.fullmatch(tag) or not isinstance(element, dict) or not element.keys() <= _MEMBERS:
            raise BadRequest("an element of the body is none in DICOM JSON")
        vr, values = element.get("vr"), element.get("Value")
        if not isinstance(vr, str) or not _VR.fullmatch(vr) or not isinstance(values, list | None):
            raise BadRequest(f"{tag}: the element is none in DICOM JSON")
        kept = {name: _plain(element[name]) for name in ("InlineBinary", "BulkDataURI") if name in element}
        if values:
            kept["Value"] = [_dataset(each, depth - 1) if vr == "SQ" else _plain(each) for each in values]
        made[tag.upper()] = {"vr": vr, **kept}
    return made


def _plain(value: Any) -> Any:
    """A value that every database takes, and every reader of the answer."""
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value)):
            raise BadRequest("a value holds a character that no value can hold")
        return value
    if isinstance(value, dict):  # a person's name
        groups = {name: _plain(text) for name, text in value.items() if name in ("Alphabetic", "Ideographic", "Phonetic")}
        if not all(isinstance(text, str) for text in groups.values()):
            raise BadRequest("a person's name is none in DICOM JSON")
        return groups
    if isinstance(value, list):
        raise BadRequest("a value is a list")
    return value
