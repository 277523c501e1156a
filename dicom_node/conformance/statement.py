"""What the conformance statement says, from the tables that the code itself works by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydicom.uid import UID
from starlette.routing import Route, WebSocketRoute

import dicom_node
from dicom_node.conformance.document import Document, Section, Table
from dicom_node.conformance.sources import Registered
from dicom_node.dimse import contexts
from dicom_node.dimse.message import C_FIND_RQ, N_ACTION_RQ, N_CREATE_RQ, N_GET_RQ, N_SET_RQ
from dicom_node.dimse.services import store, workitems
from dicom_node.transcode import targets
from dicom_node.web.authentication import is_open, right_of
from dicom_node.web.dicomweb.stow_answer import OTHERS, TRANSFER_SYNTAX_NOT_SUPPORTED
from dicom_node.web.openapi import end_of
from storage.attributes import ATTRIBUTES, Level

# By the name of a service's class: what it is called, and what it does.
SERVICES: Final = {
    "EchoService": ("Verification", "C-ECHO"),
    "StoreService": ("Storage", "C-STORE; Success is answered when bytes and index row are durable (level 2, full)"),
    "FindService": ("Query", "C-FIND"),
    "MoveService": ("Retrieve", "C-MOVE; the sub-operations' C-STORE is requested from configured peers only"),
    "GetService": ("Retrieve", "C-GET"),
    "WorkitemService": ("Unified Procedure Step", "N-CREATE, N-GET, N-SET, N-ACTION, C-FIND; each SOP class those of PS3.4 table CC.2-1"),
    "WorkitemEventService": ("Unified Procedure Step events", "N-EVENT-REPORT to subscribers, on their association or on one of our own"),
    "CommitmentService": ("Storage Commitment Push Model", "N-ACTION; N-EVENT-REPORT on the same or a new association"),
}
# What the node itself asks of others.
PROPOSED: Final = (
    ("Verification", "C-ECHO", "to see whether a peer answers"),
    ("Storage", "C-STORE", "results, and what is retrieved from here: each instance's own SOP class and transfer syntax"),
    ("Query/Retrieve", "C-FIND, C-MOVE", "for the earlier study with which a model compares, at peers with priors = true"),
    ("Query/Retrieve", "C-MOVE, C-GET", "at the operator's command"),
    ("Storage Commitment Push Model", "N-ACTION", "for deliveries to a peer with commitment = true"),
)
# What the node asks associations for to be the provider on them (role selection, PS3.7 D.3.3.4).
PROVIDED: Final = (
    ("Storage Commitment Push Model", "N-EVENT-REPORT", "a report that the association which asked for it did not take"),
    ("Unified Procedure Step - Event", "N-EVENT-REPORT", "reports for a subscriber that has no association with this SOP class open"),
)
STORE_STATUSES: Final = (
    (store.SUCCESS, "stored; or the same instance is here already; or it is a result of this node"),
    (store.COERCION_OF_DATA_ELEMENTS, "other content under a known UID, kept in quarantine (archive.conflict = warn)"),
    (store.OUT_OF_RESOURCES, "no space, archive read-only, or the index is away"),
    (store.DATA_SET_DOES_NOT_MATCH, "the data set is not the instance that was announced, or of another study than the request's"),
    (store.CANNOT_UNDERSTAND, "the data set cannot be read; it is kept in quarantine"),
    (store.CONFLICT, "other content under a known UID, kept in quarantine"),
    (store.PROCESSING_FAILURE, "anything else that went wrong"),
    (store.SOP_CLASS_NOT_SUPPORTED, "the SOP class is no storage class, or not that of the presentation context"),
    (store.NOT_AUTHORIZED, "this AE title may not store here"),
    (TRANSFER_SYNTAX_NOT_SUPPORTED, "STOW-RS only: the transfer syntax is not supported"),
)
# The end of an address below /dicom-web > what it is and what it is made of.
RESOURCES: Final = {
    ("GET", ""): "WADO-URI: application/dicom, image/jpeg, image/png, image/gif",
    ("GET", "wado"): "WADO-URI: application/dicom, image/jpeg, image/png, image/gif",
    ("GET", "studies"): "QIDO-RS: application/dicom+json",
    ("GET", "series"): "QIDO-RS: application/dicom+json",
    ("GET", "instances"): "QIDO-RS: application/dicom+json",
    ("GET", "{study}"): 'WADO-RS: multipart/related; type="application/dicom"',
    ("GET", "{series}"): 'WADO-RS: multipart/related; type="application/dicom"',
    ("GET", "{instance}"): 'WADO-RS: multipart/related; type="application/dicom", application/dicom',
    ("GET", "metadata"): "WADO-RS: application/dicom+json",
    ("GET", "rendered"): "WADO-RS: image/jpeg, image/png, image/gif; window, viewport, quality; application/pdf of an encapsulated PDF",
    ("GET", "thumbnail"): "WADO-RS: image/jpeg, image/png, image/gif; window, viewport, quality; application/pdf of an encapsulated PDF",
    ("GET", "{frames}"): "WADO-RS: multipart/related or single part; application/octet-stream, or the image's own media type",
    ("GET", "{path:path}"): "WADO-RS bulk data: application/octet-stream; a video as a stream, an encapsulated document as what they are",
    ("POST", "studies"): 'STOW-RS: multipart/related; type="application/dicom", application/dicom',
    ("POST", "{study}"): 'STOW-RS, of this study only: multipart/related; type="application/dicom", application/dicom',
    ("GET", "workitems"): "UPS-RS, search: application/dicom+json",
    ("POST", "workitems"): "UPS-RS, create: application/dicom+json",
    ("GET", "{workitem}"): "UPS-RS, retrieve: application/dicom+json",
    ("POST", "{workitem}"): "UPS-RS, update: application/dicom+json",
    ("PUT", "state"): "UPS-RS, change state: application/dicom+json",
    ("POST", "cancelrequest"): "UPS-RS, request cancellation: application/dicom+json",
    ("POST", "{aet}"): "UPS-RS, subscribe; filtered too; with deletion lock",
    ("DELETE", "{aet}"): "UPS-RS, unsubscribe",
    ("POST", "suspend"): "UPS-RS, suspend a global subscription",
    ("GET", "{aet}"): "event reports of workitems over a WebSocket: DICOM JSON, one report a text frame",
    ("DELETE", "{study}"): "delete, not of the standard",
    ("DELETE", "{series}"): "delete, not of the standard",
    ("DELETE", "{instance}"): "delete, not of the standard",
    ("GET", "viewer"): "the viewer, where it is installed",
    ("GET", "{file:path}"): "the viewer's files",
    ("GET", "api/studies"): "studies, latest received first",
    ("GET", "api/studies/{study}"): "a study's story: received, complete, selected, run, delivered",
    ("GET", "api/studies/{study}/plan"): "what the rules make of a study",
    ("GET", "api/jobs"): "jobs, newest first",
    ("GET", "api/jobs/{job}"): "a job and its history",
    ("GET", "api/quotas"): "how far each source has used its quotas, and what waits for its turn",
    ("GET", "api/rules"): "the rules in use",
    ("GET", "api/peers"): "peers, and how deliveries to them stand",
    ("GET", "api/releases"): "releases of models and their states",
    ("GET", "api/releases/{release}"): "all about a release",
    ("POST", "api/studies/{study}/rerun"): "run a complete study's models once more",
    ("POST", "api/studies/{study}/release"): "let a study go on that a rule holds",
    ("POST", "api/studies/{study}/choose"): "say which of several series is meant that fit a model equally well",
    ("POST", "api/studies/{study}/feedback"): "accept, modify or reject what a model found",
    ("POST", "api/jobs/{job}/retry"): "give a job a new set of attempts",
    ("POST", "api/jobs/{job}/cancel"): "cancel a job",
    ("GET", "healthz"): "the process answers",
    ("GET", "readyz"): "index and archive can be used",
    ("GET", "metrics"): "Prometheus text",
    ("GET", "conformance"): "this statement",
    ("GET", "openapi.json"): "these addresses as an OpenAPI 3.1 document: parameters, media types, answers, errors",
}

# What PS3.18 has and this node has not > how a request for it is answered.
NOT_SUPPORTED: Final = (
    ("search and metadata as application/dicom+xml", "406; application/dicom+json is sent"),
    ("rendered video, animated image/gif, image/jp2, text/html of a report", "406; images as image/jpeg, image/png and image/gif"),
    ("rendered with annotation, iccprofile or a presentation state", "400"),
    ("several ranges of bytes in one request", "200 with the whole body"),
    ("STOW-RS of metadata and bulk data (application/dicom+json, application/dicom+xml)", "415"),
    ("STOW-RS that changes what is stored", "409; other content under a known UID goes to quarantine"),
    ("WADO-URI with annotation, anonymize or a presentation state", "400"),
    ("non-patient instances, storage commitment over HTTP, retrieve capabilities", "404, 405"),
)


def statement(registered: Registered) -> Document:
    """The statement of a node."""
    title = f"DICOM conformance statement of dicom-node {dicom_node.__version__}"
    text = [
        "Generated from the services, addresses and tables that the program works by. Research software; not a medical device.",
        f"AE title {registered.config.node.ae_title}; DIMSE on port {registered.config.dimse.port}, "
        f"HTTP on {registered.config.web.host} port {registered.config.web.port}.",
    ]
    sections = [_served(registered), _proposed(), *_classes(registered), _syntaxes(registered), _negotiation(registered)]
    web = [_web(registered), _stow(), _not_supported(), _security(registered)]
    return Document(title, text, [*sections, _workitems(), _attributes(), _statuses(), *web])


def name_of(uid: str) -> str:
    """A UID's name, or nothing for a private one."""
    name = str(UID(uid).name)
    return "" if name == uid else name


