"""Who may ask what over HTTP: bearer tokens (RFC 6750), sessions, the Host and Origin of a request, the headers that every answer bears.

Where tokens are configured or there are accounts, a request needs a token or a session that has the right: ``read`` for GET, ``store`` for
POST and PUT, ``delete`` for DELETE, ``operate`` for what a person decides under /api; pages name their own. Where there are neither, only a
loopback address is listened on, and whoever reaches it may do all that; ``allow_anonymous`` lets everybody read and store anywhere.
A browser's session changes something only with its own token in the form or in a header.
A request without a token must name this node as its Host (a page from elsewhere whose name was made to lead here does not), and no page
of another origin gets an answer unless ``allowed_origins`` names it, or it is of this machine, no token is needed, and it only reads.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import quote

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.accounts import ADMINISTER, DELETE, OPERATE, READ, REPORT, STORE
from dicom_node.config import WebTable, is_loopback
from dicom_node.viewer import BASE
from dicom_node.web.dicomweb.errors import RETRY_AFTER, WebError, answer
from dicom_node.web.forged import SAFE, again, bears, is_form, whole_form
from dicom_node.web.identities import COOKIE, SECURE_COOKIE, SESSION, TOKEN, Identities, Principal
from dicom_node.web.reach import refusal
from storage import audit
from storage.database import Database
from storage.errors import IndexUnavailable

log = structlog.get_logger()

API: Final = "/api"
WORKITEMS: Final = "/dicom-web/workitems/"
RIGHT_OF_METHOD: Final[Mapping[str, str]] = {"GET": READ, "HEAD": READ, "OPTIONS": READ, "POST": STORE, "PUT": STORE, "DELETE": DELETE}
SIGN_IN: Final = "/sign-in"
PREFERENCES: Final = "/preferences"
STATIC: Final = "/static"
EVENTS: Final = "/events"
BY_ITSELF: Final = "x-by-itself"  # what a page's script sends along that asks without its reader
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", SIGN_IN, PREFERENCES})
PROGRAMS: Final = (API, "/dicom-web", "/wado", "/metrics", STATIC)  # what programs ask for; the rest are pages
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
ANONYMOUS: Final = "anonymous"
REFUSALS_NOTED_EVERY = 60.0  # seconds, for one address and reason: whoever guesses tokens must not fill the audit trail
ADDRESSES_REMEMBERED = 1000

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
CORS_METHODS: Final = "GET, HEAD, POST, PUT, DELETE"
CORS_HEADERS: Final = "Authorization, Content-Type, Accept, If-None-Match, Range"
CORS_EXPOSED: Final = "Warning, Location, ETag, Content-Range, Retry-After"


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered: HTTP status, one line, headers."""

    status: int
    why: str
    headers: Mapping[str, str] = field(default_factory=dict)
    suspicious: bool = False


