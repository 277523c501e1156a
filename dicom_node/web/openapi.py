"""The web interface as an OpenAPI 3.1 document, made from the routes that are registered, when it is asked for.

What an address takes and answers stands in `OPERATIONS`, by method and end of the address; a registered route that is missing there is an
error, so that nothing is served undescribed. HEAD goes wherever GET goes, and is not named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

import dicom_node
from dicom_node.node import Node
from dicom_node.web.authentication import API, is_open
from dicom_node.web.dicomweb.resources import PREFIX
from dicom_node.web.openapi_parameters import ENTITY_HEADERS, FEEDBACK, PARAMETERS, RANGE_HEADERS, RENDERING, WADO_URI, searching
from dicom_node.web.page_route import PageRoute
from storage.attributes import Level

PATH: Final = f"{PREFIX}/openapi.json"
JSON, DICOM_JSON, TEXT, HTML = "application/json", "application/dicom+json", "text/plain", "text/html"
DICOM, DICOM_XML, MULTIPART, OCTETS = "application/dicom", "application/dicom+xml", "multipart/related", "application/octet-stream"
JPEG, PNG, GIF, PDF = "image/jpeg", "image/png", "image/gif", "application/pdf"
DESCRIPTION: Final = "DICOMweb (PS3.18), the node's own state, health and metrics."
MODELS: Final = (DICOM_JSON, JSON)
FRAMES: Final = (MULTIPART, OCTETS, "image/*", "video/*")

MEANINGS: Final[Mapping[int, str]] = {
    200: "What was asked for",
    201: "It is made, under the address in Location",
    202: "Accepted; of instances some are stored, and others failed or were stored with a warning",
    204: "Nothing to send",
    206: "A part: the range that was asked for, or what of it is not damaged",
    304: "The client has it already",
    308: "The address ends with a slash",
    400: "The address, a parameter or the body is not what it should be",
    401: "A token is needed, or this one is not known",
    403: "The token has not the right, or the page's origin may not ask",
    404: "Nothing is stored under this address",
    406: "None of the representations that the client takes can be made",
    408: "The body does not get on",
    409: "No instance is stored; each has its reason",
    410: "It is known, but its bytes are damaged",
    413: "The body or a part of it is too large",
    415: "The body's media type or coding is not taken",
    416: "The range begins after the end",
    421: "The Host header names another server",
    422: "The stored instance cannot be decoded",
    503: "Index or archive cannot be used, or too much is asked at a time: come again",
}
GATE: Final = (401, 403, 421)  # before every address but the open ones


@dataclass(frozen=True)
class Operation:
    """What an address takes and answers, beside what it names and what the gate refuses.

    Attributes
    ----------
    answers : HTTP status > media types of its body; none where it has no body
    errors : statuses whose body is `Error`
    parameters : names of `PARAMETERS`
    body : media types of the request
    model : name of the schema in `SCHEMAS` that answers in JSON have
    """

    answers: Mapping[int, Sequence[str]]
    errors: Sequence[int]
    parameters: Sequence[str] = ()
    body: Sequence[str] = ()
    model: str = ""


def _search(level: Level) -> Operation:
    return Operation({200: MODELS, 204: ()}, (400, 406, 503), searching(level), model="DataSets")


def _retrieve(*media_types: str, parameters: Sequence[str] = (), status: Sequence[int] = (200,), errors: Sequence[int] = ()) -> Operation:
    answers = {**dict.fromkeys(status, media_types), 304: ()}
    model = "DataSets" if DICOM_JSON in media_types else ""
    return Operation(answers, (400, 404, 406, 410, 422, 503, *errors), (*parameters, *ENTITY_HEADERS), model=model)


def _asked(*parameters: str, many: bool = False) -> Operation:
    """Of the API: something that is shown."""
    return Operation({200: (JSON,)}, (400, 404, 409, 503), parameters, model="Rows" if many else "State")


def _decided(*parameters: str) -> Operation:
    """Of the API: what a person decides."""
    return Operation({200: (JSON,)}, (400, 404, 409, 503), ("why", *parameters), model="State")


_STORE: Final = Operation(
    dict.fromkeys((200, 202, 409, 503), (DICOM_JSON, JSON, DICOM_XML)),
    (400, 406, 408, 413, 415, 503),
    ("accept",),
    (MULTIPART, DICOM),
    "DataSet",
)
_WORKITEM: Final = (400, 404, 408, 409, 413, 415, 503)
_DELETE: Final = Operation({204: ()}, (400, 404, 503), ("reason",))
_WADO_URI: Final = _retrieve(DICOM, JPEG, PNG, GIF, parameters=(*WADO_URI, *RANGE_HEADERS), status=(200, 206), errors=(416,))
_RENDERED: Final = _retrieve(JPEG, PNG, GIF, PDF, MULTIPART, parameters=RENDERING)
_INSTANCES: Final = _retrieve(MULTIPART, parameters=("accept",), status=(200, 206))

# By method and end of the address, with "" for the service itself.
OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("GET", ""): _WADO_URI,
    ("GET", "wado"): _WADO_URI,
    ("GET", "studies"): _search(Level.STUDY),
    ("GET", "series"): _search(Level.SERIES),
    ("GET", "instances"): _search(Level.IMAGE),
    ("GET", "{study}"): _INSTANCES,
    ("GET", "{series}"): _INSTANCES,
    ("GET", "{instance}"): _retrieve(MULTIPART, DICOM, parameters=("accept", *RANGE_HEADERS), status=(200, 206), errors=(416,)),
    ("GET", "metadata"): _retrieve(*MODELS, parameters=("accept",), status=(200, 206)),
    ("GET", "rendered"): _RENDERED,
    ("GET", "thumbnail"): _RENDERED,
    ("GET", "{frames}"): _retrieve(*FRAMES, parameters=("accept",)),
    ("GET", "{path}"): _retrieve(*FRAMES, "*/*", parameters=("accept", *RANGE_HEADERS), status=(200, 206), errors=(416,)),
    ("POST", "studies"): _STORE,
    ("POST", "{study}"): _STORE,
    ("GET", "workitems"): _search(Level.STUDY),
    ("POST", "workitems"): Operation({201: ()}, _WORKITEM, body=(DICOM_JSON, JSON)),
    ("GET", "{workitem}"): Operation({200: MODELS}, (400, 404, 406, 503), ("accept",), model="DataSets"),
    ("POST", "{workitem}"): Operation({200: ()}, _WORKITEM, ("transaction",), (DICOM_JSON, JSON)),
    ("PUT", "state"): Operation({200: ()}, _WORKITEM, ("transaction",), (DICOM_JSON, JSON)),
    ("POST", "cancelrequest"): Operation({202: ()}, _WORKITEM, body=(DICOM_JSON, JSON)),
    ("POST", "{aet}"): Operation({201: ()}, (400, 404, 503), ("deletionlock", "filter")),
    ("DELETE", "{aet}"): Operation({200: ()}, (400, 404, 503)),
    ("POST", "suspend"): Operation({200: ()}, (400, 404, 409, 503)),
    ("DELETE", "{study}"): _DELETE,
    ("DELETE", "{series}"): _DELETE,
    ("DELETE", "{instance}"): _DELETE,
    ("GET", "healthz"): Operation({200: (JSON,)}, (), model="Status"),
    ("GET", "readyz"): Operation({200: (JSON,), 503: (JSON,)}, (), model="Status"),
    ("GET", "metrics"): Operation({200: (TEXT,)}, (503,)),
    ("GET", "conformance"): Operation({200: (HTML,)}, ()),
    ("GET", "openapi.json"): Operation({200: (JSON,)}, ()),
    ("GET", "viewer"): Operation({200: (HTML,), 308: ()}, (404,)),
    ("GET", "{file}"): Operation({200: ("*/*",), 206: ("*/*",), 304: ()}, (404, 416)),
    ("GET", "api/studies"): _asked("match", "study_state", "tag", "limit", "offset", many=True),
    ("GET", "api/studies/{study}"): _asked(),
    ("GET", "api/studies/{study}/plan"): _asked(),
    ("GET", "api/jobs"): _asked("job_state", "kind", "of_study", "limit", many=True),
    ("GET", "api/jobs/{job}"): _asked(),
    ("GET", "api/quotas"): _asked(many=True),
    ("GET", "api/rules"): _asked(),
    ("GET", "api/peers"): _asked(many=True),
    ("GET", "api/releases"): _asked("name", many=True),
    ("GET", "api/releases/{release}"): _asked(),
    ("POST", "api/studies/{study}/rerun"): _decided("rule", "of_release"),
    ("POST", "api/studies/{study}/release"): _decided(),
    ("POST", "api/studies/{study}/choose"): _decided("rule", "model", "input", "of_candidates"),
    ("POST", "api/studies/{study}/feedback"): _asked(*FEEDBACK),
    ("POST", "api/jobs/{job}/retry"): _decided(),
    ("POST", "api/jobs/{job}/cancel"): _decided(),
}

_ATTRIBUTE: Final = {
    "type": "object",
    "required": ["vr"],
    "properties": {
        "vr": {"type": "string", "pattern": "^[A-Z]{2}$"},
        "Value": {"type": "array", "minItems": 1},
        "BulkDataURI": {"type": "string", "format": "uri"},
        "InlineBinary": {"type": "string"},
    },
    "additionalProperties": False,
}
SCHEMAS: Final[Mapping[str, Any]] = {
    "Error": {
        "type": "object",
        "description": "Why a request is refused, in one line; never with a patient's values.",
        "required": ["error"],
        "properties": {"error": {"type": "string", "minLength": 1, "pattern": r"^[^\r\n]+$"}},
        "additionalProperties": False,
    },
    "DataSet": {
        "type": "object",
        "description": "A data set in the DICOM JSON Model (PS3.18 F).",
        "patternProperties": {"^[0-9A-F]{8}$": _ATTRIBUTE},
        "additionalProperties": False,
    },
    "DataSets": {"type": "array", "items": {"$ref": "#/components/schemas/DataSet"}},
    "State": {"type": "object", "description": "What the command of the same name prints with --json."},
    "Rows": {"type": "array", "items": {"$ref": "#/components/schemas/State"}},
    "Status": {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string"}, "problems": {"type": "array", "items": {"type": "string"}}},
        "additionalProperties": False,
    },
}


def route(node: Node) -> Route:
    """The address of the document."""

    def page(request: Request) -> Response:
        return JSONResponse(document(request.app.routes, with_token=bool(node.config.web.tokens)))

    return Route(PATH, page)


def document(routes: Iterable[BaseRoute], *, with_token: bool) -> dict[str, Any]:
    """The document of these routes; ``with_token``: nobody gets an answer without one.

    Raises
    ------
    KeyError
        A route is not described.
    """
    paths: dict[str, dict[str, Any]] = {}
    for each in routes:
        if isinstance(each, Route) and not isinstance(each, PageRoute):
            path = each.path.replace(":path}", "}")
            for method in sorted((each.methods or set()) - {"HEAD"}):
                paths.setdefault(path, {})[method.lower()] = _described(method, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "dicom-node", "version": dicom_node.__version__, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"token": []}] if with_token else [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "parameters": dict(PARAMETERS),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def end_of(path: str) -> str:
    """What of an address tells the operation: its last segment; of the API, where words mean something else, all of it."""
    if path.startswith(f"{API}/"):
        return path[1:]
    return "" if path == PREFIX else path.rpartition("/")[2]


def _described(method: str, path: str) -> dict[str, Any]:
    from dicom_node.conformance.statement import RESOURCES

    operation, to_all = OPERATIONS[method, end_of(path)], is_open(path)
    names = [*(part[1:-1] for part in path.split("/") if part.startswith("{")), *operation.parameters]
    described: dict[str, Any] = {
        "summary": RESOURCES[method, end_of(path).replace("{path}", "{path:path}").replace("{file}", "{file:path}")],
        "operationId": f"{method} {path}",
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in names],
        "responses": _responses(operation, () if to_all else GATE),
    }
    if to_all:
        described["security"] = []
    if operation.body:
        described["requestBody"] = {"required": True, "content": {media_type: {} for media_type in operation.body}}
    return described


def _responses(operation: Operation, gate: Sequence[int]) -> dict[str, Any]:
    bodies: dict[int, dict[str, list[str]]] = {status: {} for status in operation.answers}
    for status, media_types in operation.answers.items():
        for media_type in media_types:
            bodies[status][media_type] = [operation.model] if operation.model and media_type in MODELS else []
    for status in (*operation.errors, *gate):
        bodies.setdefault(status, {}).setdefault(JSON, []).append("Error")
    return {str(status): _response(status, bodies[status]) for status in sorted(bodies)}


def _response(status: int, body: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": MEANINGS[status]}
    if body:
        described["content"] = {media_type: _schema(names) for media_type, names in body.items()}
    return described


def _schema(names: Sequence[str]) -> dict[str, Any]:
    references = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    if not references:
        return {}
    return {"schema": references[0] if len(references) == 1 else {"anyOf": references}}