def _by_service(registered: Registered) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for uid, service in registered.services.items():
        grouped[type(service).__name__].append(uid)
    return {kind: sorted(uids, key=_order) for kind, uids in grouped.items()}


def _order(uid: str) -> list[int]:
    return [int(part) for part in uid.split(".") if part.isdigit()]


def _service(kind: str) -> tuple[str, str]:
    return SERVICES.get(kind, (kind.removesuffix("Service"), ""))


def _served(registered: Registered) -> Section:
    rows = []
    for kind, uids in _by_service(registered).items():
        title, operation = _service(kind)
        rows.append([title, operation, "SCP", str(len(uids))])
    return Section("Services provided", tables=[Table(["service", "operations", "role", "SOP classes"], rows)])


def _proposed() -> Section:
    rows = [[service, operation, "SCU", when] for service, operation, when in PROPOSED]
    rows += [[service, operation, "SCP", when] for service, operation, when in PROVIDED]
    rows.append(["DICOMweb", "QIDO-RS, WADO-RS", "user agent", "the same, at peers with a dicomweb address"])
    return Section("Services used", tables=[Table(["service", "operations", "role", "when"], rows)])


def _classes(registered: Registered) -> Iterable[Section]:
    for kind, uids in _by_service(registered).items():
        title, operation = _service(kind)
        rows = [[name_of(uid), uid] for uid in uids]
        heading = f"SOP classes: {title}" + (f" ({operation.split(';')[0]})" if operation else "")
        yield Section(heading, tables=[Table(["SOP class", "UID"], rows)])