class Authenticator:
    """Decides from a request's headers who asks, and whether that may be answered at all."""

    def __init__(self, settings: WebTable) -> None:
        self._tokens = [(_digest(token.token), Principal(token.name, frozenset(token.rights))) for token in settings.tokens]
        loopback = is_loopback(settings.host)
        # Deleting and deciding need somebody who can be named, or at least the machine itself.
        rights = {READ, REPORT, STORE, DELETE, OPERATE, ADMINISTER} if loopback and not self._tokens else {READ, STORE}
        open_to_all = (settings.allow_anonymous or (loopback and not self._tokens)) and not settings.sign_in
        self._anonymous = Principal(ANONYMOUS, frozenset(rights)) if open_to_all else None
        ours = (settings.host, socket.gethostname(), *settings.allowed_hosts)
        self._hosts = LOOPBACK_NAMES | {name.lower() for name in ours}
        self._origins = frozenset(settings.allowed_origins)
        # What a page of this machine may read there, the program that serves it can read anyway.
        self._local = loopback and not self._tokens and not settings.sign_in
        self.lets_anybody_in = settings.allow_anonymous and not settings.sign_in

    def identify(self, headers: Headers) -> Principal | Refusal:
        """Who asks, by the Authorization header."""
        given = headers.get("authorization")
        if given is not None:
            scheme, _, value = given.partition(" ")
            found = self._find(value.strip()) if scheme.lower() == "bearer" else None
            return found or _unauthorized("the token is not one of this node's", error="invalid_token")
        if self._anonymous is None:
            return _unauthorized("a token is needed: Authorization: Bearer ...")
        if not self.names_us(headers.get("host", "")):
            return Refusal(421, "the Host header names another server; see [web] allowed_hosts", suspicious=True)
        return self._anonymous

    def names_us(self, host: str) -> bool:
        """Whether a Host header can be meant for this node: an address, or one of its names."""
        name = host_name(host)
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def origin_is_foreign(self, headers: Headers, method: str) -> bool:
        """Whether a page of another origin asks that is not allowed to; a page of this machine may read where no token is needed."""
        origin = headers.get("origin")
        if origin is None or origin in self._origins:
            return False
        asked = headers.get("access-control-request-method", method) if method == "OPTIONS" else method
        if self._is_local(origin) and RIGHT_OF_METHOD.get(asked) == READ:
            return False
        return origin.partition("://")[2].lower() != headers.get("host", "").lower()

    def allows_origin(self, origin: str | None) -> bool:
        """Whether answers to this origin say that its pages may read them."""
        return origin is not None and (origin in self._origins or self._is_local(origin))

    def _is_local(self, origin: str) -> bool:
        """Whether only this machine is listened to, everybody on it may read, and the page is of it too."""
        scheme, _, host = origin.partition("://")
        return self._local and scheme in ("http", "https") and host_name(host) in LOOPBACK_NAMES

    def _find(self, value: str) -> Principal | None:
        digest, found = _digest(value), None
        for known, principal in self._tokens:  # all of them, always: the time taken tells nothing
            if hmac.compare_digest(known, digest):
                found = principal
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _unauthorized(why: str, *, error: str = "") -> Refusal:
    challenge = 'Bearer realm="dicom-node"' + (f', error="{error}"' if error else "")
    return Refusal(401, why, {"WWW-Authenticate": challenge}, suspicious=bool(error))


def right_of(method: str, path: str) -> str:
    """What a request needs the right to."""
    if not _of_programs(path):
        return READ  # a page says itself what it needs more
    right = RIGHT_OF_METHOD.get(method, READ)
    if right == DELETE and path.startswith(WORKITEMS):
        right = STORE  # a subscription ends: nothing stored goes
    if right != READ and path.startswith(f"{API}/"):
        return REPORT if path.endswith("/feedback") else OPERATE
    return right


def is_open(path: str) -> bool:
    """Whether an address is for everybody: health, signing in, style and script, and the viewer's files; no patient's data are in them."""
    return path in OPEN_PATHS or path == BASE or path.startswith((f"{BASE}/", f"{STATIC}/"))


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".") if host.count(":") < 2 else host


def _answer(refusal: Refusal) -> Response:
    return answer(refusal.status, refusal.why, refusal.headers)


def principal_of(request: Request) -> Principal:
    """Who makes a request that the gate let through."""
    principal: Principal = request.scope["state"]["principal"]
    return principal


