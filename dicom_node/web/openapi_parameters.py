"""The parameters of the web interface, for its OpenAPI document: what may stand in addresses, queries and headers, and in which form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dicom_node.web.dicomweb.accept import MAX_ACCEPT
from dicom_node.web.dicomweb.delete import MAX_REASON
from dicom_node.web.dicomweb.rendering_parameters import DECIMAL, FUNCTIONS, MAX_SIDE
from dicom_node.web.dicomweb.search_parameters import MAX_NUMBER, MOMENTS
from dicom_node.web.dicomweb.wado_uri import MAX_FRAME, NOT_SUPPORTED
from storage.attributes import ATTRIBUTES, Level, Source
from storage.feedback import LONGEST_CLASS, LONGEST_REASON, REASONS, VERDICTS

_UID: Final = {"type": "string", "maxLength": 64, "pattern": r"^[0-9][0-9.]*$"}

# The form of a matching value by VR: single values, ranges, lists of UIDs; empty or * for any (PS3.4 C.2.2.2).
_ONE_UID: Final = r"[0-9][0-9.]*"
_FORMS: Final[Mapping[str, Mapping[str, Any]]] = {
    **{vr: {"type": "string", "pattern": rf'^(\*|""|{form.pattern})$'} for vr, form in MOMENTS.items()},
    "UI": {"type": "string", "pattern": rf"^(\*|[,\\]*({_ONE_UID}([,\\]+{_ONE_UID})*[,\\]*)?)$"},
}
_TEXT: Final = {"type": "string", "pattern": r"^[^\x00]*$"}
_MEDIA_TYPES: Final = ("*/*", "application/dicom", "application/dicom+json", "application/octet-stream", "image/jpeg", "image/png")
_ACCEPTED: Final = {"anyOf": [{"enum": list(_MEDIA_TYPES)}, {"type": "string", "maxLength": MAX_ACCEPT}]}


def _one(name: str, where: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    required = {"required": True} if where == "path" else {}
    return {"name": name, "in": where, "description": description, **required, "schema": dict(schema)}


def _integer(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


IN_PATH: Final[Mapping[str, Mapping[str, Any]]] = {
    "study": _one("study", "path", "Study Instance UID", _UID),
    "series": _one("series", "path", "Series Instance UID", _UID),
    "instance": _one("instance", "path", "SOP Instance UID", _UID),
    "frames": _one(
        "frames", "path", "Numbers of frames, counted from 1", {"type": "string", "pattern": "^[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*$"}
    ),
    "workitem": _one("workitem", "path", "SOP Instance UID of a workitem", _UID),
    "aet": _one("aet", "path", "AE title of a subscriber", {"type": "string", "pattern": "^[!-.0-Z^-~]{1,16}$"}),
    "job": _one("job", "path", "Number of a job", _integer(1, 2**31)),
    "release": _one("release", "path", "Name, NAME@VERSION or NAME@DIGEST", {"type": "string", "minLength": 1, "pattern": "^[^/\x00]+$"}),
    "file": _one("file", "path", "Of the viewer", {"type": "string", "pattern": "^[a-z][a-z0-9.-]*$"}),
    "path": _one(
        "path",
        "path",
        "A tag; below sequences: tag/item number/tag",
        {"type": "string", "pattern": "^[0-9A-Fa-f]{8}(/[1-9][0-9]{0,5}/[0-9A-Fa-f]{8}){0,32}$"},
    ),
}
_API: Final = {
    "match": {
        **_one("match", "query", "KEYWORD=VALUE, in DICOM matching syntax", {"type": "array", "maxItems": 10}),
        "style": "form",
        "explode": True,
    },
    "tag": _one("tag", "query", "That a rule gave the study", {"type": "string"}),
    "study_state": _one("state", "query", "Of the study", {"enum": ["RECEIVING", "COMPLETE"]}),
    "job_state": _one("state", "query", "Of the job", {"enum": ["SCHEDULED", "IN_PROGRESS", "COMPLETED", "CANCELED", "FAILED"]}),
    "kind": _one("kind", "query", "Of the job", {"enum": ["route", "infer", "deliver", "commit"]}),
    "of_study": _one("study", "query", "Study Instance UID", _TEXT),
    "name": _one("name", "query", "Of the model", _TEXT),
    "of_release": _one("release", "query", "Only its model, by this release", _TEXT),
    "model": _one("model", "query", "Whose selection is ambiguous", _TEXT),
    "input": _one("input", "query", "Of a model of several inputs, which", _TEXT),
    "of_candidates": _one("series", "query", "The series that is meant", _TEXT),
    "rule": _one("rule", "query", "By this rule only", _TEXT),
}
_FEEDBACK: Final = {
    "of_run": {**_one("run", "query", "Number of the run that is judged", _integer(0, 2**31)), "required": True},
    "finding": _one("finding", "query", "Of the run, as the study's story names it; the result as a whole where left out", _TEXT),
    "verdict": {**_one("verdict", "query", "What is said", {"enum": list(VERDICTS)}), "required": True},
    "code": _one("code", "query", "Why; needed by who modifies or rejects", {"enum": list(REASONS)}),
    "said": _one("reason", "query", "Why, in words", {**_TEXT, "maxLength": LONGEST_REASON}),
    "corrected": _one("corrected", "query", "What is right: a number, or a class", {**_TEXT, "maxLength": LONGEST_CLASS}),
    "corrected_uid": _one("corrected_uid", "query", "SOP Instance UID of the SEG in which it was corrected", _UID),
    "seen": _one("seen", "query", "The revision of the word that one saw; 0: there was none", _integer(0, 2**31)),
}
_API["match"]["schema"]["items"] = {"type": "string", "pattern": r"^[^=\x00]+=[^\x00]*$"}
_ACCEPT: Final = _one("accept", "query", "Media types, as in the header Accept", _ACCEPTED)
_SEARCH: Final = {
    "limit": _one("limit", "query", "How many matches at most", _integer(0, MAX_NUMBER - 1)),
    "offset": _one("offset", "query", "How many matches to leave out", _integer(0, MAX_NUMBER - 1)),
    "fuzzymatching": _one("fuzzymatching", "query", "Match names by their sound", {"type": "boolean"}),
    "includefield": {
        **_one("includefield", "query", "Keywords or tags to return, or all", {"type": "array", "maxItems": 500}),
        "style": "form",
        "explode": False,
    },
}
_SEARCH["includefield"]["schema"]["items"] = {
    "anyOf": [
        {"type": "string", "enum": ["all", *sorted(each.keyword for each in ATTRIBUTES.values())]},
        {"type": "string", "pattern": "^[0-9A-Fa-f]{8}$"},
    ]
}
_RENDERING: Final = {
    "window": _one(
        "window",
        "query",
        "center,width,function",
        {"type": "string", "pattern": rf"^{DECIMAL},{DECIMAL}(,({'|'.join(FUNCTIONS)}))?$"},
    ),
    "viewport": _one(
        "viewport",
        "query",
        f"width,height or width,height,left,top,width,height; the picture may have {MAX_SIDE} columns and rows",
        {"type": "string", "pattern": rf"^[0-9]{{1,6}},[0-9]{{1,6}}(,({DECIMAL})?,({DECIMAL})?,({DECIMAL})?,({DECIMAL})?)?$"},
    ),
    "quality": _one("quality", "query", "Of JPEG", _integer(1, 100)),
}
_WADO_URI: Final = {
    "requestType": {**_one("requestType", "query", "WADO", {"type": "string", "const": "WADO"}), "required": True},
    "studyUID": {**_one("studyUID", "query", "Study Instance UID", _UID), "required": True},
    "seriesUID": {**_one("seriesUID", "query", "Series Instance UID", _UID), "required": True},
    "objectUID": {**_one("objectUID", "query", "SOP Instance UID", _UID), "required": True},
    "contentType": _one("contentType", "query", "Media types, as in the header Accept", _ACCEPTED),
    "transferSyntax": _one("transferSyntax", "query", "Of application/dicom", _UID),
    "frameNumber": _one("frameNumber", "query", "Counted from 1", _integer(1, MAX_FRAME)),
    "rows": _one("rows", "query", "Of the picture", _integer(1, MAX_SIDE)),
    "columns": _one("columns", "query", "Of the picture", _integer(1, MAX_SIDE)),
    "region": _one(
        "region", "query", "left,top,right,bottom, each from 0 to 1", {"type": "string", "pattern": rf"^({DECIMAL}(,{DECIMAL}){{3}})?$"}
    ),
    "windowCenter": _one("windowCenter", "query", "With windowWidth", {"type": "number", "minimum": -1e9, "maximum": 1e9}),
    "windowWidth": _one("windowWidth", "query", "With windowCenter", {"type": "number", "minimum": 1, "maximum": 1e9}),
    "imageQuality": _one("imageQuality", "query", "Of JPEG", _integer(1, 100)),
    **{name: _one(name, "query", "Not supported", {"type": "string", "enum": ["no", ""]}) for name in NOT_SUPPORTED},
}
_ENTITY_HEADERS: Final = {"If-None-Match": _one("If-None-Match", "header", "ETags that the client has", {"type": "string"})}
_RANGE_HEADERS: Final = {
    "Range": _one("Range", "header", "bytes=first-last; what is no range of bytes is ignored", {"type": "string"}),
    "If-Range": _one("If-Range", "header", "The ETag that the range is of", {"type": "string"}),
}
_REASON_FORM: Final = {"type": "string", "maxLength": MAX_REASON, "pattern": r"^[^\x00-\x1f\x7f]*$"}
_REASON: Final = _one("reason", "query", "Why, for the tombstone", _REASON_FORM)
_WHY: Final = {**_one("reason", "query", "Why, for the audit trail", {**_REASON_FORM, "minLength": 1}), "required": True}

# The attributes that have a column; others can be matched and returned too, under their keyword or tag.
_MATCHING: Final = {
    each.keyword: _one(each.keyword, "query", f"{each.vr}, to be matched", _FORMS.get(each.vr, _TEXT))
    for each in ATTRIBUTES.values()
    if each.source is not Source.HEADER
}

PARAMETERS: Final[Mapping[str, Mapping[str, Any]]] = {
    **IN_PATH,
    "accept": _ACCEPT,
    "transaction": _one("transaction", "query", "Transaction UID; it may stand in the body", _UID),
    "deletionlock": _one("deletionlock", "query", "Whether it is to be kept longer", {"type": "string", "enum": ["true", "false"]}),
    "filter": _one("filter", "query", "Of a filtered subscription: ATTRIBUTE=VALUE, comma-separated", {"type": "string", "minLength": 3}),
    **_API,
    **_FEEDBACK,
    "reason": _REASON,
    "why": _WHY,
    **_SEARCH,
    **_RENDERING,
    **_WADO_URI,
    **_ENTITY_HEADERS,
    **_RANGE_HEADERS,
    **_MATCHING,
}
FEEDBACK: Final = tuple(_FEEDBACK)
RENDERING: Final = ("accept", *_RENDERING)
WADO_URI: Final = ("accept", *_WADO_URI)
ENTITY_HEADERS: Final = tuple(_ENTITY_HEADERS)
RANGE_HEADERS: Final = tuple(_RANGE_HEADERS)


def searching(level: Level) -> tuple[str, ...]:
    """The parameters of a search at a level."""
    matching = [each.keyword for each in ATTRIBUTES.values() if each.keyword in _MATCHING and each.level.depth <= level.depth]
    return ("accept", *_SEARCH, *matching)