def _syntaxes(registered: Registered) -> Section:
    rows = []
    for uid in (*contexts.TRANSFER_SYNTAXES, *registered.config.dimse.extra_transfer_syntaxes):
        rows.append([name_of(uid), uid, ", ".join(name_of(each) or each for each in targets(uid) if each != uid) or "-"])
    text = ["All are taken for storage; instances are kept as they came, and leave as stored or changed without loss where that is asked."]
    return Section("Transfer syntaxes", text, [Table(["transfer syntax", "UID", "can be changed to"], rows)])


def _negotiation(registered: Registered) -> Section:
    dimse = registered.config.dimse
    rows = [
        ["application context", contexts.APPLICATION_CONTEXT],
        ["largest PDU received", f"{dimse.max_pdu} bytes"],
        ["associations at a time", f"{dimse.max_associations}, {dimse.max_associations_per_address} of one address"],
        ["asynchronous operations", "1 invoked, 1 performed"],
        ["callers that are no peer", dimse.unknown_peers],
        ["called AE title checked", "yes" if dimse.check_called_ae_title else "no"],
        ["TLS", "yes" if dimse.tls else "no"],
        ["largest number of parts, bytes of a part, bytes of a request (STOW-RS)", _limits(registered)],
    ]
    return Section("Associations and limits", tables=[Table(["what", "value"], rows)])


def _limits(registered: Registered) -> str:
    web = registered.config.web
    return f"{web.max_parts}, {web.max_part_size}, {web.max_request_size}"