class Gate:
    """ASGI middleware before everything but health: security headers, Origin, Host, token, right, CORS.

    What is let through finds its `Principal` as ``request.state.principal``.
    """

    def __init__(self, app: ASGIApp, settings: WebTable, database: Database, identities: Identities) -> None:
        self._app = app
        self._authenticator = Authenticator(settings)
        self._identities = identities
        self._database = database
        self._refusals = RefusalTrail(database)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            scope["method"] = "GET"  # what its opening handshake is (RFC 6455 4.1)
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed_origin = origin if self._authenticator.allows_origin(origin) else None

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                _complete(MutableHeaders(scope=message), allowed_origin)
            await send(message)

        admitted = await self._admit(scope, headers, receive)
        if isinstance(admitted, Response):
            await admitted(scope, receive, send_with_headers)
        else:
            await self._app(scope, admitted, send_with_headers)

    async def _admit(self, scope: Scope, headers: Headers, receive: Receive) -> Response | Receive:
        """Why a request is not answered, or what its body is read from."""
        open_to_all = is_open(scope["path"])
        if open_to_all and scope["method"] in SAFE and not _starts_viewer(scope, headers):
            return receive
        if self._authenticator.origin_is_foreign(headers, scope["method"]):
            return _answer(Refusal(403, "pages of this origin may not ask; see [web] allowed_origins"))
        if open_to_all and scope["method"] not in SAFE:
            body = await self._form(receive)
            return body if isinstance(body, Response) else again(body, receive)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            preflight = {"Access-Control-Allow-Methods": CORS_METHODS, "Access-Control-Allow-Headers": CORS_HEADERS}
            return Response(status_code=204, headers={**preflight, "Access-Control-Max-Age": "600"})
        try:
            found = await self._who(headers, by_person=not _by_itself(scope["path"], headers))
        except IndexUnavailable as error:
            found = Refusal(503, str(error), RETRY_AFTER)
        if isinstance(found, Refusal):
            return await self._refuse(scope, headers, found)
        right = right_of(scope["method"], scope["path"])
        if not found.may(right):
            challenge = {"WWW-Authenticate": 'Bearer realm="dicom-node", error="insufficient_scope"'}
            return await self._refuse(
                scope, headers, Refusal(403, f"'{found.name}' has not the right to {right}", challenge, suspicious=True)
            )
        if found.limits and (beyond := await self._beyond(scope, found)):
            return await self._refuse(scope, headers, beyond)
        if scope["method"] not in SAFE and (is_form(headers) or not _of_programs(scope["path"])):
            form = await self._form(receive)
            if isinstance(form, Response):
                return form
            receive = again(form, receive)
        else:
            form = b""
        if found.csrf and scope["method"] not in SAFE and not bears(headers, form, found.csrf):
            why = "the form is not one of this session's; open the page again"
            return await self._refuse(scope, headers, Refusal(403, why, suspicious=True))
        state = scope.setdefault("state", {})
        state["principal"], state["csrf_token"], state["note_refusal"] = found, found.csrf, self._refusals.note
        return receive

    async def _who(self, headers: Headers, *, by_person: bool) -> Principal | Refusal:
        """Who asks: by token, by session, or anybody where that is allowed."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme:
            found = self._authenticator.identify(headers)
            if isinstance(found, Refusal) and scheme.lower() == "bearer" and token.strip():
                known, own = self._identities.remembered(TOKEN, token.strip())
                own = own if known else await run_in_threadpool(self._identities.of_token, token.strip())
                return own or found
            return found
        secret = session_of(headers)
        if secret is not None:
            known, own = self._identities.remembered(SESSION, secret, by_person=by_person)
            own = own if known else await run_in_threadpool(partial(self._identities.of_session, secret, by_person=by_person))
            if own is not None:
                return own
        if not self._authenticator.lets_anybody_in and await self._accounts_exist():
            if secret is not None:
                return _unauthorized("the session has ended, or is none of this node's", error="invalid_token")
            return _unauthorized("sign in, or send a token: Authorization: Bearer ...")
        return self._authenticator.identify(headers)

    async def _beyond(self, scope: Scope, found: Principal) -> Refusal | None:
        """Why somebody who is limited gets no answer there."""
        try:
            why = await run_in_threadpool(refusal, self._database, found, scope["method"], scope["path"], scope["query_string"])
        except IndexUnavailable as error:
            return Refusal(503, str(error), RETRY_AFTER)
        missing = why == "no such study"  # noted already where there is one
        return Refusal(404 if missing else 403, why, suspicious=not missing) if why else None

    async def _form(self, receive: Receive) -> bytes | Response:
        """A form, or why it is not taken; who did not send the whole of it is not waited for."""
        try:
            return await whole_form(receive)
        except WebError as error:
            return answer(error.status, str(error), {"Connection": "close"})

    async def _accounts_exist(self) -> bool:
        known = self._identities.accounts_known()
        return await run_in_threadpool(self._identities.accounts_exist) if known is None else known

    async def _refuse(self, scope: Scope, headers: Headers, refusal: Refusal) -> Response:
        if refusal.suspicious:
            address = scope["client"][0] if scope.get("client") else ""
            await self._refusals.note(address, refusal.why)
        looked_at = scope["method"] == "GET" and scope["type"] == "http" and _is_page(scope["path"], headers)
        if looked_at and refusal.status == 401:
            target = quote(scope["path"] + (f"?{scope['query_string'].decode('ascii', 'replace')}" if scope["query_string"] else ""))
            return RedirectResponse(f"{SIGN_IN}?next={target}", status_code=303)
        return _answer(refusal)


def session_of(headers: Headers) -> str | None:
    """What the session's cookie holds."""
    cookies = cookie_parser(headers.get("cookie", ""))
    return cookies.get(SECURE_COOKIE) or cookies.get(COOKIE)


def _by_itself(path: str, headers: Headers) -> bool:
    """Whether an open page asks without anybody doing anything: it listens, or takes in what changed with its pictures."""
    return path == EVENTS or BY_ITSELF in headers or headers.get("sec-fetch-dest") == "image"


def _is_page(path: str, headers: Headers) -> bool:
    """Whether a browser goes somewhere to look at it, and is to be asked who sits before it."""
    return "text/html" in headers.get("accept", "") and not _of_programs(path)


def _of_programs(path: str) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in PROGRAMS)


def _starts_viewer(scope: Scope, headers: Headers) -> bool:
    """Whether the viewer is opened without a token of its own: what it is going to ask for needs a session."""
    path: str = scope["path"]
    in_viewer = path == BASE or path.startswith(f"{BASE}/")
    return in_viewer and scope["method"] == "GET" and "text/html" in headers.get("accept", "") and b"token=" not in scope["query_string"]


def _complete(headers: MutableHeaders, allowed_origin: str | None) -> None:
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if allowed_origin is not None:
        headers["Access-Control-Allow-Origin"] = allowed_origin
        headers["Access-Control-Expose-Headers"] = CORS_EXPOSED
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        headers.add_vary_header("Origin")


class RefusalTrail:
    """Audit rows and log lines for refusals, at most one a minute for an address and a reason; the next one counts those between."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._last: dict[str, tuple[float, int]] = {}

    async def note(self, address: str, why: str) -> None:
        count = self._due(f"{address} {why}", time.monotonic())
        if count:
            log.warning("web.refused", address=address, why=why, count=count)
            await run_in_threadpool(self._record, address, why, count)

    def _due(self, key: str, now: float) -> int:
        """How many refusals are to be noted now; 0: later."""
        with self._lock:
            at, count = self._last.get(key, (-REFUSALS_NOTED_EVERY, 0))
            if now - at < REFUSALS_NOTED_EVERY:
                self._last[key] = (at, count + 1)
                return 0
            if len(self._last) >= ADDRESSES_REMEMBERED:
                del self._last[next(iter(self._last))]
            self._last[key] = (now, 0)
            return count + 1

    def _record(self, address: str, why: str, count: int) -> None:
        try:
            with self._database.begin(durable=False) as connection:
                audit.record(connection, "token.refused", actor=address, detail={"why": why, "count": count})
        except IndexUnavailable as error:
            log.warning("web.refusal_not_recorded", why=str(error))