def _workitems() -> Section:
    """What each SOP class of workitems is for here (PS3.4 table CC.2-1)."""
    rows = []
    for uid, operations in workitems.OPERATIONS.items():
        named = [name for field, name in _OPERATIONS.items() if field in operations]
        actions = ", ".join(_ACTIONS[action] for action in sorted(workitems.ACTIONS.get(uid, ())))
        rows.append([name_of(uid), uid, ", ".join(named), actions])
    rows.append([name_of(contexts.UPS_EVENT), contexts.UPS_EVENT, "N-EVENT-REPORT", ""])
    text = [
        "The SOP class of a workitem is UPS Push in every request. Peers with may_query read and watch, those with may_manage_workitems do "
        "everything. A run of this node that waits may be claimed; what its performer stores here and lists is its result."
    ]
    return Section("Workitems", text, [Table(["SOP class", "UID", "operations", "actions"], rows)])


_OPERATIONS: Final = {
    N_CREATE_RQ: "N-CREATE",
    N_GET_RQ: "N-GET",
    N_SET_RQ: "N-SET",
    N_ACTION_RQ: "N-ACTION",
    C_FIND_RQ: "C-FIND",
}
_ACTIONS: Final = {
    1: "1 change state",
    2: "2 request cancel",
    3: "3 subscribe",
    4: "4 unsubscribe",
    5: "5 suspend global subscription",
}


def _attributes() -> Section:
    text = ["Matched and returned by C-FIND and QIDO-RS; those from header JSON are looked at once other keys have narrowed a query."]
    rows = []
    for level in Level:
        found = sorted((each for each in ATTRIBUTES.values() if each.level is level), key=lambda each: each.tag)
        rows += [[str(level), _tag(each.tag), each.keyword, each.vr, str(each.source.value)] for each in found]
    return Section("Attributes", text, [Table(["level", "tag", "attribute", "VR", "from"], rows)])


def _tag(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _statuses() -> Section:
    rows = [[f"{status:04X}", meaning] for status, meaning in STORE_STATUSES]
    return Section("Statuses of Storage", ["Of C-STORE, and failure and warning reasons of STOW-RS."], [Table(["status", "meaning"], rows)])


def _web(registered: Registered) -> Section:
    rows = [row for route in registered.routes if isinstance(route, Route | WebSocketRoute) for row in _addresses(route)]
    return Section("Addresses", tables=[Table(["method", "address", "what", "right"], rows)])


def _addresses(route: Route | WebSocketRoute) -> Iterable[Sequence[str]]:
    for method in sorted(methods_of(route)):
        if method == "HEAD":
            continue
        right = "none" if is_open(route.path) else right_of(method, route.path)
        yield [method, route.path.replace(":path", ""), _what(method, route), right]


def methods_of(route: Route | WebSocketRoute) -> set[str]:
    """The methods of a route; a WebSocket is opened by GET."""
    return {"GET"} if isinstance(route, WebSocketRoute) else route.methods or set()


def _what(method: str, route: Route | WebSocketRoute) -> str:
    known = RESOURCES.get((method, end_of(route.path)))
    document: Any = getattr(route.endpoint, "__doc__", None)
    return known or (str(document).strip().partition("\n")[0] if document else "")


def _stow() -> Section:
    rows = [
        ["200", "every instance is stored"],
        ["202", "some are stored, others failed or have a warning"],
        ["400", "the request cannot be read"],
        ["401, 403", "a token is needed, or has not the right"],
        ["406, 415", "media types that are not supported"],
        ["408, 413", "too slow, too large, too many parts"],
        ["409", "none is stored; each has its reason"],
        ["503", "no space, the index is away, or too many uploads: come again"],
    ]
    text = [
        "Answers are application/dicom+json or application/dicom+xml; BulkDataURI is never followed; preambles are zeroed. "
        f"What was no instance at all stands in Other Failures Sequence ({OTHERS[:4]},{OTHERS[4:]})."
    ]
    return Section("STOW-RS", text, [Table(["HTTP status", "meaning"], rows)])


def _not_supported() -> Section:
    text = ["Searches match and return the attributes above; what a Warning header of an answer names was not matched."]
    return Section("DICOMweb: not supported", text, [Table(["what", "answer"], NOT_SUPPORTED)])


def _security(registered: Registered) -> Section:
    web = registered.config.web
    rows = [
        ["tokens", "bearer tokens (RFC 6750)" if web.tokens else "none"],
        ["without a token", "allowed" if web.allow_anonymous or not web.tokens else "refused"],
        ["deletion", "allowed to whoever has the right" if web.allow_delete else "not offered"],
        ["other origins", ", ".join(web.allowed_origins) or "none"],
    ]
    return Section("Security of HTTP", tables=[Table(["what", "value"], rows)])
